"""One signer's lane, as a process sees it."""

import time
from collections.abc import Callable

from adapters.purse import Purse
from adapters.redis_lane import why_retired
from adapters.rpc_pool import RpcPool
from adapters.signer import Signer
from adapters.watcher import BlockWatcher
from saga.errors import ChainUnavailableError, HeldError, SignerError
from saga.facts import Call
from saga.model import Intent, Step

AWAY_SECONDS = 5.0
"""After a signature that could not be had, before the next one is asked for."""

SHORT_SECONDS = 15.0
"""After a node has refused a transaction for want of funds, before a new one is begun here."""


class ChainLane:
    """`saga.ports.Lane`."""

    def __init__(
        self,
        rpc: RpcPool,
        watcher: BlockWatcher,
        signer: Signer,
        purse: Purse,
        *,
        chain_id: int,
        adopt_pending: bool = False,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rpc = rpc
        self._watcher = watcher
        self._purse = purse
        self.chain_id = chain_id
        self._adopt_pending = adopt_pending
        self._monotonic = monotonic
        self.signer = signer
        self.address = signer.address
        self.kept = ""
        """Why the lane's keeper holds something of it, as last seen; empty when it does not."""
        self.mark = ""
        """That of a lane which is handed over, as last seen."""
        self.away = ""
        """Why the last signature could not be had; empty after one that could."""
        self._away_until = 0.0
        self._short, self._short_until = "", 0.0

    @property
    def spent_nonces(self) -> int:
        return self._watcher.spent(self.address)

    @property
    def sure_nonces(self) -> int:
        return self._watcher.sure(self.address)

    @property
    def strained(self) -> bool:
        return bool(self.kept)

    def hold(self, cost: int) -> HeldError | None:
        if self._monotonic() < self._away_until:
            return SignerError(self.away)
        if self.mark:
            return HeldError("retired", why_retired(self.address, self.mark))
        if self._monotonic() < self._short_until:
            return HeldError("funds", self._short)
        return self._purse.hold(self.address, cost)

    def refused(self, reason: str) -> None:
        """A node has refused a transaction for want of funds, whatever the balance seems to be."""
        self._short, self._short_until = reason, self._monotonic() + SHORT_SECONDS

    def kept_by(self, hold: str, mark: str) -> None:
        """What the lane's keeper, here or elsewhere, says of it."""
        self.kept, self.mark = hold, mark

    @property
    def trouble(self) -> HeldError | None:
        """Why nothing new was sent from here of late, also when it may be tried again."""
        if self.away:
            return SignerError(self.away)
        return self.hold(0) or self._purse.trouble(self.address)

    async def known_nonces(self) -> int:
        latest, pending = await self._rpc.batch(
            [("eth_getTransactionCount", [self.address, tag]) for tag in ("latest", "pending")]
        )
        if not isinstance(latest, str) or not isinstance(pending, str):
            raise ChainUnavailableError(f"{self._rpc.host} eth_getTransactionCount: {pending}")
        mined, known = int(latest, 16), max(int(pending, 16), int(latest, 16))
        if known > mined and not self._adopt_pending:
            raise HeldError(
                "unknown_pending",
                f"nonces {mined} to {known - 1} of {self.address} are pending on the node "
                "and unknown to Redis; waiting until they are mined (`saga run --adopt-pending` "
                "does not wait)",
            )
        return known

    async def sign(self, step: Step, call: Call, nonce: int) -> Intent:
        try:
            attempt = await self.signer.sign(call, nonce, self.chain_id)
        except SignerError as error:
            # Whoever waits for a signature behind this one need not wait for the same answer.
            self.away, self._away_until = str(error), self._monotonic() + AWAY_SECONDS
            raise
        self.away, self._away_until = "", 0.0
        return Intent(
            step=step,
            sender=self.address,
            chain_id=self.chain_id,
            nonce=nonce,
            to=call.to,
            predicted=call.predicted,
            initcode_hash=call.initcode_hash,
            attempts=(attempt,),
        )
