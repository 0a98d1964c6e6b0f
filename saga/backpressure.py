"""Why no new messages are taken: a pure decision about one look at Redis."""

from collections.abc import Mapping
from typing import Literal, get_args

import msgspec

Reason = Literal["operator", "outbound_depth", "store"]
REASONS: tuple[Reason, ...] = get_args(Reason)

GOES_ON_BELOW = 0.9
"""Of OUTBOUND_MAX_DEPTH: a list that is as long as allowed must not stop and go with each event."""


class Pause(msgspec.Struct, frozen=True, kw_only=True):
    """What `saga pause` has stored. Its names are permanent."""

    by: str
    """Who said it: user@host."""
    at_ms: int
    """When, by the server's clock."""
    reason: str = ""

    def __str__(self) -> str:
        return f"paused by {self.by}" + (f": {self.reason}" if self.reason else "")


class IntakeLook(msgspec.Struct, frozen=True, kw_only=True):
    """What one look at Redis has found."""

    outbound: int
    """Events that no consumer has taken."""
    pause: Pause | None
    refusal: str = ""
    """Why Redis takes no writes; empty when it does."""


def stops(look: IntakeLook, *, most: int, lagging: bool) -> Mapping[Reason, str]:
    """What stops the intake, with the words for it; empty when nothing does.

    `most`: OUTBOUND_MAX_DEPTH, 0 for no limit. `lagging`: the list was too long before this look.
    """
    found: dict[Reason, str] = {}
    if look.pause is not None:
        found["operator"] = str(look.pause)
    if most and (look.outbound > most or (lagging and look.outbound >= GOES_ON_BELOW * most)):
        found["outbound_depth"] = (
            f"{look.outbound} events wait for consumers, OUTBOUND_MAX_DEPTH is {most}"
        )
    if look.refusal:
        found["store"] = look.refusal
    return found
