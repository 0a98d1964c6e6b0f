import msgspec

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
    Unmined,
)
from saga.model import ErrorClass, Registration, State, Step
from states.token_deployed import decide
from tests.support.sagas import (
    CALL,
    LATER,
    OTHER,
    POLICY,
    REGISTRATION,
    TOKEN_EXISTS,
    intent,
    make,
)

FRESH = make(State.TOKEN_DEPLOYED)
OUT = make(State.TOKEN_DEPLOYED, register=intent(Step.REGISTER))
BEHIND = make(State.TOKEN_DEPLOYED, deploy=intent(), register=intent(Step.REGISTER, 6))


def test_look_up_first() -> None:
    """The registry is asked before anything is signed."""
    assert decide(FRESH, None, POLICY) == LookUp(Step.REGISTER)


def test_deployment_is_no_intent() -> None:
    """The intent of the deployment is none of the registration's."""
    assert decide(make(State.TOKEN_DEPLOYED, deploy=intent()), None, POLICY) == LookUp(
        Step.REGISTER
    )


def test_absent() -> None:
    """Only a model without an entry gets an intent."""
    assert decide(FRESH, Absent(CALL), POLICY) == Intend(Step.REGISTER, CALL)


def test_intended() -> None:
    """A stored intent is sent."""
    assert decide(OUT, Intended(), POLICY) == Send(Step.REGISTER)


def test_sent() -> None:
    """What is sent is watched."""
    assert decide(OUT, Sent(), POLICY) == Watch(Step.REGISTER)


def test_taken_up() -> None:
    """A saga taken up with an intent asks for its receipt before it sends."""
    assert decide(OUT, None, POLICY) == Ask(Step.REGISTER)


def test_unmined() -> None:
    """Stored bytes without a receipt are sent again as they are."""
    assert decide(OUT, Unmined(), POLICY) == Send(Step.REGISTER)


def test_mined() -> None:
    """A mined registration advances with its receipt."""
    expected = Advance(registration=Registration(receipt=LATER))
    assert decide(OUT, Mined(LATER), POLICY) == expected


def test_adopted() -> None:
    """An entry of our own token is adopted."""
    adopted = msgspec.structs.replace(REGISTRATION, adopted=True)
    action = decide(FRESH, EntryExists(adopted), POLICY)
    assert isinstance(action, Advance)
    assert action.registration == adopted
    assert action.note is not None


def test_left() -> None:
    """An entry that the saga's own transaction made, which it had left to a lane, is not
    adopted."""
    found = EntryExists(msgspec.structs.replace(REGISTRATION, adopted=True))
    action = decide(make(State.TOKEN_DEPLOYED, left=(LATER.tx_hash,)), found, POLICY)
    assert isinstance(action, Advance)
    assert action.registration == REGISTRATION
    assert action.note is not None
    assert "adopted" not in action.note


def test_registry_conflict() -> None:
    """An entry of another token fails and is left alone."""
    expected = Fail(ErrorClass.REGISTRY_CONFLICT, "why")
    assert decide(FRESH, RegistryConflict("why"), POLICY) == expected


def test_claim_lost() -> None:
    """A model that is another saga's fails as a conflict."""
    action = decide(FRESH, ClaimLost(OTHER), POLICY)
    assert isinstance(action, Fail)
    assert action.error_class is ErrorClass.CONFLICT


def test_refused() -> None:
    """A call that the chain would revert fails and is not sent."""
    assert decide(FRESH, Refused("why"), POLICY) == Fail(ErrorClass.REVERTED, "why")


def test_reverted() -> None:
    """A reverted registration of a token of ours is given up and counts as a try."""
    action = decide(BEHIND, Reverted("0x12", 9), POLICY)
    assert isinstance(action, Abandon)
    assert (action.step, action.counts) == (Step.REGISTER, True)


def test_reverted_too_early() -> None:
    """A registration that went out before the token was there is given up, and is no failed try."""
    action = decide(OUT, Reverted("0x12", 1), POLICY)
    assert isinstance(action, Abandon)
    assert (action.step, action.counts) == (Step.REGISTER, False)


def test_cancelled() -> None:
    """A registration that an operator has cancelled fails; the token stays what it is."""
    action = decide(BEHIND, Cancelled("0x12"), POLICY)
    assert isinstance(action, Fail)
    assert (action.error_class, action.forget) == (ErrorClass.CANCELLED, (Step.REGISTER,))


def test_nonce_taken() -> None:
    """A nonce that another spent is given up and counts as nobody's fault."""
    action = decide(OUT, NonceTaken(5), POLICY)
    assert isinstance(action, Abandon)
    assert (action.step, action.counts) == (Step.REGISTER, False)


def test_timed_out() -> None:
    """A registration that is not mined in time is tried again later."""
    assert isinstance(decide(OUT, TimedOut(300.0), POLICY), Retry)


def test_token_is_nonsense() -> None:
    """A token is no answer to a registration, and never advances it."""
    assert isinstance(decide(FRESH, TOKEN_EXISTS, POLICY), Fail)
