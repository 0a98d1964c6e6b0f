"""The health of an endpoint, and the circuit breaker that leaves a failing one alone."""

from collections.abc import Callable
from typing import Literal

import msgspec

FAILURES_TO_OPEN = 3
"""In a row; one lost answer is no outage."""
FIRST_COOLDOWN_SECONDS = 1.0
MAX_COOLDOWN_SECONDS = 30.0

CircuitState = Literal["closed", "open", "half-open"]


class EndpointHealth(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of an endpoint at this moment."""

    host: str
    """Scheme, host and port: no secret."""
    kind: Literal["http", "ws"]
    usable: bool
    """Reads may go there: on our chain, circuit closed, not lagging."""
    refused: str | None
    """Why it is never used again."""
    circuit: CircuitState
    latency_seconds: float | None
    """Of light questions, the newest weighing most; None before the first answer."""
    error_rate: float
    """0 to 1: requests without an answer, or with that of a sick node, the newest weighing most."""
    head: int | None
    lag: int
    """Blocks behind the best head of all that is believed, when its own head was last seen."""


class Circuit:
    """Opens after failures in a row, for ever longer; a probe that is answered closes it."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._failures = 0
        self._cooldown = 0.0
        self.until: float | None = None
        """On the monotonic clock, when a probe is due; None: closed."""

    @property
    def state(self) -> CircuitState:
        if self.until is None:
            return "closed"
        return "open" if self._monotonic() < self.until else "half-open"

    def failed(self) -> None:
        """Count a lost answer. What fails while the circuit is open says nothing new."""
        self._failures += 1
        state = self.state
        if state == "half-open" or (state == "closed" and self._failures >= FAILURES_TO_OPEN):
            doubled = max(FIRST_COOLDOWN_SECONDS, 2 * self._cooldown)
            self._cooldown = min(doubled, MAX_COOLDOWN_SECONDS)
            self.until = self._monotonic() + self._cooldown

    def answered(self) -> None:
        """End a row of failures. An open circuit stays open: only a probe closes it."""
        self._failures = 0

    def close(self) -> None:
        """A probe was answered."""
        self._failures, self._cooldown, self.until = 0, 0.0, None
