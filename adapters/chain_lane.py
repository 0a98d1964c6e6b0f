"""One signer's lane, as a process sees it."""

from adapters.purse import Purse
from adapters.rpc_pool import RpcPool
from adapters.signer import Signer
from adapters.watcher import BlockWatcher
from saga.errors import ChainUnavailableError, HeldError
from saga.facts import Call
from saga.model import Intent, Step


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
    ) -> None:
        self._rpc = rpc
        self._watcher = watcher
        self._purse = purse
        self._chain_id = chain_id
        self._adopt_pending = adopt_pending
        self.signer = signer
        self.address = signer.address
        self.kept = ""
        """Why the lane's keeper holds something of it, as last seen; empty when it does not."""

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
        return self._purse.hold(self.address, cost)

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
        attempt = await self.signer.sign(call, nonce, self._chain_id)
        return Intent(
            step=step,
            sender=self.address,
            chain_id=self._chain_id,
            nonce=nonce,
            to=call.to,
            predicted=call.predicted,
            initcode_hash=call.initcode_hash,
            attempts=(attempt,),
        )
