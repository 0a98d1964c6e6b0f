"""How long to wait before the next try."""

from saga.policy import Policy


def delay(policy: Policy, tries: int, jitter: float) -> float:
    """Seconds to wait when `tries` had failed before: full jitter over an exponential backoff.

    `jitter` is a random number in [0, 1). The floor of a tenth of the span keeps a fleet from
    spinning. Source of the rule: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    span = min(policy.retry_max_seconds, policy.retry_base_seconds * 2.0 ** min(tries, 30))
    return float(span * (0.1 + 0.9 * jitter))
