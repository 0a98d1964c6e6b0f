"""Whether anything of a lane is still outstanding: proven before its key is handed over."""

from collections.abc import Sequence

import msgspec

from adapters.former_keys import out_of, span
from adapters.redis_lane import RedisLane
from adapters.redis_views import RedisViews
from adapters.rpc import Request, sane
from adapters.rpc_pool import RpcPool
from saga.errors import ChainUnavailableError
from saga.model import State, Step

_ACTIVE = [state for state in State if not state.terminal]


class Waiter(msgspec.Struct, frozen=True, kw_only=True):
    """A nonce that is out, or mined and not confirmed, and the saga that it belongs to."""

    nonce: int
    step: str
    saga_id: str
    model_id: str | None
    state: State | None


class Remains(msgspec.Struct, frozen=True, kw_only=True):
    """What is left of a lane at one look. Without `reasons` nothing is."""

    next: int | None
    """The lane's next nonce, as it was when this was found out."""
    spent: int
    """The lowest count of any endpoint."""
    out: int
    """How many nonces are given and not spent."""
    reasons: Sequence[str]
    mark: str
    """The lane's mark, as `Standing.retired`, and whose it is."""
    marked_by: str
    keeper: str
    """Who keeps the lane; empty when nobody does."""


class _Counts(msgspec.Struct, frozen=True, kw_only=True):
    """The nonce counts of one endpoint; None where it does not tell."""

    latest: int
    pending: int
    deep: int | None


class Drain:
    """Looks at one lane. `confirmations` None: what the chain calls finalized counts."""

    def __init__(
        self, rpc: RpcPool, lane: RedisLane, views: RedisViews, confirmations: int | None
    ) -> None:
        self._rpc = rpc
        self._lane = lane
        self._views = views
        self._confirmations = confirmations

    async def look(self) -> Remains:
        """Raises ChainUnavailableError and StoreUnavailableError: then nothing is proven."""
        # The lane first: what it gives after this, the script that retires it will not accept.
        standing = await self._lane.standing()
        counts = await self._counts()
        spent = min(each.latest for each in counts)
        nonces = out_of(standing, spent)
        reasons = []
        if nonces:
            reasons.append(f"{span(nonces)} {'is' if len(nonces) == 1 else 'are'} out")
        reasons += self._foreign(counts, standing.next)
        if not reasons:
            reasons += self._shallow(counts, standing.next)
        if not reasons:
            reasons += [
                f"{each.step} of saga {each.saga_id}, nonce {each.nonce}, is not confirmed"
                for each in await self.unconfirmed()
            ]
        return Remains(
            next=standing.next,
            spent=spent,
            out=len(nonces),
            reasons=reasons,
            mark=standing.retired,
            marked_by=standing.retired_by,
            keeper=standing.keeper,
        )

    async def unconfirmed(self) -> list[Waiter]:
        """The unfinished sagas' transactions of the lane whose result is not stored yet."""
        found = []
        async for saga in self._views.sagas(_ACTIVE):
            for step in Step:
                intent = saga.intent(step)
                if intent is None or saga.receipt(step) is not None:
                    continue
                sender = intent.sender.lower() == self._lane.sender.lower()
                if sender and intent.chain_id == self._lane.chain_id:
                    found.append(
                        Waiter(
                            nonce=intent.nonce,
                            step=step.value,
                            saga_id=saga.id,
                            model_id=saga.model_id,
                            state=saga.state,
                        )
                    )
        return sorted(found, key=lambda each: each.nonce)

    def _foreign(self, counts: Sequence[_Counts], following: int | None) -> list[str]:
        """Transactions that wait on a node and that the lane has not given."""
        first = max(following or 0, *(each.latest for each in counts))
        last = max(each.pending for each in counts)
        if last <= first:
            return []
        return [f"{span(range(first, last))} of the key wait on a node, unknown to Redis"]

    def _shallow(self, counts: Sequence[_Counts], following: int | None) -> list[str]:
        """What is spent, and not deep enough yet to stay so."""
        told = [each.deep for each in counts if each.deep is not None]
        depth = "finalized" if self._confirmations is None else f"{self._confirmations} blocks deep"
        if not told:
            return [
                (
                    f"no node tells how many nonces were spent {depth}: give an endpoint that "
                    "keeps older states, or a smaller CONFIRMATIONS for this command"
                )
            ]
        if following is None or min(told) >= following:
            return []
        nonces = range(min(told), following)
        return [f"{span(nonces)} {'is' if len(nonces) == 1 else 'are'} not {depth} yet"]

    @sane
    async def _counts(self) -> list[_Counts]:
        """Of each endpoint that answers and tells its count."""
        sender = self._lane.sender
        tag = await self._confirmed_block()
        requests: list[Request] = [
            ("eth_getTransactionCount", [sender, block]) for block in ("latest", "pending", tag)
        ]
        found = []
        for answers in await self._rpc.everywhere(requests):
            latest, pending, deep = (
                int(answer, 16) if isinstance(answer, str) else None for answer in answers
            )
            if latest is not None:
                found.append(_Counts(latest=latest, pending=pending or latest, deep=deep))
        if not found:
            raise ChainUnavailableError(f"{self._rpc.host} eth_getTransactionCount: no answer")
        return found

    async def _confirmed_block(self) -> str:
        """The newest block that counts, by the endpoint that is furthest behind."""
        if self._confirmations is None:
            return "finalized"
        if self._confirmations == 1:
            return "latest"
        answers = await self._rpc.everywhere([("eth_blockNumber", [])])
        heads = [int(head, 16) for (head,) in answers if isinstance(head, str)]
        if not heads:
            raise ChainUnavailableError(f"{self._rpc.host} eth_blockNumber: no answer")
        return hex(max(0, min(heads) - (self._confirmations - 1)))
