"""Runs one saga: decide, do, record, repeat, until it ends, waits, or is no longer ours.

The engine knows no state and no vendor: the table says who decides and where outcomes lead, the
ports do. Each record is written before the next thing is done; memory follows the store.
"""

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
from saga.change import change_of, left_behind
from saga.dispatch import Dispatcher
from saga.errors import ChainError, ChainUnavailableError, HeldError, TamperedError
from saga.facts import Fact
from saga.machine import Guard, OutcomeName, Table
from saga.messages import InvalidMessage, parse
from saga.model import ErrorClass, Intent, Saga, Step
from saga.policy import Policy
from saga.ports import Chain, Journal
from saga.redaction import kept
from saga.slots import Slots
from saga.telemetry import Span, Telemetry

HELD = "held: "
"""How the stored reason of a wait begins that uses up no retry."""
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
        dispatcher: Dispatcher,
        *,
        step_timeout_seconds: float,
        rng: random.Random,
        slots: Slots | None = None,
    ) -> None:
        self._table = table
        self._guard = Guard(table)
        self._journal = journal
        self._chain = chain
        self._telemetry = telemetry
        self._policy = policy
        self._step_timeout_seconds = step_timeout_seconds
        self._rng = rng
        self._dispatcher = dispatcher
        self._slots = slots or Slots(1)

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
        if 0 < self._policy.max_crashes <= saga.crashes and not saga.state.told:
            return await self._poisoned(saga, span)
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
                    if saga.attempts > self._policy.backoff(saga.state).max_retries:
                        return await self._exhausted(saga, action.reason, span)
                else:
                    saga, fact = await self._perform(saga, action)
        except ChainUnavailableError as error:
            return await self._hold(saga, error, span)
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
                return await self._dispatcher.intend(saga, action)
            case Send(step):
                await self._journal.settle(saga)  # what is sent must not be forgotten
                return saga, await self._chain.send(saga, step)
            case Ask(step):
                return saga, await self._chain.ask(_intent(saga, step))
            case Watch(step):
                intent = _intent(saga, step)
                async with self._slots.waiting():
                    return saga, await self._chain.watch(intent, self._step_timeout_seconds)

    async def _abandon(self, saga: Saga, action: Abandon) -> Saga:
        """Recorded also when it was the last try: a resume must not find the spent intent."""
        left = left_behind(saga, action.step) if action.leave else ()
        return await self._journal.abandon(
            saga,
            [intent.step for intent in left] or [action.step],
            attempts=saga.attempts + action.counts,
            note=kept(action.reason),
            left=left,
            cost=action.cost,
        )

    async def _move(self, saga: Saga, action: Outcome, span: Span) -> Saga:
        """Take the edge that the table has for the outcome, and write all of it at once."""
        to = self._guard.next_state(saga.state, _NAMES[type(action)])
        change = change_of(saga, action)
        moved = await self._journal.move(saga, to, change)
        span.outcome(saga, moved, action)
        return moved

    async def _hold(self, saga: Saga, error: ChainUnavailableError, span: Span) -> Postponed:
        """Nobody's fault here: wait without using up a retry, longer when it was held before."""
        reason, hold, seconds = kept(str(error)), "node", None
        if isinstance(error, HeldError):
            hold, seconds = error.hold, error.seconds
        again = (saga.error or "").startswith(HELD)
        if seconds is None:
            backoff, tries = self._policy.backoff(saga.state), AGAIN if again else FIRST
            seconds = retry.delay(backoff, tries, self._rng.random())
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
        tries = self._policy.backoff(saga.state).max_retries + 1
        text = f"{reason} (tried {tries} times)"
        return await self._move(saga, Fail(ErrorClass.RETRIES, text), span)

    async def _poisoned(self, saga: Saga, span: Span) -> Saga:
        """Its workers die under it: nothing of it is tried again before somebody has looked."""
        leases = (await self._journal.lost_leases(saga))[-saga.crashes :]
        workers = ", ".join(dict.fromkeys(lease.rpartition(".")[0] for lease in leases))
        reason = f"its worker died {saga.crashes} times in {saga.state}: {workers or 'unknown'}"
        return await self._move(saga, Fail(ErrorClass.POISON, reason), span)

    async def _retry(self, saga: Saga, reason: str, span: Span) -> Saga | Postponed:
        attempts, backoff = saga.attempts + 1, self._policy.backoff(saga.state)
        if attempts > backoff.max_retries:
            return await self._exhausted(saga, reason, span)
        seconds, reason = retry.delay(backoff, saga.attempts, self._rng.random()), kept(reason)
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
