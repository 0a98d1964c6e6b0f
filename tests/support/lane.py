"""A lane on a real Valkey and a real node: sagas with signed intents, and keepers to look round."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import msgspec

from adapters.fee_oracle import FeeOracle
from adapters.keeper import Keeper
from adapters.metrics import Metrics
from adapters.redis_lane import RedisLane
from saga.facts import Absent
from saga.fees import Budget, Limits
from saga.lane import Outstanding, Pace
from saga.model import Saga, State, Step
from tests.integration.lua.store import Corner, Worker, fail, opened
from tests.support.chain import LIMITS, ChainSide, Node, chain_side, content_of
from tests.support.fleet import message

AT_ONCE = Pace(bump_after_seconds=0.0, bump_after_blocks=1, rebroadcast_seconds=0.0)
SLOW = Pace(bump_after_seconds=45.0, bump_after_blocks=3)
NO_BUMPS = Pace(bump_after_seconds=3600.0, bump_after_blocks=1, rebroadcast_seconds=0.0)


class LaneSide(NamedTuple):
    """A lane, the chain that it is on, and a journal to make sagas with."""

    node: Node
    side: ChainSide
    lane: RedisLane
    corner: Corner
    journal: Worker
    metrics: Metrics

    def keeper(
        self, name: str = "keeper", *, pace: Pace = NO_BUMPS, limits: Limits = LIMITS
    ) -> Keeper:
        """One replica's keeper; `round()` is one look."""
        return Keeper(
            self.lane,
            self.side.rpc,
            self.side.signer,
            FeeOracle(self.side.rpc, percentile=50.0, tip_floor=1, monotonic=_ever_later()),
            Budget(limits),
            pace,
            self.metrics.lane(self.lane.sender),
            worker=name,
            chain_id=self.node.chain_id,
            lease_seconds=30.0,
            on_hold=self.side.lane.kept_by,
        )

    async def intended(self, model_id: str, **changes: Any) -> Saga:
        """A validated saga whose deployment is signed and stored, and not sent. `changes`: of the
        call, before it is signed."""
        saga = await self.corner.begin_in(self.journal, State.VALIDATED, message(model_id))
        found = await self.side.chain.look_up(saga, Step.DEPLOY, content_of(saga))
        assert isinstance(found, Absent), found
        call = msgspec.structs.replace(found.call, **changes)
        await self.side.watcher.poll()
        nonce, known = self.side.lane.spent_nonces, None
        while True:
            intent = await self.side.lane.sign(Step.DEPLOY, call, nonce)
            answer = await self.journal.intend(
                saga,
                [intent],
                cost_gas=call.cost_gas,
                spent=self.side.lane.spent_nonces,
                known=known,
            )
            if answer.saga is not None:
                return answer.saga
            if answer.next_nonce is not None:
                nonce = answer.next_nonce
            else:
                assert answer.nonce_unknown, answer
                known = await self.side.lane.known_nonces()

    async def out(self, saga: Saga) -> Outstanding:
        """The record of the nonce of the saga's deployment."""
        assert saga.deploy is not None
        (found,) = await self.lane.read([saga.deploy.nonce])
        return found

    async def dead_lettered(self, saga: Saga) -> Saga:
        return await fail(self.journal, saga)

    @property
    def in_pool(self) -> int:
        return self.node.nonce(self.side.signer.address, "pending") - self.node.nonce(
            self.side.signer.address
        )


def _ever_later() -> Callable[[], float]:
    """A clock on which everything that was cached is too old."""
    now = [0.0]

    def monotonic() -> float:
        now[0] += 3600.0
        return now[0]

    return monotonic


@asynccontextmanager
async def lane_side(node: Node, redis_url: str, **options: Any) -> AsyncIterator[LaneSide]:
    """Everything of one test's own; nothing polls or keeps by itself."""
    async with opened(redis_url) as corner, chain_side(node, watching=False, **options) as side:
        lane = RedisLane(
            corner.client, corner.keys, chain_id=node.chain_id, sender=side.signer.address
        )
        yield LaneSide(node, side, lane, corner, corner.worker("w1"), Metrics())
