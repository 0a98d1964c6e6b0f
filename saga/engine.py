"""Runs one saga: decide, do, record, repeat, until it ends, waits, or is no longer ours.

The engine knows no state and no vendor: the table says who decides and where outcomes lead, the
ports do. Each record is written before the next thing is done; memory follows the store.
"""

import asyncio
import random
import re

import msgspec

from saga import retry
from saga.actions import (
    Abandon,
    Action,
    Advance,
    Ask,
    ClaimModel,
    Fail,
    Intend,
    LookUp,
    Outcome,
    Query,
    Retry,
    Send,
    Skip,
    Watch,
)
from saga.change import change_of
from saga.errors import ChainError, ChainUnavailableError, HeldError, TamperedError
from saga.facts import ClaimLost, Fact, Intended
from saga.machine import Guard, OutcomeName, Table
from saga.messages import InvalidMessage, parse
from saga.model import ErrorClass, Intent, Saga, Step
from saga.policy import Policy
from saga.ports import Chain, IntentAnswer, Journal
from saga.telemetry import Span, Telemetry

HELD = "held: "
"""How the stored reason of a wait begins that uses up no retry."""
LANE_PATIENCE_SECONDS = 60.0
"""How long a saga waits with a worker for room in a full lane; then it waits in `due`."""
FIRST, AGAIN = 2, 4
"""A held saga waits as after so many failures: some seconds, then a quarter of a minute."""


class Postponed(msgspec.Struct, frozen=True):
    """The saga waits in `due` and holds no worker."""

    seconds: float


class Engine:
    """One for a process. `run` is safe to call for many sagas at once."""

    def __init__(
        self,
        table: Table,
        journal: Journal,
        chain: Chain,
        telemetry: Telemetry,
        policy: Policy,
        *,
        step_timeout_seconds: float,
        rng: random.Random,
    ) -> None:
        self._table = table
        self._guard = Guard(table)
        self._journal = journal
        self._chain = chain
        self._telemetry = telemetry
        self._policy = policy
        self._step_timeout_seconds = step_timeout_seconds
        self._rng = rng
        self._lane = asyncio.Lock()
        self._asking: asyncio.Task[int] | None = None
        self._next_nonce = 0
        """A guess: the lane in the store knows."""
        self._full_at: tuple[int, int, bool] | None = None
        """Head and spent nonces at which the lane was full, and whether for a pair: until more is
        known, others need not ask."""

    async def run(self, saga: Saga) -> Saga | Postponed:
        """Bring a leased saga as far as it gets.

        Returns the ended saga, or Postponed. Raises LeaseLostError when it is another's by now,
        StoreUnavailableError when Redis is away: in both cases nothing more is to be done here,
        the saga is taken up from `due`.
        """
        leased = saga
        try:
            while not saga.state.terminal:
                with self._telemetry.attempt(saga) as span:
                    result = await self._step(saga, span)
                if isinstance(result, Postponed):
                    return result
                saga = result
        finally:
            self._chain.release(leased)
        self._telemetry.ended(saga)
        return saga

    async def _step(self, saga: Saga, span: Span) -> Saga | Postponed:
        """One attempt of one state's work: until the saga moves, or has to wait."""
        try:
            fact: Fact | None = None
            while True:
                action = self._table[saga.state].decide(saga, fact, self._policy)
                if isinstance(action, Advance | Skip | Fail):
                    return await self._move(saga, action, span)
                if isinstance(action, Retry):
                    return await self._retry(saga, action.reason, span)
                if isinstance(action, Abandon):
                    saga, fact = await self._abandon(saga, action), None
                    if saga.attempts > self._policy.max_retries:
                        return await self._exhausted(saga, action.reason, span)
                else:
                    saga, fact = await self._perform(saga, action)
        except ChainUnavailableError as error:
            hold = error.hold if isinstance(error, HeldError) else "node"
            return await self._hold(saga, str(error), span, hold)
        except ChainError as error:
            return await self._retry(saga, str(error), span)
        except InvalidMessage as error:
            reason = f"the stored message is no longer accepted: {error}"
            return await self._move(saga, Fail(ErrorClass.INVALID, reason), span)
        except TamperedError as error:
            return await self._move(saga, Fail(ErrorClass.TAMPERED, str(error)), span)

    async def _perform(self, saga: Saga, action: Query) -> tuple[Saga, Fact | None]:
        match action:
            case ClaimModel(model_id, content):
                return await self._journal.claim_model(saga, model_id, content), None
            case LookUp(step):
                message = parse(saga.message, max_bytes=self._policy.max_message_bytes)
                return saga, await self._chain.look_up(saga, step, message)
            case Intend():
                return await self._intend(saga, action)
            case Send(step):
                return saga, await self._chain.send(saga, step)
            case Ask(step):
                return saga, await self._chain.ask(_intent(saga, step))
            case Watch(step):
                intent = _intent(saga, step)
                return saga, await self._chain.watch(intent, self._step_timeout_seconds)

    async def _abandon(self, saga: Saga, action: Abandon) -> Saga:
        """Recorded also when it was the last try: a resume must not find the spent intent."""
        return await self._journal.abandon(
            saga, action.step, attempts=saga.attempts + action.counts, note=action.reason
        )

    async def _intend(self, saga: Saga, action: Intend) -> tuple[Saga, Fact]:
        """Sign with the nonces that the lane gives, and store nonces and bytes in one write.

        The lane is asked with a guess; a wrong guess costs one more signature, never a nonce.
        """
        chain, known = self._chain, None
        deadline = asyncio.get_running_loop().time() + LANE_PATIENCE_SECONDS
        while True:
            async with self._lane:
                full = (chain.head_number, chain.spent_nonces, action.follow is not None)
                answer = None
                # Where a pair has no room, a single one may; where a single one has none, no pair.
                if self._full_at not in (full, (*full[:2], False)):
                    answer = await self._ask_lane(saga, action, known)
                    self._full_at = full if answer.lane_full else None
            if answer is None or answer.lane_full:
                if asyncio.get_running_loop().time() > deadline:
                    raise HeldError("lane_full", "MAX_IN_FLIGHT transactions are out")
                if full[:2] == (chain.head_number, chain.spent_nonces):
                    await chain.next_block()
                action = await self._priced(action)
            elif answer.saga is not None:
                return answer.saga, Intended()
            elif answer.claim_holder is not None:
                return saga, ClaimLost(answer.claim_holder)
            elif answer.nonce_unknown:
                known = await self._asked_once()

    async def _asked_once(self) -> int:
        """Where a lane begins that Redis does not know yet: one question for all that wait."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._chain.known_nonces())
        return await asyncio.shield(self._asking)

    async def _ask_lane(self, saga: Saga, action: Intend, known: int | None) -> IntentAnswer:
        chain, nonce = self._chain, self._next_nonce
        intents = [await chain.sign(action.step, action.call, nonce)]
        if action.follow is not None:
            intents.append(await chain.sign(Step.REGISTER, action.follow, nonce + 1))
        answer = await self._journal.intend(
            saga,
            intents,
            cost_gas=action.call.cost_gas,
            spent=chain.spent_nonces,
            known=known,
            sure=chain.sure_nonces,
        )
        if answer.saga is not None:
            self._next_nonce = nonce + len(intents)
        elif answer.next_nonce is not None:
            self._next_nonce = answer.next_nonce
        return answer

    async def _priced(self, action: Intend) -> Intend:
        """Blocks have gone by since the call was priced."""
        follow = action.follow
        return Intend(
            action.step,
            await self._chain.priced(action.call),
            None if follow is None else await self._chain.priced(follow),
        )

    async def _move(self, saga: Saga, action: Outcome, span: Span) -> Saga:
        """Take the edge that the table has for the outcome, and write all of it at once."""
        to = self._guard.next_state(saga.state, _NAMES[type(action)])
        change = change_of(saga, action)
        moved = await self._journal.move(saga, to, change)
        span.outcome(saga, moved, action)
        return moved

    async def _hold(self, saga: Saga, reason: str, span: Span, hold: str) -> Postponed:
        """Nobody's fault here: wait without using up a retry, longer when it was held before."""
        again = (saga.error or "").startswith(HELD)
        seconds = retry.delay(self._policy, AGAIN if again else FIRST, self._rng.random())
        span.retry(saga, reason, hold=hold)
        await self._journal.postpone(
            saga,
            seconds=seconds,
            attempts=saga.attempts,
            error=HELD + reason,
            noted=again and _shape(saga.error or "") == _shape(HELD + reason),
        )
        return Postponed(seconds)

    async def _exhausted(self, saga: Saga, reason: str, span: Span) -> Saga:
        text = f"{reason} (tried {self._policy.max_retries + 1} times)"
        return await self._move(saga, Fail(ErrorClass.RETRIES, text), span)

    async def _retry(self, saga: Saga, reason: str, span: Span) -> Saga | Postponed:
        attempts = saga.attempts + 1
        if attempts > self._policy.max_retries:
            return await self._exhausted(saga, reason, span)
        seconds = retry.delay(self._policy, saga.attempts, self._rng.random())
        span.retry(saga, reason)
        await self._journal.postpone(saga, seconds=seconds, attempts=attempts, error=reason)
        return Postponed(seconds)


_NAMES: dict[type[Action], OutcomeName] = {Advance: "ok", Skip: "skip", Fail: "fail"}


def _shape(reason: str) -> str:
    """A reason without its numbers: the same hold at another price is no news."""
    return re.sub(r"[0-9.]+", "#", reason)


def _intent(saga: Saga, step: Step) -> Intent:
    intent = saga.intent(step)
    assert intent is not None  # noqa: S101 - decide asks for this only with an intent
    return intent
