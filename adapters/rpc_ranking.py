"""Which of several endpoints is read, and which head they are measured by. Pure."""

from collections.abc import Iterable, Sequence

from adapters.rpc_endpoint import Endpoint

CLEARLY_BETTER = 1.5
CLEARLY_BETTER_SECONDS = 0.02
"""Reads move to another endpoint if it costs less by that factor and by that much besides."""


def ranked(endpoints: Sequence[Endpoint], current: Endpoint) -> list[Endpoint]:
    """Those that may be asked, the best first, lagging ones last.

    The current one stays the best until another is clearly better, so that reads do not go back
    and forth; the configured order breaks ties.
    """
    ready = [endpoint for endpoint in endpoints if endpoint.ready]
    usable = sorted((e for e in ready if e.usable), key=lambda endpoint: endpoint.cost)
    lagging = sorted((e for e in ready if not e.usable), key=lambda endpoint: endpoint.lag)
    if not usable:
        return lagging
    if current not in usable:
        current = next(endpoint for endpoint in ready if endpoint.usable)
    best, limit = usable[0], current.cost
    if best.cost * CLEARLY_BETTER + CLEARLY_BETTER_SECONDS < limit:
        current = best
    usable.remove(current)
    return [current, *usable, *lagging]


def believed_head(heads: Iterable[int]) -> int:
    """The best of them; of three or more the second best, so that no node alone makes all lag."""
    best = sorted(heads, reverse=True)
    if len(best) > 2:  # a liar, and two that agree
        return best[1]
    return best[0] if best else 0
