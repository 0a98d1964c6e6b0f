"""What the nodes know of a lane."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import NamedTuple

import msgspec

from adapters.rpc import Request, RpcError, sane
from adapters.rpc_errors import SendVerdict, is_underpriced, send_verdict
from adapters.rpc_pool import RpcPool
from saga.errors import ChainUnavailableError
from saga.lane import Outstanding
from saga.model import Attempt


class Gift(NamedTuple):
    """The last of a nonce's so many attempts, stored and to be broadcast."""

    nonce: int
    attempts: int
    attempt: Attempt


class Given(msgspec.Struct, frozen=True, kw_only=True):
    """What the nodes that answered said together of some bytes. One that is away says nothing."""

    never: bool
    """Every one refuses them for good."""
    cheap: bool
    """None has taken them, and one wants a better price on the same nonce."""
    hold: str
    """Why none takes them before an operator has done something; empty when one may."""


class LaneNodes:
    """Asks about the nonces of one signer. All methods raise ChainUnavailableError.

    `unsettled` waits until a nonce's record, with so many attempts, is safe in the store, and says
    why when it is not: then nothing is sent. It raises StoreUnavailableError.
    """

    def __init__(
        self, rpc: RpcPool, sender: str, unsettled: Callable[[int, int], Awaitable[str]]
    ) -> None:
        self._rpc = rpc
        self._unsettled = unsettled
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

    async def give(self, gifts: Sequence[Gift]) -> AsyncIterator[tuple[Gift, Given]]:
        """Broadcast each, once all together are safe in the store, and say what became of it."""
        # At once, so that they share one wait: one after the other, they would outlast the lease.
        asked = (self._unsettled(gift.nonce, gift.attempts) for gift in gifts)
        holds = await asyncio.gather(*asked)
        for gift, hold in zip(gifts, holds, strict=True):
            if hold:
                yield gift, Given(never=False, cheap=False, hold=hold)
            else:
                yield gift, await self._broadcast(gift.attempt)

    async def _broadcast(self, attempt: Attempt) -> Given:
        (outcomes,) = await self._rpc.broadcast([attempt.raw])
        answered = [found for found in outcomes if not isinstance(found, ChainUnavailableError)]
        errors = [found for found in answered if isinstance(found, RpcError)]
        verdicts = {send_verdict(error) for error in errors}
        taken = len(errors) < len(answered) or SendVerdict.KNOWN in verdicts
        refused = bool(errors) and not taken
        held = SendVerdict.HOLD in verdicts and verdicts <= {SendVerdict.NEVER, SendVerdict.HOLD}
        return Given(
            never=refused and verdicts == {SendVerdict.NEVER},
            cheap=refused and any(is_underpriced(error) for error in errors),
            hold="; ".join(dict.fromkeys(e.message for e in errors)) if refused and held else "",
        )

    @sane
    async def seen(self, outs: Sequence[Outstanding]) -> dict[int, tuple[bool, bool]]:
        """For each nonce: whether any node knows one of its transactions (for a hole: whether any
        has a transaction of the key there), and whether one that answers lacks the last one."""
        requests: list[Request] = [("eth_getTransactionCount", [self._sender, "pending"])]
        requests += [
            ("eth_getTransactionByHash", [attempt.hash]) for out in outs for attempt in out.attempts
        ]
        nodes = [list(answers) for answers in await self._rpc.everywhere(requests)]
        pending = [int(count, 16) for count, *_ in nodes if isinstance(count, str)]
        found: dict[int, tuple[bool, bool]] = {}
        at = 1
        for out in outs:
            end = at + len(out.attempts)
            if out.attempts:
                # An error answer is no absence. What must be everywhere is the last one.
                known = any(tx is not None for answers in nodes for tx in answers[at:end])
                found[out.nonce] = known, any(answers[end - 1] is None for answers in nodes)
            else:
                # Where no node counts its pool, nothing is taken for a hole.
                found[out.nonce] = not pending or max(pending) > out.nonce, False
            at = end
        return found
