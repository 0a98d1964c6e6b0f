"""What a keeper remembers of the nonces that are out. Lost with its process, and learnt again."""

from adapters.lane_nodes import Gift, Given
from saga.lane import Outstanding, Sight
from saga.model import State

Key = tuple[int, int]
"""Nonce, and how many attempts it has: with a new one, what was seen of the others is old."""


class LaneMemory:
    """Everything by nonce; `forget_below` drops what the chain has spent."""

    def __init__(self) -> None:
        self.since: dict[Key, int] = {}
        """The head at which it was first seen so."""
        self.strikes: dict[Key, int] = {}
        """How often in a row it was seen as a hole, or refused for good."""
        self.underpriced: set[Key] = set()
        """Refused by nodes for its price."""
        self.looked_ms: dict[int, int] = {}
        """When nodes were last asked about it, by the server's clock."""
        self.holds: dict[int, str] = {}
        """Why its price may not be raised, or what an operator has to do first."""

    def strike(self, key: Key) -> None:
        self.strikes[key] = self.strikes.get(key, 0) + 1

    def given(self, gift: Gift, found: Given, sender: str) -> None:
        """What nodes said of a broadcast: refused for good, for its price, for want of funds."""
        key = gift.nonce, gift.attempts
        if found.never:
            self.strike(key)
        else:
            self.strikes.pop(key, None)
        (self.underpriced.add if found.cheap else self.underpriced.discard)(key)
        if found.hold:
            self.holds.setdefault(gift.nonce, f"{sender}: {found.hold}")

    @property
    def hold(self) -> str:
        """Why the lowest nonce that is held is held; empty when none is."""
        return self.holds[min(self.holds)] if self.holds else ""

    def sight(
        self,
        out: Outstanding,
        state: State | None,
        seen: tuple[bool, bool],
        *,
        head: int,
        spent: int,
        now_ms: int,
    ) -> Sight:
        """What is known of a nonce from outside its record. `seen`: by nodes, just now: whether any
        knows it, and whether any lacks its last bytes."""
        known, lacking = seen
        self.looked_ms[out.nonce] = now_ms
        key = (out.nonce, len(out.attempts))
        if known:
            self.strikes.pop(key, None)
        elif not out.attempts:
            self.strike(key)
        return Sight(
            state=state,
            known=known,
            lacking=lacking,
            refused=bool(out.attempts) and key in self.strikes,
            underpriced=key in self.underpriced,
            lowest=out.nonce == spent,
            age_seconds=(now_ms - out.at_ms) / 1000,
            blocks=head - self.since.get(key, head),
            observations=self.strikes.get(key, 0),
        )

    def forget_below(self, spent: int) -> None:
        self.since = {key: head for key, head in self.since.items() if key[0] >= spent}
        self.strikes = {key: count for key, count in self.strikes.items() if key[0] >= spent}
        self.underpriced = {key for key in self.underpriced if key[0] >= spent}
        self.looked_ms = {nonce: at for nonce, at in self.looked_ms.items() if nonce >= spent}
        self.holds = {nonce: why for nonce, why in self.holds.items() if nonce >= spent}
