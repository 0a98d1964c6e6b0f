"""Gas limits: one estimate for each kind of call and class of string lengths, kept for an hour."""

import time
from collections.abc import Callable
from typing import Any

import msgspec

from adapters.contracts import revert_reason
from adapters.rpc import Rpc, RpcError, failure
from adapters.rpc_errors import SendVerdict, is_revert, send_verdict
from saga.errors import ChainUnavailableError, HeldError
from saga.facts import Refused

MARGIN = (13, 10)
"""+30 %, as Foundry: strings of one class differ by some hundred gas, state by some thousand."""
CAP = 16_777_216
"""EIP-7825: no transaction may ask for more."""
KEPT_SECONDS = 3600.0


class Estimate(msgspec.Struct, frozen=True):
    """Gas that a call is expected to burn."""

    gas: int
    """Without margin."""
    limit: int
    """What its transaction may burn, never more than a block holds."""


def words(*texts: str) -> tuple[int, ...]:
    """The class of some strings: how many words each takes in calldata, and a storage slot more
    where it is longer than the 31 bytes that fit beside their length."""
    sizes = [len(text.encode()) for text in texts]
    return tuple(-(-size // 32) + (size > 31) for size in sizes)


class GasBook:
    """Estimates of our calls, in the name of `sender()`. `forget()` when one of them reverted."""

    def __init__(
        self,
        rpc: Rpc,
        sender: Callable[[], str],
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rpc = rpc
        self._sender = sender
        self._monotonic = monotonic
        self._known: dict[tuple[object, ...], tuple[float, Estimate]] = {}

    def forget(self) -> None:
        """Something has changed: the next calls are simulated again."""
        self._known.clear()

    async def of(self, kind: tuple[object, ...], to: str, data: str) -> Estimate | Refused:
        """The estimate of a kind of call, asked for with this one where there is none yet.

        Nodes simulate on top of their pool. A call that only the pool refuses is being done by a
        transaction that is out already. Raises ChainUnavailableError then, HeldError without
        funds, ChainError for a node's own error.
        """
        until, known = self._known.get(kind, (0.0, None))
        if known is not None and self._monotonic() < until:
            return known
        call = {"from": self._sender(), "to": to, "data": data}
        found = await self._ask(call)
        if isinstance(found, Refused):
            settled = await self._ask(call, "latest")
            if isinstance(settled, Refused):
                return settled
            raise ChainUnavailableError(
                f"a pending transaction is doing this already; the pool says: {found.reason}"
            )
        self._known[kind] = (self._monotonic() + KEPT_SECONDS, found)
        return found

    async def _ask(self, call: dict[str, str], *block: str) -> Estimate | Refused:
        answer, head = await self._rpc.batch(
            [("eth_estimateGas", [call, *block]), ("eth_getBlockByNumber", ["latest", False])]
        )
        if isinstance(answer, RpcError):
            return await self._refused(call, answer, _room(head))
        gas, room = int(answer, 16), _room(head)
        if gas > room:
            return Refused(f"the call needs {gas} gas, and a transaction may have {room} here")
        return Estimate(gas, min(gas * MARGIN[0] // MARGIN[1], room))

    async def _refused(self, call: dict[str, str], error: RpcError, room: int) -> Refused:
        if send_verdict(error) is SendVerdict.HOLD:
            raise HeldError("funds", f"{call['from']}: {error.message}") from error
        if not is_revert(error):
            raise failure(f"{self._rpc.host} eth_estimateGas", error) from error
        if room < CAP and await self._would_fit(call):
            return Refused(f"the call needs more than the {room} gas that a block holds here")
        reason = revert_reason(error.data) or error.message
        return Refused(f"the chain refuses the call: {reason}")

    async def _would_fit(self, call: dict[str, str]) -> bool:
        """Whether the call succeeds with all the gas that a transaction may ever have: nodes
        estimate with no more than a block's, and take what runs out of it for a revert."""
        (answer,) = await self._rpc.batch([("eth_call", [{**call, "gas": hex(CAP)}, "latest"])])
        return isinstance(answer, str)


def _room(head: Any) -> int:
    """The most gas that a transaction may ask for, by the protocol and by the newest block."""
    limit = head.get("gasLimit") if isinstance(head, dict) else None
    return CAP if limit is None else min(CAP, int(limit, 16))
