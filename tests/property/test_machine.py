"""The decisions and the guard, driven by any sequence of answers that a world might give.

The walk applies each action in memory as the engine and the store do; the facts are drawn without
regard to what was asked, so that many of them make no sense.
"""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saga import engine
from saga.actions import (
    Abandon,
    Action,
    Advance,
    Ask,
    ClaimModel,
    Fail,
    Intend,
    LookUp,
    Retry,
    Send,
    Skip,
    Watch,
)
from saga.errors import IllegalEdgeError
from saga.facts import (
    Absent,
    ClaimLost,
    EntryExists,
    Fact,
    Intended,
    Mined,
    NonceTaken,
    Refused,
    RegistryConflict,
    Reverted,
    Sent,
    TimedOut,
    TokenExists,
    Unmined,
)
from saga.machine import Guard, OutcomeName
from saga.model import ErrorClass, Saga, State, Step
from states.table import TABLE
from tests.support.sagas import (
    CALL,
    LATER,
    OTHER,
    OWN,
    POLICY,
    RECEIPT,
    REGISTRATION,
    TOKEN_EXISTS,
    intent,
    make,
    message,
)

laws = settings(deadline=None, max_examples=300)  # a busy machine breaks no law
GUARD = Guard(TABLE)
EDGES = {(state, to) for state, row in TABLE.items() for to in row.edges().values()}
OUTCOMES: list[OutcomeName] = ["ok", "skip", "fail"]

texts = st.sampled_from(["", "why", "0x12"])
receipts = st.sampled_from([RECEIPT, LATER])
other_tokens = st.builds(
    lambda field: msgspec.structs.replace(TOKEN_EXISTS, **{field: "another"}),
    st.sampled_from(["name", "symbol", "mlflow_run_id"]),
)
# A strategy for each member of Fact.
FACTS: dict[type, st.SearchStrategy[Any]] = {
    Absent: st.just(Absent(CALL)),
    TokenExists: st.just(TOKEN_EXISTS) | other_tokens,
    EntryExists: st.just(EntryExists(REGISTRATION)),
    RegistryConflict: st.builds(RegistryConflict, texts),
    Intended: st.just(Intended()),
    ClaimLost: st.builds(ClaimLost, st.sampled_from([OTHER, OWN])),
    Sent: st.just(Sent()),
    Unmined: st.just(Unmined()),
    TimedOut: st.builds(TimedOut, st.floats(0, 1e9)),
    Mined: st.builds(Mined, receipts),
    Reverted: st.builds(Reverted, texts),
    NonceTaken: st.builds(NonceTaken, st.integers(0, 9)),
    Refused: st.builds(Refused, texts),
}


def plausible(action: Action) -> list[Fact]:
    """The answers that the chain may really give to an action."""
    match action:
        case LookUp(Step.DEPLOY):
            return [Absent(CALL), Absent(CALL), TOKEN_EXISTS]
        case LookUp(Step.REGISTER):
            return [Absent(CALL), Absent(CALL), EntryExists(REGISTRATION)]
        case Intend():
            return [Intended()]
        case Send():
            return [Sent()]
        case Ask() | Watch():
            return [Mined(RECEIPT), Sent(), Unmined(), Reverted("0x12"), NonceTaken(5)]
        case _:
            return [Sent()]


class World(msgspec.Struct, frozen=True):
    """One answer: a fact or none, and how the store takes a claim and an intent."""

    fact: Fact | None
    pick: int | None = None
    """Instead of the fact, one of the plausible ones. Without them few walks get far."""
    claim: str = OWN
    same: bool = True
    stores: bool = True
    resumes: bool = False
    """Whether an operator resumes a saga that is dead-lettered by now."""

    def answer(self, action: Action) -> Fact | None:
        if self.pick is None:
            return self.fact
        given = plausible(action)
        return given[self.pick % len(given)]


worlds = st.builds(
    World,
    st.none() | st.one_of(*FACTS.values()),
    pick=st.none() | st.integers(0, 4) | st.integers(0, 4),
    claim=st.sampled_from([OWN, OWN, OWN, OTHER]),
    same=st.booleans(),
    stores=st.sampled_from([True, True, False]),
    resumes=st.booleans(),
)
messages = st.sampled_from(
    [message(), message(), message(), message(current_value=0.1), message(model_id=None), b"\xff"]
)


class Walk:
    """One saga in memory, and every move it made."""

    def __init__(self, raw: bytes) -> None:
        self.saga = make(State.RECEIVED, message=raw)
        self.fact: Fact | None = None
        self.moves: list[tuple[State, State]] = []
        self.actions: list[Action] = []

    def step(self, world: World) -> None:
        """Decide on the last fact, perform the action as this world answers."""
        if self.saga.state.terminal:
            if self.saga.state is State.DEAD_LETTERED and world.resumes:
                self._resume()
            return
        action = TABLE[self.saga.state].decide(self.saga, self.fact, POLICY)
        self.actions.append(action)
        self._check(action)
        self.saga, self.fact = self._perform(action, world)

    def _check(self, action: Action) -> None:
        """What must hold for every action."""
        match action:
            case Intend(step, call):
                assert self.saga.intent(step) is None
                assert self.fact == Absent(call)
            case Send(step) | Ask(step) | Watch(step) | Abandon(step):
                assert self.saga.intent(step) is not None
            case LookUp(step):
                assert self.saga.intent(step) is None
            case Advance(event=event, ack=ack):
                assert (event is not None) == (self.saga.state is State.REGISTERED)
                assert ack == (self.saga.state is State.PUBLISHED)
            case _:
                pass

    def _perform(self, action: Action, world: World) -> tuple[Saga, Fact | None]:
        saga = self.saga
        match action:
            case Advance() | Skip() | Fail():
                return self._move(action), None
            case ClaimModel(model_id):
                claimed = {"claim": world.claim, "claim_same": world.same}
                return msgspec.structs.replace(saga, model_id=model_id, **claimed), None
            case Intend(step):
                if world.stores:
                    saga = _with(saga, step, present=True)
                return saga, world.answer(action)
            case Abandon(step, reason, counts):
                attempts = saga.attempts + counts
                if attempts > POLICY.max_retries:
                    return self._retry(reason), None
                saga = msgspec.structs.replace(saga, attempts=attempts)
                return _with(saga, step, present=False), None
            case Retry(reason):
                return self._retry(reason), None
            case LookUp() | Send() | Ask() | Watch():
                return saga, world.answer(action)

    def _retry(self, reason: str) -> Saga:
        attempts = self.saga.attempts + 1
        if attempts > POLICY.max_retries:
            return self._move(Fail(ErrorClass.RETRIES, reason))
        return msgspec.structs.replace(self.saga, attempts=attempts)

    def _move(self, action: Advance | Skip | Fail) -> Saga:
        left = self.saga.state
        to = GUARD.next_state(left, engine._NAMES[type(action)])
        self.moves.append((left, to))
        changed = engine._change(self.saga, action).saga
        failed_in = left if to is State.DEAD_LETTERED else None
        return msgspec.structs.replace(changed, state=to, attempts=0, failed_in=failed_in)

    def _resume(self) -> None:
        assert self.saga.failed_in is not None
        to = GUARD.resumed_state(self.saga.failed_in)
        self.moves.append((State.DEAD_LETTERED, to))
        claim = None if to is State.RECEIVED else self.saga.claim
        self.saga = msgspec.structs.replace(self.saga, state=to, claim=claim, failed_in=None)
        self.fact = None


def _with(saga: Saga, step: Step, *, present: bool) -> Saga:
    stored = intent(step) if present else None
    if step is Step.DEPLOY:
        return msgspec.structs.replace(saga, deploy=stored)
    return msgspec.structs.replace(saga, register=stored)


def walked(raw: bytes, answers: list[World]) -> Walk:
    walk = Walk(raw)
    for world in answers:
        walk.step(world)
    return walk


def check_moves(walk: Walk) -> None:
    """The laws of every history."""
    state, reached = State.RECEIVED, {State.RECEIVED}
    for left, to in walk.moves:
        assert left is state
        resumed = left is State.DEAD_LETTERED
        assert resumed or (left, to) in EDGES
        assert not resumed or to in reached
        state = to
        reached.add(to)
    assert state is walk.saga.state
    assert State.ACKED not in reached or State.PUBLISHED in reached
    saga = walk.saga
    if reached & {State.TOKEN_DEPLOYED, State.REGISTERED, State.PUBLISHED, State.ACKED}:
        assert saga.deployment is not None
        assert saga.claim == OWN
    if reached & {State.REGISTERED, State.PUBLISHED, State.ACKED}:
        assert saga.registration is not None
    if reached & {State.PUBLISHED, State.ACKED}:
        assert any(isinstance(action, Advance) and action.event for action in walk.actions)
    if State.ACKED in reached:
        assert walk.moves[-1] == (State.PUBLISHED, State.ACKED)


def test_every_fact_drawn() -> None:
    """The walks draw every kind of fact that there is."""
    assert set(FACTS) == set(Fact.__args__)


@laws
@given(messages, st.lists(worlds, min_size=12, max_size=40))
def test_any_world(raw: bytes, answers: list[World]) -> None:
    """No sequence of answers leaves the table, skips a step, or acts without what it needs."""
    check_moves(walked(raw, answers))


@laws
@given(st.sampled_from(list(TABLE)), st.lists(worlds, min_size=8, max_size=25))
def test_from_any_state(state: State, answers: list[World]) -> None:
    """The same holds from each state on, as for a saga that is taken up there."""
    walk = Walk(message())
    walk.saga = make(state)
    for world in answers:
        walk.step(world)
    for left, to in walk.moves:
        assert left is State.DEAD_LETTERED or (left, to) in EDGES
    if walk.saga.state in (State.REGISTERED, State.PUBLISHED, State.ACKED):
        assert walk.saga.deployment is not None
        assert walk.saga.registration is not None


@laws
@given(st.sampled_from([State.ACKED, State.SKIPPED]), st.sampled_from(OUTCOMES), worlds)
def test_terminal(state: State, outcome: OutcomeName, world: World) -> None:
    """Nothing leaves a finished saga: no outcome, no resume, no answer."""
    with pytest.raises(IllegalEdgeError):
        GUARD.next_state(state, outcome)
    with pytest.raises(IllegalEdgeError):
        GUARD.resumed_state(state)
    walk = Walk(message())
    walk.saga = make(state)
    walk.step(world)
    assert walk.saga == make(state)
    assert walk.moves == []


@laws
@given(st.sampled_from(list(TABLE)), st.none() | st.one_of(*FACTS.values()), st.booleans())
def test_deciding_is_pure(state: State, fact: Fact | None, out: bool) -> None:
    """The same saga and fact give the same action, and both stay as they were."""
    stored = {"deploy": intent(Step.DEPLOY), "register": intent(Step.REGISTER)} if out else {}
    saga, same = make(state, **stored), make(state, **stored)
    decide = TABLE[state].decide
    assert decide(saga, fact, POLICY) == decide(same, fact, POLICY)
    assert saga == same


HAPPY: list[Fact | None] = [
    None,  # claim
    None,  # → VALIDATED
    Absent(CALL),
    Intended(),
    Sent(),
    Mined(RECEIPT),
    None,  # → TOKEN_DEPLOYED
    Absent(CALL),
    Intended(),
    Sent(),
    Mined(LATER),
    None,  # → REGISTERED
    None,  # → PUBLISHED
    None,  # → ACKED
]


def test_straight() -> None:
    """A world in which everything goes well ends in ACKED, with one intent a step."""
    walk = walked(message(), [World(fact) for fact in HAPPY])
    check_moves(walk)
    assert walk.saga.state is State.ACKED
    intended = [action.step for action in walk.actions if isinstance(action, Intend)]
    assert intended == [Step.DEPLOY, Step.REGISTER]


@laws
@given(st.lists(st.integers(0, len(HAPPY)), max_size=6))
def test_crashes(moments: list[int]) -> None:
    """However often the worker dies on the way, no step that has an intent makes a second one."""
    walk = Walk(message())
    for moment, fact in enumerate(HAPPY):
        for _ in range(moments.count(moment)):
            walk.fact = None
            walk.step(World(Unmined()))
        walk.step(World(fact))
    for _ in range(len(HAPPY)):
        found = {State.VALIDATED: Mined(RECEIPT), State.TOKEN_DEPLOYED: Mined(LATER)}
        walk.step(World(found.get(walk.saga.state)))
    check_moves(walk)
    intended = [action.step for action in walk.actions if isinstance(action, Intend)]
    assert len(intended) == len(set(intended))
