"""The settings that decisions depend on, as plain data."""

from collections.abc import Mapping
from typing import TypeVar

import msgspec

N = TypeVar("N", int, float)


class Backoff(msgspec.Struct, frozen=True, kw_only=True):
    """How failed tries are repeated."""

    max_retries: int
    """After the first try."""
    base_seconds: float
    cap_seconds: float


class Override(msgspec.Struct, frozen=True, kw_only=True):
    """What differs in one state. None: as everywhere."""

    max_retries: int | None = None
    base_seconds: float | None = None
    cap_seconds: float | None = None


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What `decide` and the engine may know of the configuration."""

    network: str
    """The name that events carry."""
    min_improvement_percent: float = 0.0
    max_message_bytes: int = 65536
    max_retries: int = 3
    retry_base_seconds: float = 1.0
    retry_max_seconds: float = 60.0
    retry_overrides: Mapping[str, Override] = {}
    """By state."""
    max_crashes: int = 5
    """Crashes under a saga in one state that make it poison; 0: never."""

    def backoff(self, state: str) -> Backoff:
        """How what fails in a state is repeated."""
        given = self.retry_overrides.get(state, Override())
        return Backoff(
            max_retries=_either(given.max_retries, self.max_retries),
            base_seconds=_either(given.base_seconds, self.retry_base_seconds),
            cap_seconds=_either(given.cap_seconds, self.retry_max_seconds),
        )


def _either(given: N | None, otherwise: N) -> N:
    return otherwise if given is None else given
