"""What the nodes know of a lane."""

from adapters.rpc import Request, sane
from adapters.rpc_pool import RpcPool
from saga.errors import ChainUnavailableError
from saga.lane import Outstanding


class LaneNodes:
    """Asks about the nonces of one signer. All methods raise ChainUnavailableError."""

    def __init__(self, rpc: RpcPool, sender: str) -> None:
        self._rpc = rpc
        self._sender = sender

    @sane
    async def position(self) -> tuple[int, int]:
        """How many nonces the chain has spent, and the number of its head."""
        spent, head = await self._rpc.batch(
            [
                ("eth_getTransactionCount", [self._sender, "latest"]),
                ("eth_blockNumber", []),
            ]
        )
        if not isinstance(spent, str) or not isinstance(head, str):
            raise ChainUnavailableError(f"{self._rpc.host} eth_getTransactionCount: {spent}")
        return int(spent, 16), int(head, 16)

    @sane
    async def known(self, outs: list[Outstanding]) -> dict[int, bool]:
        """Whether all nodes that answer know a transaction for each nonce; for a hole, whether one
        of them does."""
        requests: list[Request] = [
            ("eth_getTransactionByHash", [attempt.hash]) for out in outs for attempt in out.attempts
        ]
        holes = [out.nonce for out in outs if not out.attempts]
        if holes:
            requests.append(("eth_getTransactionCount", [self._sender, "pending"]))
        nodes = [list(answers) for answers in await self._rpc.everywhere(requests)]
        if not nodes:
            raise ChainUnavailableError(f"{self._rpc.host} eth_getTransactionByHash: no answer")
        found: dict[int, bool] = {}
        if holes:
            pending = [answers.pop() for answers in nodes]
            counts = [int(count, 16) for count in pending if isinstance(count, str)]
            if not counts:
                raise ChainUnavailableError(f"{self._rpc.host} eth_getTransactionCount: no answer")
            found = {nonce: max(counts) > nonce for nonce in holes}
        at = 0
        for out in outs:
            if out.attempts:
                end = at + len(out.attempts)
                # An error answer is no absence.
                found[out.nonce] = all(
                    any(tx is not None for tx in answers[at:end]) for answers in nodes
                )
                at = end
        return found
