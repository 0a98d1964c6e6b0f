"""What is away is said at once, then every ten seconds, whoever meets it; and once when it is back.

SIDE EFFECTS: log lines.
"""

import time
from collections.abc import Callable

import structlog

from saga.errors import ChainUnavailableError, StoreUnavailableError

AGAIN_SECONDS = 10.0
"""Between two lines about the same thing, however often it comes and goes."""
_log = structlog.get_logger("saga")


class Outage:
    """One thing that may be away. `gone` and `back` are the events of its lines."""

    def __init__(
        self, gone: str, back: str, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._gone, self._back = gone, back
        self._monotonic = monotonic
        self._since: float | None = None
        self._said_at: float | None = None
        self._told = False

    def met(self, reason: str) -> None:
        """Somebody has found it away."""
        now = self._monotonic()
        if self._since is None:
            self._since = now
        if self._said_at is None or now - self._said_at >= AGAIN_SECONDS:
            self._said_at, self._told = now, True
            _log.warning(self._gone, error=reason, seconds=round(now - self._since))

    def over(self) -> None:
        """It answers. An outage that was never told ends without a line too."""
        if self._told and self._since is not None:
            _log.info(self._back, seconds=round(self._monotonic() - self._since))
        self._since, self._told = None, False


class Outages:
    """What a process depends on; all its parts share these."""

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.redis = Outage("redis.unavailable", "redis.back", monotonic=monotonic)
        self.chain = Outage("chain.unavailable", "chain.back", monotonic=monotonic)

    def met(self, error: StoreUnavailableError | ChainUnavailableError) -> None:
        outage = self.redis if isinstance(error, StoreUnavailableError) else self.chain
        outage.met(str(error))
