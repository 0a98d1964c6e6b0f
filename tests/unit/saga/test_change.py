import msgspec
import pytest

from saga.actions import Advance, Fail, Skip
from saga.change import change_of, left_behind
from saga.costs import Cost, raised
from saga.model import ErrorClass, Saga, State, Step
from saga.redaction import MAX_REASON
from states.validated import decide
from tests.support.sagas import (
    DEPLOYMENT,
    LATER,
    POLICY,
    RECEIPT,
    REGISTRATION,
    TOKEN,
    TOKEN_EXISTS,
    intent,
    make,
)

PAID = {"gas_used": 21_000, "fees_wei": 7}


def spent(saga: Saga) -> tuple[int, int]:
    return saga.gas_used, saga.fees_wei


def test_deployment_paid() -> None:
    """A deployment of the saga's own is paid by it, on top of what came to nothing before."""
    saga = make(State.VALIDATED, deploy=intent(), **PAID)
    change = change_of(saga, Advance(deployment=DEPLOYMENT))
    assert spent(change.saga) == (1_021_000, 2 * 10**15 + 7)
    assert change.tx == RECEIPT.tx_hash


def test_registration_paid() -> None:
    """So is a registration, with what an OP-stack chain took for its data."""
    receipt = msgspec.structs.replace(LATER, l1_fee=100)
    registration = msgspec.structs.replace(REGISTRATION, receipt=receipt)
    change = change_of(make(State.TOKEN_DEPLOYED), Advance(registration=registration))
    assert spent(change.saga) == (1_000_000, 2 * 10**15 + 100)
    assert change.tx == LATER.tx_hash


@pytest.mark.parametrize(
    ("state", "action"),
    [
        (
            State.VALIDATED,
            Advance(deployment=msgspec.structs.replace(DEPLOYMENT, adopted=True)),
        ),
        (
            State.TOKEN_DEPLOYED,
            Advance(registration=msgspec.structs.replace(REGISTRATION, adopted=True)),
        ),
        (State.REGISTERED, Advance(event=b"{}")),
        (State.PUBLISHED, Advance(ack=True)),
        (State.VALIDATED, Fail(ErrorClass.RETRIES, "why")),
        (State.RECEIVED, Skip(ErrorClass.CRITERIA, "why")),
    ],
)
def test_nothing_paid(state: State, action: Advance | Fail | Skip) -> None:
    """What is adopted, and what sends nothing, costs nothing and keeps what was paid before."""
    assert spent(change_of(make(state, **PAID), action).saga) == (21_000, 7)


def test_cancelled_paid() -> None:
    """An operator's self-send is paid by the saga that it ends."""
    saga = make(State.VALIDATED, deploy=intent(), **PAID)
    action = Fail(ErrorClass.CANCELLED, "why", forget=(Step.DEPLOY,), cost=Cost(21_000, 3))
    assert spent(change_of(saga, action).saga) == (42_000, 10)


def test_cancelled_left() -> None:
    """A saga that a cancellation ends knows what it leaves behind it, and nothing of the spent."""
    deploy, register = intent(), intent(Step.REGISTER, nonce=6)
    (attempt,) = register.attempts
    behind = msgspec.structs.replace(
        register, attempts=(msgspec.structs.replace(attempt, hash="0x66"),)
    )
    saga = make(State.VALIDATED, deploy=deploy, register=behind)
    action = Fail(ErrorClass.CANCELLED, "why", forget=(Step.DEPLOY, Step.REGISTER))
    change = change_of(saga, action)
    assert (change.left, change.saga.left) == ((behind,), ("0x66",))
    assert change_of(saga, Fail(ErrorClass.CANCELLED, "why", forget=(Step.DEPLOY,))).left == ()


def test_left_and_found_paid() -> None:
    """What a saga left and finds mined is paid by it, as its own."""
    saga = make(State.VALIDATED, left=(RECEIPT.tx_hash,), **PAID)
    action = decide(saga, TOKEN_EXISTS, POLICY)
    assert isinstance(action, Advance)
    change = change_of(saga, action)
    assert spent(change.saga) == (1_021_000, 2 * 10**15 + 7)
    assert raised(saga, change.saga).deployments == 1


@pytest.mark.parametrize("kind", [Fail, Skip])
def test_reasons_as_kept(kind: type[Fail] | type[Skip]) -> None:
    """No secret and no flood is stored: error and note are one text, masked and cut."""
    url = "https://eth-mainnet.g.alchemy.com/v2/SECRETKEY0123456789"
    change = change_of(make(State.VALIDATED), kind(ErrorClass.RETRIES, f"{url} {'x' * 9_000} end"))
    assert change.note == change.saga.error
    assert "SECRETKEY" not in str(change.note)
    assert len(change.note or "") == MAX_REASON


def test_left_behind() -> None:
    """With a deployment that a saga leaves goes the registration right behind it, and no other."""
    deploy = intent()
    behind = intent(Step.REGISTER, nonce=deploy.nonce + 1)
    saga = make(State.VALIDATED, deploy=deploy, register=behind)
    assert left_behind(saga, Step.DEPLOY) == (deploy, behind)
    assert left_behind(saga, Step.REGISTER) == (behind,)
    assert left_behind(make(State.VALIDATED, deploy=deploy), Step.DEPLOY) == (deploy,)
    assert left_behind(make(State.VALIDATED), Step.DEPLOY) == ()
    for other in (
        intent(Step.REGISTER, nonce=deploy.nonce + 2),
        msgspec.structs.replace(behind, sender=TOKEN),
    ):
        saga = make(State.VALIDATED, deploy=deploy, register=other)
        assert left_behind(saga, Step.DEPLOY) == (deploy,)
