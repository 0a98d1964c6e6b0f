"""What is known of one intent in flight."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from saga.facts import Cancelled, Mined, NonceTaken, Reverted, Stranded
from saga.model import Intent

NONCE_TAKEN_OBSERVATIONS = 3
"""As op-service/txmgr: one answer of a lagging node must not count."""
OBSERVATION_SECONDS = 1.0
"""Looks closer together than this, at the same head, are one look."""

Settled = Mined | Reverted | NonceTaken | Cancelled | Stranded


class Watch:
    """One intent in flight, until it is settled."""

    def __init__(self, intent: Intent, *, sent: bool) -> None:
        self.intent = intent
        self.attempts = intent.attempts
        """As far as known here; the store is asked once the nonce is spent by none of them."""
        self.settled: asyncio.Future[Settled] = asyncio.get_running_loop().create_future()
        self.sent = sent
        """Whether this process has broadcast it."""
        self.ask = not sent
        """Ask by hash at the next poll: it may be in a block that has gone by."""
        self.check = False
        """Ask again for the receipt that was seen: the chain may have been reorganised."""
        self.seen_in: tuple[int, str] | None = None
        """Block number and hash of the attempt that was seen in it."""
        self.taken_seen = 0
        self.unproven = ""
        """Why a spent nonce is not proven to be another's yet; empty before anybody tried."""
        self.bare_in: int | None = None
        """The block whose receipt is good while the token has no code there yet."""
        self.users = 0
        """How many wait for it."""
        self._observed: tuple[str, float] = ("", 0.0)

    def settle(self, fact: Settled) -> None:
        if not self.settled.done():
            self.settled.set_result(fact)

    @property
    def cost(self) -> int:
        """Most that its last transaction may cost, wei."""
        last = self.attempts[-1]
        return last.gas * last.max_fee

    def unmined(self, sender: str, spent: int) -> bool:
        """Whether it is of this signer, and in no block as far as known."""
        ours = self.intent.sender == sender and self.intent.nonce >= spent
        return ours and self.seen_in is None and not self.settled.done()

    def overdue(self, spent: int) -> bool:
        """Whether the nonce is spent while no block is known to hold one of the attempts."""
        return self.seen_in is None and self.intent.nonce < spent

    async def observe_taken(
        self, proof: "Callable[[Watch], Awaitable[bool]]", head_hash: str
    ) -> None:
        """Count one more look at a spent nonce without a receipt of ours; settle when enough."""
        now, (seen_at, when) = time.monotonic(), self._observed
        if seen_at == head_hash and now - when < OBSERVATION_SECONDS:
            return
        self._observed = (head_hash, now)
        self.taken_seen += 1
        if self.taken_seen >= NONCE_TAKEN_OBSERVATIONS and await proof(self):
            self.settle(NonceTaken(self.intent.nonce))
