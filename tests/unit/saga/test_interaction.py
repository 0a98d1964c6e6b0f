import pytest

from saga.actions import Abandon, Ask, Fail, Intend, LookUp, Retry, Send, Watch
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
    Unmined,
)
from saga.interaction import pursue
from saga.model import ErrorClass, Saga, State, Step
from tests.support.sagas import CALL, OTHER, RECEIPT, REGISTRATION, TOKEN_EXISTS, intent, make

STEPS = [(State.VALIDATED, Step.DEPLOY), (State.TOKEN_DEPLOYED, Step.REGISTER)]
both_steps = pytest.mark.parametrize(("state", "step"), STEPS)
OF_INTENT: list[Fact] = [
    Intended(),
    Sent(),
    Unmined(),
    TimedOut(1.0),
    Mined(RECEIPT),
    Reverted("0x12"),
    NonceTaken(5),
]


def out(state: State, step: Step) -> Saga:
    """A saga whose step has a stored intent."""
    return make(state, **{step.value: intent(step)})


@both_steps
@pytest.mark.parametrize(
    "fact",
    [
        Mined(RECEIPT),
        TOKEN_EXISTS,
        EntryExists(REGISTRATION),
        RegistryConflict("why"),
        ClaimLost(OTHER),
    ],
)
def test_settled(state: State, step: Step, fact: Fact) -> None:
    """A fact that settles a step is handed to its state as it is."""
    assert pursue(out(state, step), step, fact) is fact


@both_steps
def test_refused(state: State, step: Step) -> None:
    """A refusal ends the step, sent or not."""
    for saga in (make(state), out(state, step)):
        assert pursue(saga, step, Refused("why")) == Fail(ErrorClass.REVERTED, "why")


@both_steps
def test_intend(state: State, step: Step) -> None:
    """An intent is made when the chain holds nothing and there is none yet."""
    assert pursue(make(state), step, Absent(CALL)) == Intend(step, CALL)


@both_steps
def test_no_second_intent(state: State, step: Step) -> None:
    """A step that has an intent asks for its receipts, and never makes a second one."""
    assert pursue(out(state, step), step, Absent(CALL)) == Ask(step)


@both_steps
def test_begin(state: State, step: Step) -> None:
    """A step begins by looking, and is taken up by asking."""
    assert pursue(make(state), step, None) == LookUp(step)
    assert pursue(out(state, step), step, None) == Ask(step)


@both_steps
@pytest.mark.parametrize("fact", [Intended(), Unmined()])
def test_send(state: State, step: Step, fact: Fact) -> None:
    """Stored bytes that no block holds are sent."""
    assert pursue(out(state, step), step, fact) == Send(step)


@both_steps
def test_watch(state: State, step: Step) -> None:
    """Sent bytes are watched."""
    assert pursue(out(state, step), step, Sent()) == Watch(step)


@both_steps
def test_timed_out(state: State, step: Step) -> None:
    """Bytes that no block took in time are tried again later, and keep their nonce."""
    assert isinstance(pursue(out(state, step), step, TimedOut(2.5)), Retry)


@both_steps
def test_reverted(state: State, step: Step) -> None:
    """A revert gives the intent up and counts."""
    action = pursue(out(state, step), step, Reverted("0x12"))
    assert action == Abandon(step, "transaction 0x12 reverted", counts=True)


@both_steps
def test_nonce_taken(state: State, step: Step) -> None:
    """A nonce spent by another gives the intent up without counting."""
    action = pursue(out(state, step), step, NonceTaken(5))
    assert isinstance(action, Abandon)
    assert not action.counts
    assert "nonce 5" in action.reason


@both_steps
@pytest.mark.parametrize("fact", OF_INTENT)
def test_facts_need_an_intent(state: State, step: Step, fact: Fact) -> None:
    """A fact about a transaction that was never stored is not believed: the chain is asked."""
    assert pursue(make(state), step, fact) == LookUp(step)


def test_steps_apart() -> None:
    """The intent of one step is never taken for the other's."""
    saga = make(State.TOKEN_DEPLOYED, deploy=intent(Step.DEPLOY))
    assert pursue(saga, Step.REGISTER, Intended()) == LookUp(Step.REGISTER)
