"""The keeper of a lane: one in the fleet, under a fenced lease, looks after each nonce that is out.

It sends again what nodes forgot, raises the price of what is stuck, fills the holes that nobody's
bytes will ever spend, and moves the lane past nonces that somebody else has used. Each transaction
is stored, under the lease's fence, before it is sent. All replicas run one; the others stand by.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

import structlog

from adapters.fee_oracle import FeeOracle
from adapters.lane_nodes import LaneNodes
from adapters.redis_lane import Glance, RedisLane, Standing
from adapters.rpc import RpcError
from adapters.rpc_errors import SendVerdict, send_verdict
from adapters.rpc_pool import RpcPool
from adapters.signer import Signer
from saga.errors import ChainError, ChainUnavailableError, StoreUnavailableError, TamperedError
from saga.fees import Fees, Held, Limits, gwei
from saga.lane import (
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
from saga.model import Attempt, AttemptKind, State

WINDOW = 64
"""Nonces looked at in one round, the lowest first: what is behind them waits for them anyway."""
ROUND_SECONDS = 5.0
IDLE_SECONDS = 60.0
"""While nothing is out, so often a foreign transaction of the key is looked for."""
_log = structlog.get_logger("saga.keeper")


class LaneMeter(Protocol):
    """What is counted of a lane."""

    def lane(
        self, *, next_nonce: int, out: int, oldest_seconds: float, keeping: bool, hold: str
    ) -> None: ...

    def replaced(self, kind: str) -> None: ...


class Keeper:
    """`run()` is its task; `round()` is one look. `hold` is what it, or another replica's, says."""

    def __init__(
        self,
        lane: RedisLane,
        rpc: RpcPool,
        signer: Signer,
        oracle: FeeOracle,
        limits: Limits,
        pace: Pace,
        meter: LaneMeter,
        *,
        worker: str,
        chain_id: int,
        lease_seconds: float,
        on_hold: Callable[[str], None],
    ) -> None:
        self._on_hold = on_hold
        self._lane = lane
        self._rpc = rpc
        self._nodes = LaneNodes(rpc, lane.sender)
        self._signer = signer
        self._oracle = oracle
        self._limits = limits
        self._pace = pace
        self._meter = meter
        self._worker = worker
        self._chain_id = chain_id
        self._round_seconds = min(ROUND_SECONDS, lease_seconds / 6, pace.bump_after_seconds / 2)
        # Others look once a round: with this, the lane changes hands within LEASE_SECONDS.
        self._lease_ms = int((lease_seconds - 2 * self._round_seconds) * 1000)
        self._spent = 0
        self._head = 0
        self._since: dict[tuple[int, int], int] = {}
        """(nonce, attempts) → the head at which it was first seen so."""
        self._strikes: dict[tuple[int, int], int] = {}
        """(nonce, attempts) → how often in a row a hole, or refused for good."""
        self._looked_ms: dict[int, int] = {}
        """Nonce → when nodes were last asked about it."""
        self._idle_looked_ms = 0
        self._holds: dict[int, str] = {}
        """Nonce → why its price may not be raised, or what an operator has to do first."""
        self.hold = ""
        self.keeping = False

    async def run(self) -> None:
        """Look around until cancelled; a node or a Redis that is away is waited for."""
        failing = ""
        while True:
            try:
                await self.round()
                failing = ""
            except (ChainUnavailableError, ChainError, StoreUnavailableError) as error:
                if failing != type(error).__name__:
                    _log.warning("keeper.waiting", error=str(error))
                failing = type(error).__name__
            except Exception:  # noqa: BLE001 - what one record brings about must not leave the lane alone
                _log.exception("keeper.crashed")
            await asyncio.sleep(self._round_seconds)

    async def resign(self) -> None:
        """Give the lease up: another replica need not wait until it runs out."""
        if self.keeping:
            with suppress(StoreUnavailableError):
                await self._lane.keep(self._worker, lease_ms=0, hold=self.hold)

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
            self.hold = next((self._holds[nonce] for nonce in sorted(self._holds)), "")
        self._on_hold(self.hold)
        self._meter.lane(
            next_nonce=standing.next or 0,
            out=out,
            oldest_seconds=age,
            keeping=standing.kept,
            hold=self.hold,
        )

    async def _look_after(self, standing: Standing, following: int) -> tuple[int, float]:
        """Returns how many nonces are out, and the age in seconds of the lowest one's bytes."""
        idle = self._spent >= following
        if idle and standing.now_ms - self._idle_looked_ms < IDLE_SECONDS * 1000:
            return 0, 0.0
        self._spent, self._head = await self._nodes.position()
        self._idle_looked_ms = standing.now_ms
        self._forget_spent()
        if self._spent > following:
            await self._foreign(following)
            return 0, 0.0
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

    def _forget_spent(self) -> None:
        """What was remembered of nonces that the chain has spent."""
        for memory in (self._since, self._strikes):
            for key in [key for key in memory if key[0] < self._spent]:
                del memory[key]
        for nonce in [nonce for nonce in self._looked_ms if nonce < self._spent]:
            del self._looked_ms[nonce]
        for nonce in [nonce for nonce in self._holds if nonce < self._spent]:
            del self._holds[nonce]

    def _is_due(self, nonce: int, glance: Glance | None, now_ms: int) -> bool:
        """Whether it is time to ask nodes about a nonce: a young one is most likely on its way."""
        self._since.setdefault((nonce, 0 if glance is None else glance.attempts), self._head)
        if glance is None:
            return True
        quiet_ms = 1000 * min(self._pace.rebroadcast_seconds, self._pace.bump_after_seconds)
        return now_ms - max(glance.at_ms, self._looked_ms.get(nonce, 0)) >= quiet_ms

    async def _foreign(self, following: int) -> None:
        """Somebody else has used the key: the lane goes on behind what they sent."""
        _log.warning(
            "lane.foreign_nonce",
            sender=self._lane.sender,
            nonces=f"{following} to {self._spent - 1}",
        )
        await self._lane.raise_to(self._spent)

    async def _tend_all(self, standing: Standing, due: list[int]) -> None:
        """Do what is to be done about these nonces."""
        outs = await self._lane.read(due)
        states = await self._lane.states([out.saga_id for out in outs])
        known = await self._nodes.known(outs)
        market = await self._oracle.market()
        for out, state in zip(outs, states, strict=True):
            self._looked_ms[out.nonce] = standing.now_ms
            key = (out.nonce, len(out.attempts))
            if not out.attempts and not known[out.nonce]:
                self._strikes[key] = self._strikes.get(key, 0) + 1
            sight = Sight(
                state=state,
                known=known[out.nonce],
                refused=bool(out.attempts) and key in self._strikes,
                lowest=out.nonce == self._spent,
                age_seconds=(standing.now_ms - out.at_ms) / 1000,
                blocks=self._head - self._since.get(key, self._head),
                observations=self._strikes.get(key, 0),
            )
            duty = tend(out, sight, market, self._limits, self._pace)
            self._holds.pop(out.nonce, None)
            await self._do(duty, out, sight, standing)

    async def _do(self, duty: Duty, out: Outstanding, sight: Sight, standing: Standing) -> None:
        match duty:
            case Wait():
                pass
            case Rebroadcast():
                await self._send_again(out)
            case Held(_, reason):
                self._holds[out.nonce] = reason
                if out.attempts and not sight.known:
                    await self._send_again(out)
            case Replace(price):
                await self._replace(out, price, next_kind(out), sight.state, standing)
            case Fill(price):
                await self._replace(out, price, AttemptKind.FILL, sight.state, standing)

    async def _send_again(self, out: Outstanding) -> None:
        """Give the last bytes to the nodes once more. Below the base fee they may all decline;
        what they decline until an operator has done something, such as sending funds, is a hold."""
        (outcomes,) = await self._rpc.broadcast([out.attempts[-1].raw])
        key = (out.nonce, len(out.attempts))
        verdicts = {
            send_verdict(found) if isinstance(found, RpcError) else SendVerdict.ASK
            for found in outcomes
        }
        if verdicts == {SendVerdict.NEVER}:
            self._strikes[key] = self._strikes.get(key, 0) + 1
        else:
            self._strikes.pop(key, None)
        if SendVerdict.HOLD in verdicts and verdicts <= {SendVerdict.NEVER, SendVerdict.HOLD}:
            texts = dict.fromkeys(o.message for o in outcomes if isinstance(o, RpcError))
            self._holds.setdefault(out.nonce, f"{self._lane.sender}: {'; '.join(texts)}")
        _log.info("lane.rebroadcast", nonce=out.nonce, tx=out.attempts[-1].hash)

    async def _replace(
        self,
        out: Outstanding,
        price: Fees,
        kind: AttemptKind,
        state: State | None,
        standing: Standing,
    ) -> None:
        """Sign, store, send: in this order."""
        attempt = await self._signed(out, price, kind)
        if attempt is None:
            return
        note = f"{kind.value}, nonce {out.nonce}, at most {gwei(price.max_fee)} gwei"
        stored = await self._lane.add_attempt(
            out,
            attempt,
            note=note,
            worker=self._worker,
            keeper=self._worker,
            fence=standing.fence,
            state=state,
        )
        if not stored:
            return
        self._meter.replaced("bump" if kind is next_kind(out) and out.attempts else kind.value)
        _log.info("lane.replaced", nonce=out.nonce, kind=kind.value, tx=attempt.hash)
        await self._rpc.broadcast([attempt.raw])

    async def _signed(self, out: Outstanding, price: Fees, kind: AttemptKind) -> Attempt | None:
        if kind is AttemptKind.CALL:
            try:
                return await self._signer.resign(out.attempts[-1].raw, price)
            except TamperedError as error:
                _log.error("lane.tampered", nonce=out.nonce, error=str(error))
                return None
        return await self._signer.self_send(out.nonce, self._chain_id, price, kind)
