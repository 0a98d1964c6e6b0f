import msgspec
import pytest

from saga.actions import Abandon, Advance, Ask, Fail, Intend, LookUp, Retry, Send, Watch
from saga.facts import (
    Absent,
    Cancelled,
    ClaimLost,
    EntryExists,
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
from saga.model import Deployment, ErrorClass, State, Step
from states.validated import decide
from tests.support.sagas import (
    CALL,
    OTHER,
    POLICY,
    RECEIPT,
    REGISTRATION,
    TOKEN,
    TOKEN_EXISTS,
    intent,
    make,
)

FRESH = make(State.VALIDATED)
OUT = make(State.VALIDATED, deploy=intent())


def test_look_up_first() -> None:
    """The chain is asked before anything is signed."""
    assert decide(FRESH, None, POLICY) == LookUp(Step.DEPLOY)


def test_absent() -> None:
    """Only a model without a token gets an intent."""
    assert decide(FRESH, Absent(CALL), POLICY) == Intend(Step.DEPLOY, CALL)


def test_absent_both() -> None:
    """A registration that can be signed already goes out with the deployment."""
    assert decide(FRESH, Absent(CALL, CALL), POLICY) == Intend(Step.DEPLOY, CALL, CALL)


def test_intended() -> None:
    """A stored intent is sent."""
    assert decide(OUT, Intended(), POLICY) == Send(Step.DEPLOY)


def test_sent() -> None:
    """What is sent is watched."""
    assert decide(OUT, Sent(), POLICY) == Watch(Step.DEPLOY)


def test_taken_up() -> None:
    """A saga taken up with an intent asks for its receipt before it sends."""
    assert decide(OUT, None, POLICY) == Ask(Step.DEPLOY)


def test_unmined() -> None:
    """Stored bytes without a receipt are sent again as they are."""
    assert decide(OUT, Unmined(), POLICY) == Send(Step.DEPLOY)


def test_mined() -> None:
    """A mined deployment advances with the address known before it was sent."""
    expected = Advance(deployment=Deployment(token=TOKEN, receipt=RECEIPT))
    assert decide(OUT, Mined(RECEIPT), POLICY) == expected


def test_adopted() -> None:
    """A token of the same content is adopted, not deployed again."""
    action = decide(FRESH, TOKEN_EXISTS, POLICY)
    assert isinstance(action, Advance)
    assert action.deployment == TOKEN_EXISTS.deployment
    assert action.note is not None


def test_left() -> None:
    """A token that the saga's own transaction made, which it had left to a lane, is not adopted."""
    saga = make(State.VALIDATED, left=("0x01", RECEIPT.tx_hash))
    action = decide(saga, TOKEN_EXISTS, POLICY)
    assert isinstance(action, Advance)
    assert action.deployment == Deployment(token=TOKEN, receipt=RECEIPT)
    assert action.note is not None
    assert "adopted" not in action.note


def test_left_replaced() -> None:
    """A token that another transaction made is adopted, whatever the saga has left: its replacement
    by the lane's keeper has a hash that no saga knows."""
    action = decide(make(State.VALIDATED, left=("0x01",)), TOKEN_EXISTS, POLICY)
    assert isinstance(action, Advance)
    assert action.deployment == TOKEN_EXISTS.deployment


def test_left_of_other_content() -> None:
    """What a left transaction made is held against the message as anything else."""
    found = msgspec.structs.replace(TOKEN_EXISTS, symbol="another")
    assert isinstance(decide(make(State.VALIDATED, left=(RECEIPT.tx_hash,)), found, POLICY), Fail)


@pytest.mark.parametrize("field", ["name", "symbol", "mlflow_run_id"])
def test_other_content(field: str) -> None:
    """A token that differs in one field fails as a conflict that names both values."""
    found: TokenExists = msgspec.structs.replace(TOKEN_EXISTS, **{field: "another"})
    action = decide(FRESH, found, POLICY)
    assert isinstance(action, Fail)
    assert action.error_class is ErrorClass.CONFLICT
    ours = getattr(TOKEN_EXISTS, field)
    assert f"{field} 'another' instead of {ours!r}" in action.reason


def test_adopted_message_refused() -> None:
    """A stored message that is refused by now fails as invalid instead of crashing."""
    policy = msgspec.structs.replace(POLICY, max_message_bytes=10)
    action = decide(FRESH, TOKEN_EXISTS, policy)
    assert isinstance(action, Fail)
    assert action.error_class is ErrorClass.INVALID


def test_claim_lost() -> None:
    """A saga whose model was taken over before it sent anything fails as a conflict."""
    action = decide(FRESH, ClaimLost(OTHER), POLICY)
    assert isinstance(action, Fail)
    assert action.error_class is ErrorClass.CONFLICT
    assert OTHER in action.reason


def test_registry_conflict() -> None:
    """A registry that holds another token for the model fails as such."""
    expected = Fail(ErrorClass.REGISTRY_CONFLICT, "why")
    assert decide(FRESH, RegistryConflict("why"), POLICY) == expected


def test_refused() -> None:
    """A call that the chain would revert fails and is not sent."""
    assert decide(FRESH, Refused("why"), POLICY) == Fail(ErrorClass.REVERTED, "why")


def test_reverted() -> None:
    """A reverted deployment is given up and counts as a try."""
    action = decide(OUT, Reverted("0x12", 9), POLICY)
    assert isinstance(action, Abandon)
    assert (action.step, action.counts) == (Step.DEPLOY, True)
    assert "0x12" in action.reason


def test_cancelled() -> None:
    """A deployment that an operator has cancelled fails, and leaves no intent to resume to."""
    action = decide(OUT, Cancelled("0x12"), POLICY)
    assert isinstance(action, Fail)
    assert action.error_class is ErrorClass.CANCELLED
    assert action.forget == (Step.DEPLOY, Step.REGISTER)


def test_nonce_taken() -> None:
    """A nonce that another spent is given up and counts as nobody's fault."""
    action = decide(OUT, NonceTaken(5), POLICY)
    assert isinstance(action, Abandon)
    assert (action.step, action.counts) == (Step.DEPLOY, False)


def test_timed_out() -> None:
    """A deployment that is not mined in time is tried again later."""
    action = decide(OUT, TimedOut(300.0), POLICY)
    assert isinstance(action, Retry)
    assert "300 s" in action.reason


def test_entry_is_nonsense() -> None:
    """A registry entry is no answer to a deployment, and never advances it."""
    assert isinstance(decide(FRESH, EntryExists(REGISTRATION), POLICY), Fail)
