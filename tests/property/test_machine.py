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
from saga.change import change_of, left_behind
from saga.errors import IllegalEdgeError
from saga.facts import (
    Absent,
    Cancelled,
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
    Stranded,
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
FOLLOW = msgspec.structs.replace(CALL, data="0x02")
BOTH = Absent(CALL, FOLLOW)
OUTCOMES: list[OutcomeName] = ["ok", "skip", "fail"]

texts = st.sampled_from(["", "why", "0x12"])
receipts = st.sampled_from([RECEIPT, LATER])
other_tokens = st.builds(
    lambda field: msgspec.structs.replace(TOKEN_EXISTS, **{field: "another"}),
    st.sampled_from(["name", "symbol", "mlflow_run_id"]),
)
# A strategy for each member of Fact.
FACTS: dict[type, st.SearchStrategy[Any]] = {
    Absent: st.sampled_from([Absent(CALL), BOTH]),
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
    Cancelled: st.builds(Cancelled, texts),
    Stranded: st.builds(Stranded, texts),
    Refused: st.builds(Refused, texts),
}


def plausible(action: Action) -> list[Fact]:
    """The answers that the chain may really give to an action."""
    match action:
        case LookUp(Step.DEPLOY):
            return [Absent(CALL), BOTH, TOKEN_EXISTS]
        case LookUp(Step.REGISTER):
            return [Absent(CALL), Absent(CALL), EntryExists(REGISTRATION)]
        case Intend():
            return [Intended()]
        case Send():
            return [Sent()]
        case Ask() | Watch():
            mined = [Mined(RECEIPT), Mined(RECEIPT)]
            return [
                *mined,
                Sent(),
                Unmined(),
                Reverted("0x12", 9),
                NonceTaken(5),
                Cancelled("0x12"),
                Stranded("why"),
            ]
        case _:
            return [Sent()]


OF_REGISTRATION = [LookUp(Step.REGISTER), Intend(Step.REGISTER, CALL)]


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
        if self.pick is not None:
            given = plausible(action)
            return given[self.pick % len(given)]
        if isinstance(self.fact, Absent) and action in OF_REGISTRATION:
            return Absent(self.fact.call)  # adapters/lookup.py gives a deployment alone a follow
        return self.fact


worlds = st.builds(
    World,
    st.none() | st.one_of(*FACTS.values()),
    pick=st.none() | st.integers(0, 7) | st.integers(0, 7),
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
        self.nonce = 0
        """The next one of the lane."""

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
            case Intend(step, call, follow):
                assert self.saga.intent(step) is None
                assert isinstance(self.fact, Absent)
                assert self.fact.call == call
                # A registration goes along where it can be signed and none is out already.
                can_follow = self.saga.register is None
                assert follow == (self.fact.follow if can_follow else None)
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
            case Intend(step, _, follow):
                if world.stores:
                    saga = self._stored(saga, step)
                    saga = saga if follow is None else self._stored(saga, Step.REGISTER)
                return saga, world.answer(action)
            case Abandon(step, reason, counts, leave):
                attempts = saga.attempts + counts
                if attempts > POLICY.max_retries:
                    return self._retry(reason), None
                saga = msgspec.structs.replace(saga, attempts=attempts)
                gone = left_behind(saga, step) if leave else [saga.intent(step)]
                assert gone, "what is left was there"
                names = {each.step.value: None for each in gone if each is not None}
                return msgspec.structs.replace(saga, **names), None
            case Retry(reason):
                return self._retry(reason), None
            case LookUp() | Send() | Ask() | Watch():
                return saga, world.answer(action)

    def _stored(self, saga: Saga, step: Step) -> Saga:
        """As the store does it: a step has one intent, each nonce is given once."""
        assert saga.intent(step) is None
        signed = intent(step, self.nonce)
        self.nonce += 1
        return msgspec.structs.replace(saga, **{step.value: signed})

    def _retry(self, reason: str) -> Saga:
        attempts = self.saga.attempts + 1
        if attempts > POLICY.max_retries:
            return self._move(Fail(ErrorClass.RETRIES, reason))
        return msgspec.structs.replace(self.saga, attempts=attempts)

    def _move(self, action: Advance | Skip | Fail) -> Saga:
        left = self.saga.state
        to = GUARD.next_state(left, engine._NAMES[type(action)])
        self.moves.append((left, to))
        changed = change_of(self.saga, action).saga
        if isinstance(action, Fail):
            self._check_forgotten(action, changed)
        failed_in = left if to is State.DEAD_LETTERED else None
        return msgspec.structs.replace(changed, state=to, attempts=0, failed_in=failed_in)

    def _check_forgotten(self, action: Fail, after: Saga) -> None:
        """Only a cancellation forgets, the state's own step at least; all else stays as it was."""
        own = {State.VALIDATED: Step.DEPLOY, State.TOKEN_DEPLOYED: Step.REGISTER}
        if action.error_class is ErrorClass.CANCELLED:
            assert own[self.saga.state] in action.forget
            # Behind a deployment that never was, a registration is worth nothing.
            assert Step.REGISTER in action.forget
        else:
            assert action.forget == ()
        for step in Step:
            kept = None if step in action.forget else self.saga.intent(step)
            assert after.intent(step) == kept

    def _resume(self) -> None:
        assert self.saga.failed_in is not None
        to = GUARD.resumed_state(self.saga.failed_in)
        self.moves.append((State.DEAD_LETTERED, to))
        claim = None if to is State.RECEIVED else self.saga.claim
        self.saga = msgspec.structs.replace(self.saga, state=to, claim=claim, failed_in=None)
        self.fact = None


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
HAPPY_PAIR: list[Fact | None] = [
    None,  # claim
    None,  # → VALIDATED
    BOTH,
    Intended(),
    Sent(),
    Mined(RECEIPT),
    None,  # → TOKEN_DEPLOYED
    Mined(LATER),
    None,  # → REGISTERED
    None,  # → PUBLISHED
    None,  # → ACKED
]
ways = pytest.mark.parametrize("way", [HAPPY, HAPPY_PAIR], ids=["one by one", "in a pair"])


def intended(walk: Walk) -> list[Step]:
    """The steps that got an intent, in order."""
    steps = []
    for action in walk.actions:
        if isinstance(action, Intend):
            steps += [action.step] if action.follow is None else [action.step, Step.REGISTER]
    return steps


@ways
def test_straight(way: list[Fact | None]) -> None:
    """A world in which everything goes well ends in ACKED, with one intent a step."""
    walk = walked(message(), [World(fact) for fact in way])
    check_moves(walk)
    assert walk.saga.state is State.ACKED
    assert intended(walk) == [Step.DEPLOY, Step.REGISTER]


@ways
@laws
@given(moments=st.lists(st.integers(0, len(HAPPY)), max_size=6))
def test_crashes(way: list[Fact | None], moments: list[int]) -> None:
    """However often the worker dies on the way, no step that has an intent makes a second one."""
    walk = Walk(message())
    for moment, fact in enumerate(way):
        for _ in range(moments.count(moment)):
            walk.fact = None
            walk.step(World(Unmined()))
        walk.step(World(fact))
    for _ in range(len(way)):
        found = {State.VALIDATED: Mined(RECEIPT), State.TOKEN_DEPLOYED: Mined(LATER)}
        walk.step(World(found.get(walk.saga.state)))
    check_moves(walk)
    assert len(intended(walk)) == len(set(intended(walk)))


@laws
@given(st.sampled_from([0, 1, 5]), st.lists(worlds, max_size=12))
def test_cancelled(after: int, answers: list[World]) -> None:
    """A cancelled step leaves nothing of itself behind: a resume looks at the chain first."""
    walk = Walk(message())
    for fact in HAPPY_PAIR[:5]:
        walk.step(World(fact))
    for _ in range(after):
        walk.step(World(Unmined()))
        walk.step(World(Sent()))
    walk.fact = Cancelled("0x12")
    walk.step(World(None))
    assert walk.saga.state is State.DEAD_LETTERED
    assert (walk.saga.deploy, walk.saga.register) == (None, None)
    assert walk.saga.error_class == ErrorClass.CANCELLED
    walk.step(World(None, resumes=True))
    walk.step(World(Absent(CALL)))
    assert walk.actions[-1] == LookUp(Step.DEPLOY)
    for world in answers:
        walk.step(world)
    check_moves(walk)
