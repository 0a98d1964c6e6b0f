"""The keeper of a lane: one in the fleet, under a fenced lease, looks after each nonce that is out.

It sends again what nodes forgot, raises the price of what is stuck, fills the holes that nobody's
bytes will ever spend, and moves the lane past nonces that somebody else has used. Each transaction
is stored, under the lease's fence, before it is sent. All replicas run one; the others stand by.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress

import structlog

from adapters.fee_oracle import FeeOracle
from adapters.lane_memory import LaneMemory
from adapters.lane_nodes import Gift, LaneNodes
from adapters.metrics import LaneMeter
from adapters.redis_lane import Glance, RedisLane, Standing
from adapters.rpc_pool import RpcPool
from adapters.signed import genuine
from adapters.signer import Signer
from saga.errors import (
    ChainError,
    ChainUnavailableError,
    SignerError,
    StoreUnavailableError,
    TamperedError,
)
from saga.fees import Budget, Fees, Held, Market, gwei
from saga.lane import (
    HOLE_OBSERVATIONS,
    Duty,
    Fill,
    Outstanding,
    Pace,
    Rebroadcast,
    Replace,
    Sight,
    Wait,
    next_kind,
    tend,
)
from saga.model import Attempt, AttemptKind
from saga.outage import Outages

WINDOW = 64
"""Nonces looked at in one round, the lowest first: what is behind them waits for them anyway."""
ROUND_SECONDS = 5.0
FAILED_ROUNDS = 3
"""In a row; then the lane is left to another replica for the length of a lease."""
IDLE_SECONDS = 60.0
"""While nothing is out, so often a foreign transaction of the key is looked for."""
_log = structlog.get_logger("saga.keeper")


class Keeper:
    """`run()` is its task; `round()` is one look. `on_hold` is told what it, or another replica's,
    holds, and the lane's mark when that is handed over."""

    def __init__(
        self,
        lane: RedisLane,
        rpc: RpcPool,
        signer: Signer,
        oracle: FeeOracle,
        budget: Budget,
        pace: Pace,
        meter: LaneMeter,
        *,
        worker: str,
        chain_id: int,
        lease_seconds: float,
        on_hold: Callable[[str, str], None],
    ) -> None:
        self._on_hold = on_hold
        self._lane = lane
        self._nodes = LaneNodes(rpc, lane.sender, lane.unsettled)
        self._signer = signer
        self._oracle = oracle
        self._budget = budget
        self._pace = pace
        self._meter = meter
        self._worker = worker
        self._chain_id = chain_id
        self._round_seconds = min(ROUND_SECONDS, lease_seconds / 6, pace.bump_after_seconds / 2)
        # Others look once a round: with this, the lane changes hands within LEASE_SECONDS.
        self._lease_ms = int((lease_seconds - 2 * self._round_seconds) * 1000)
        self._spent, self._head = 0, 0
        self._memory = LaneMemory()
        self._failed, self._foreign_seen, self._idle_looked_ms = 0, 0, 0
        self.outages = Outages()
        self.hold, self._mark = "", ""
        self.keeping = False

    async def run(self) -> None:
        """Look around until cancelled."""
        while True:
            rest = await self.look()
            await asyncio.sleep(rest)

    async def look(self) -> float:
        """One round, whatever comes of it; returns how many seconds to rest then. A replica whose
        rounds fail gives the lane up: it must not keep one that can from it."""
        try:
            await self.round()
        except StoreUnavailableError as error:
            self.outages.met(error)
            return self._round_seconds
        except (ChainUnavailableError, ChainError) as error:
            self._failed += 1
            if type(error) is ChainUnavailableError:
                self.outages.met(error)
            elif self._failed == 1:
                _log.warning("keeper.waiting", error=str(error))
        except Exception:  # noqa: BLE001 - one record must not leave the lane alone
            self._failed += 1
            _log.exception("keeper.crashed")
        else:
            self._failed = 0
        if self._failed < FAILED_ROUNDS or not self.keeping:
            return self._round_seconds
        self._failed = 0
        await self.resign()
        return 2 * self._round_seconds

    async def resign(self) -> None:
        """Give the lease up: another replica need not wait until it runs out."""
        if self.keeping:
            with suppress(StoreUnavailableError):
                await self._lane.keep(self._worker, lease_ms=0, hold="")
            self.keeping, self.hold = False, ""
            self._on_hold("", self._mark)
            self._meter.resigned()

    async def round(self) -> None:
        """Take or prolong the lease; as the keeper, do what is to be done about each nonce."""
        standing = await self._lane.keep(self._worker, lease_ms=self._lease_ms, hold=self.hold)
        if standing.kept != self.keeping:
            _log.info("keeper.lease", keeping=standing.kept, keeper=standing.keeper)
        self.keeping = standing.kept
        out, age = 0, 0.0
        if not standing.kept:
            self.hold = standing.hold
        elif standing.next is not None:
            out, age = await self._look_after(standing, standing.next)
            self.hold = self._memory.hold
        self._mark = standing.retired
        self._on_hold(self.hold, self._mark)
        self._meter.stands(
            next_nonce=standing.next or 0,
            out=out,
            oldest_seconds=age,
            keeping=standing.kept,
            hold=self.hold,
            retired=bool(self._mark),
        )

    async def _look_after(self, standing: Standing, following: int) -> tuple[int, float]:
        """Returns how many nonces are out, and the age in seconds of the lowest one's bytes."""
        idle = self._spent >= following and not self._foreign_seen
        if idle and standing.now_ms - self._idle_looked_ms < IDLE_SECONDS * 1000:
            return 0, 0.0
        self._spent, self._head = await self._nodes.position()
        self._idle_looked_ms = standing.now_ms
        self._memory.forget_below(self._spent)
        if self._spent > following:
            await self._foreign(following)
            return 0, 0.0
        self._foreign_seen = 0
        nonces = range(self._spent, min(following, self._spent + WINDOW))
        glances = await self._lane.glances(nonces)
        due = [
            nonce
            for nonce, glance in zip(nonces, glances, strict=True)
            if self._is_due(nonce, glance, standing.now_ms)
        ]
        if due:
            await self._tend_all(standing, due)
        first = glances[0] if glances else None
        age = 0.0 if first is None else (standing.now_ms - first.at_ms) / 1000
        return following - self._spent, age

    def _is_due(self, nonce: int, glance: Glance | None, now_ms: int) -> bool:
        """Whether it is time to ask nodes about a nonce: a young one is most likely on its way."""
        self._memory.since.setdefault((nonce, 0 if glance is None else glance.attempts), self._head)
        if glance is None:
            return True
        quiet_ms = 1000 * min(self._pace.rebroadcast_seconds, self._pace.bump_after_seconds)
        return now_ms - max(glance.at_ms, self._memory.looked_ms.get(nonce, 0)) >= quiet_ms

    async def _foreign(self, following: int) -> None:
        """Somebody else has used the key: the lane goes on behind what they sent, once it has been
        seen several times. One answer of one node must not move it."""
        self._foreign_seen += 1
        if self._foreign_seen < HOLE_OBSERVATIONS:
            return
        nonces = f"{following} to {self._spent - 1}"
        _log.warning("lane.foreign_nonce", sender=self._lane.sender, nonces=nonces)
        await self._lane.raise_to(self._spent)

    async def _tend_all(self, standing: Standing, due: list[int]) -> None:
        """Do what is to be done about these nonces."""
        outs = await self._lane.read(due)
        states = await self._lane.states([out.saga_id for out in outs])
        seen = await self._nodes.seen(outs)
        market, memory, now_ms = await self._market(), self._memory, standing.now_ms
        gifts: list[Gift] = []
        try:
            for out, state in zip(outs, states, strict=True):
                sight = memory.sight(
                    out, state, seen[out.nonce], head=self._head, spent=self._spent, now_ms=now_ms
                )
                duty = tend(out, sight, market, self._budget.limits, self._pace)
                memory.holds.pop(out.nonce, None)
                gifts += await self._do(duty, out, sight, standing)
        except Exception:  # one record that fails must not keep back those before it
            await self._give(gifts)
            raise
        await self._give(gifts)

    async def _market(self) -> Market | None:
        """None when nodes do not say: what is out can be sent again all the same."""
        try:
            return await self._oracle.market()
        except (ChainError, ChainUnavailableError) as error:
            _log.warning("keeper.no_market", error=str(error))
            return None

    async def _do(
        self, duty: Duty, out: Outstanding, sight: Sight, standing: Standing
    ) -> list[Gift]:
        """Returns what is to be broadcast for it."""
        match duty:
            case Wait():
                return []
            case Rebroadcast():
                return self._again(out)
            case Held(_, reason):
                return self._hold(out, sight, reason)
            case Replace(price):
                return await self._replace(out, price, next_kind(out), sight, standing)
            case Fill(price):
                return await self._replace(out, price, AttemptKind.FILL, sight, standing)

    def _hold(self, out: Outstanding, sight: Sight, reason: str) -> list[Gift]:
        """Nothing can be signed for this nonce; what is there is sent again all the same."""
        self._memory.holds[out.nonce] = reason
        return self._again(out) if out.attempts and sight.lacking else []

    def _again(self, out: Outstanding) -> list[Gift]:
        """The last bytes go to the nodes once more. Below the base fee they may all decline."""
        if not genuine(out.attempts[-1]):
            _log.error("lane.tampered", nonce=out.nonce, tx=out.attempts[-1].hash)
            return []
        _log.info("lane.rebroadcast", nonce=out.nonce, tx=out.attempts[-1].hash)
        return [Gift(out.nonce, len(out.attempts), out.attempts[-1])]

    async def _give(self, gifts: list[Gift]) -> None:
        """Broadcast, and remember what was refused."""
        async for gift, given in self._nodes.give(gifts):
            self._memory.given(gift, given, self._lane.sender)

    async def _replace(
        self,
        out: Outstanding,
        price: Fees,
        kind: AttemptKind,
        sight: Sight,
        standing: Standing,
    ) -> list[Gift]:
        """Sign and store, for sending it then."""
        try:
            attempt = await self._signed(out, price, kind)
        except TamperedError as error:
            _log.error("lane.tampered", nonce=out.nonce, error=str(error))
            return []
        except SignerError as error:
            return self._hold(out, sight, str(error))
        note = f"{kind.value}, nonce {out.nonce}, at most {gwei(price.max_fee)} gwei"
        stored = await self._lane.add_attempt(
            out,
            attempt,
            note=note,
            worker=self._worker,
            keeper=self._worker,
            fence=standing.fence,
            state=sight.state,
        )
        if not stored:
            return []
        self._meter.replaced("bump" if kind is next_kind(out) and out.attempts else kind.value)
        _log.info("lane.replaced", nonce=out.nonce, kind=kind.value, tx=attempt.hash)
        return [Gift(out.nonce, len(out.attempts) + 1, attempt)]

    async def _signed(self, out: Outstanding, price: Fees, kind: AttemptKind) -> Attempt:
        if kind is AttemptKind.CALL:
            return await self._signer.resign(out.attempts[-1].raw, price)
        return await self._signer.self_send(out.nonce, self._chain_id, price, kind)
