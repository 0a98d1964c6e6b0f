"""How long to wait before the next try."""

from saga.policy import Backoff

LEAST_SECONDS = 0.1
"""No wait is shorter, unless all of them are meant to be: nothing spins."""
_DOUBLINGS = 30
"""More of them are no longer wait: 2^30 s are 34 years."""


def delay(backoff: Backoff, tries: int, jitter: float) -> float:
    """Seconds to wait when `tries` had failed before: anything up to min(cap, base · 2^tries).

    `jitter` is a random number in [0, 1). Source of the rule, full jitter: "Exponential Backoff
    And Jitter", AWS Architecture Blog, 2015.
    """
    span = min(backoff.cap_seconds, backoff.base_seconds * 2.0 ** min(tries, _DOUBLINGS))
    return min(span, max(LEAST_SECONDS, span * jitter))
