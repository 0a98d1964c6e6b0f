import msgspec
import pytest

from saga.actions import Abandon, Ask, Fail, Intend, LookUp, Retry, Send, Watch
from saga.costs import Cost
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
    Unmined,
)
from saga.interaction import pursue
from saga.model import ErrorClass, Intent, Saga, State, Step
from tests.support.sagas import CALL, OTHER, RECEIPT, REGISTRATION, TOKEN_EXISTS, intent, make

STEPS = [(State.VALIDATED, Step.DEPLOY), (State.TOKEN_DEPLOYED, Step.REGISTER)]
both_steps = pytest.mark.parametrize(("state", "step"), STEPS)
OF_INTENT: list[Fact] = [
    Intended(),
    Sent(),
    Unmined(),
    TimedOut(1.0),
    Mined(RECEIPT),
    Reverted("0x12", 9),
    NonceTaken(5),
    Stranded("no funds"),
    Cancelled("0x12"),
]
FOLLOW = msgspec.structs.replace(CALL, data="0x02")


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
        action = pursue(saga, step, Refused("why"))
        assert action == Fail(ErrorClass.REVERTED, "why", forget=())


@both_steps
def test_intend(state: State, step: Step) -> None:
    """An intent is made when the chain holds nothing and there is none yet."""
    assert pursue(make(state), step, Absent(CALL)) == Intend(step, CALL)


def test_intend_both() -> None:
    """A registration goes out right behind its deployment, where the chain allows it."""
    action = pursue(make(State.VALIDATED), Step.DEPLOY, Absent(CALL, FOLLOW))
    assert action == Intend(Step.DEPLOY, CALL, FOLLOW)


def test_intend_behind_a_registration() -> None:
    """A deployment is made alone while a registration is out already: no step has two intents."""
    saga = make(State.VALIDATED, register=intent(Step.REGISTER))
    assert pursue(saga, Step.DEPLOY, Absent(CALL, FOLLOW)) == Intend(Step.DEPLOY, CALL)


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


def test_deployment_reverted() -> None:
    """A deployment that reverts gives its intent up and counts, whatever went behind it."""
    for saga in (
        out(State.VALIDATED, Step.DEPLOY),
        make(State.VALIDATED, deploy=intent(), register=intent(Step.REGISTER, 6)),
    ):
        action = pursue(saga, Step.DEPLOY, Reverted("0x12", 9))
        assert action == Abandon(Step.DEPLOY, "transaction 0x12 reverted", counts=True)


DEPLOYED_IN = RECEIPT.block_number


@pytest.mark.parametrize(
    ("deploy", "block"),
    [
        (intent(nonce=5), DEPLOYED_IN),
        (intent(nonce=5), DEPLOYED_IN + 1),
        (intent(nonce=60), DEPLOYED_IN + 1),
        (None, DEPLOYED_IN),
        (None, DEPLOYED_IN + 1),
        (msgspec.structs.replace(intent(nonce=60), sender="0x" + "11" * 20), DEPLOYED_IN),
    ],
)
def test_registration_reverted(deploy: Intent | None, block: int) -> None:
    """A registration that reverts when its token is there counts, whoever made the token."""
    saga = make(State.TOKEN_DEPLOYED, deploy=deploy, register=intent(Step.REGISTER, 6))
    action = pursue(saga, Step.REGISTER, Reverted("0x12", block))
    assert action == Abandon(Step.REGISTER, "transaction 0x12 reverted", counts=True)


@pytest.mark.parametrize(
    ("deploy", "block"),
    [
        (None, DEPLOYED_IN - 1),
        (intent(nonce=5), DEPLOYED_IN - 1),
        (intent(nonce=60), DEPLOYED_IN - 1),
        (intent(nonce=7), DEPLOYED_IN),
    ],
)
def test_registration_came_too_early(deploy: Intent | None, block: int) -> None:
    """A registration that was mined before the token was there had to revert: nobody's fault."""
    saga = make(State.TOKEN_DEPLOYED, deploy=deploy, register=intent(Step.REGISTER, 6))
    action = pursue(saga, Step.REGISTER, Reverted("0x12", block))
    assert isinstance(action, Abandon)
    assert (action.step, action.counts) == (Step.REGISTER, False)
    assert "0x12" in action.reason
    assert "not there yet" in action.reason


@pytest.mark.parametrize(
    ("state", "step", "forget"),
    [
        (State.VALIDATED, Step.DEPLOY, (Step.DEPLOY, Step.REGISTER)),
        (State.TOKEN_DEPLOYED, Step.REGISTER, (Step.REGISTER,)),
    ],
)
def test_cancelled(state: State, step: Step, forget: tuple[Step, ...]) -> None:
    """A cancelled step fails and forgets its intent; a deployment its registration's as well."""
    action = pursue(out(state, step), step, Cancelled("0x12"))
    reason = "cancelled by an operator's transaction 0x12"
    assert action == Fail(ErrorClass.CANCELLED, reason, forget=forget)


@both_steps
def test_nonce_taken(state: State, step: Step) -> None:
    """A nonce spent by another gives the intent up without counting."""
    action = pursue(out(state, step), step, NonceTaken(5))
    assert isinstance(action, Abandon)
    assert not action.counts
    assert "nonce 5" in action.reason


@both_steps
def test_stranded(state: State, step: Step) -> None:
    """A transaction that its lane cannot pay for is left to the lane, and counts for nothing."""
    action = pursue(out(state, step), step, Stranded("no funds"))
    assert action == Abandon(step, "no funds", counts=False, leave=True)


@both_steps
@pytest.mark.parametrize("cost", [Cost(21_000, 5), None])
def test_cost_goes_along(state: State, step: Step, cost: Cost | None) -> None:
    """What a transaction cost that came to nothing is recorded with its end, where it is known."""
    for fact in (Reverted("0x12", 1, cost), Reverted("0x12", 9, cost), NonceTaken(5, cost)):
        action = pursue(out(state, step), step, fact)
        assert isinstance(action, Abandon)
        assert action.cost == cost
    action = pursue(out(state, step), step, Cancelled("0x12", cost))
    assert isinstance(action, Fail)
    assert action.cost == cost


@both_steps
@pytest.mark.parametrize("fact", OF_INTENT)
def test_facts_need_an_intent(state: State, step: Step, fact: Fact) -> None:
    """A fact about a transaction that was never stored is not believed: the chain is asked."""
    assert pursue(make(state), step, fact) == LookUp(step)


def test_steps_apart() -> None:
    """The intent of one step is never taken for the other's."""
    saga = make(State.TOKEN_DEPLOYED, deploy=intent(Step.DEPLOY))
    assert pursue(saga, Step.REGISTER, Intended()) == LookUp(Step.REGISTER)
