"""What the engine tells the outside about a saga: spans, logs and counts, behind one port."""

from contextlib import AbstractContextManager
from typing import Protocol

from saga.actions import Outcome
from saga.messages import Identity
from saga.model import Saga


class Span(Protocol):
    """One attempt of one step, while it runs."""

    def outcome(self, before: Saga, after: Saga, action: Outcome) -> None:
        """The attempt moved the saga."""

    def retry(self, saga: Saga, reason: str, *, hold: str | None = None) -> None:
        """The attempt ended without a move; a hold is no error. `hold`: what holds it."""


class Telemetry(Protocol):
    """Emits; never blocks and never raises into the saga."""

    def traceparent(self, identity: Identity) -> str:
        """The W3C traceparent of the saga's root span: the same for every call."""

    def admitted(self, saga: Saga) -> None: ...

    def duplicate(self, saga_id: str) -> None: ...

    def attempt(self, saga: Saga) -> AbstractContextManager[Span]:
        """A span from now to the end of the block; the saga's log context with it."""

    def ended(self, saga: Saga) -> None: ...
