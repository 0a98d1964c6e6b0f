import json

import msgspec
import pytest

from saga.actions import Advance, Fail
from saga.facts import Sent
from saga.model import Deployment, ErrorClass, Registration, Saga, State
from states.registered import decide, event_of
from tests.support.sagas import LATER, POLICY, RECEIPT, SENDER, TOKEN, make, message

SAGA = make(State.REGISTERED)


def test_event() -> None:
    """The event is built from the stored message and the two receipts alone."""
    action = decide(SAGA, None, POLICY)
    assert isinstance(action, Advance)
    assert action.event is not None
    assert not action.ack
    assert json.loads(action.event) == {
        "event_type": "token_deployed",
        "model_id": "model_123",
        "token_address": TOKEN,
        "token_symbol": "HKAI-123",
        "token_name": "Hokusai Model 123",
        "transaction_hash": RECEIPT.tx_hash,
        "registry_transaction_hash": LATER.tx_hash,
        "mlflow_run_id": "run_abc",
        "model_name": "classifier",
        "model_version": "1.1.0",
        "deployment_timestamp": "2024-01-27T10:01:30Z",
        "deployer_address": SENDER,
        "network": "sepolia",
        "block_number": 7,
        "gas_used": "1000000",
        "gas_price": "2000000000",
        "performance_metric": "accuracy",
        "performance_improvement": event_of(SAGA, POLICY).performance_improvement,
        "deployment_cost_wei": "4000000000000000",
        "message_version": "1.0",
    }


def test_same_bytes() -> None:
    """Another worker, at another time, builds the same bytes."""
    for saga in (SAGA, saga_at(*PRICES)):
        later = msgspec.structs.replace(saga, updated_ms=99, takeovers=2, resumed=True, gas_used=5)
        assert decide(later, Sent(), POLICY) == decide(saga, None, POLICY)


PRICES = ("3000.25", "2999.1")


def saga_at(
    deploy: str | None, register: str | None, *, adopted: tuple[bool, bool] = (False, False)
) -> Saga:
    """A registered saga whose transactions were seen at these prices."""
    receipts = [
        msgspec.structs.replace(receipt, native_usd=price)
        for receipt, price in ((RECEIPT, deploy), (LATER, register))
    ]
    return make(
        State.REGISTERED,
        deployment=Deployment(token=TOKEN, receipt=receipts[0], adopted=adopted[0]),
        registration=Registration(receipt=receipts[1], adopted=adopted[1]),
    )


def test_cost() -> None:
    """The event tells what deployment and registration cost, each at the price of its receipt."""
    event = event_of(saga_at(*PRICES), POLICY)
    assert event.deployment_cost_wei == "4000000000000000"
    assert event.deployment_cost_usd == "11.998700"


@pytest.mark.parametrize("prices", [(None, None), ("3000", None), (None, "3000")])
def test_cost_without_price(prices: tuple[str | None, str | None]) -> None:
    """Without one of the prices the event has no cost in dollars."""
    event = event_of(saga_at(*prices), POLICY)
    assert (event.deployment_cost_wei, event.deployment_cost_usd) == ("4000000000000000", None)


@pytest.mark.parametrize(
    ("prices", "adopted"),
    [
        ((None, None), (True, True)),
        ((None, "3000"), (True, False)),
        (("3000", None), (False, True)),
    ],
)
def test_cost_adopted(prices: tuple[str | None, str | None], adopted: tuple[bool, bool]) -> None:
    """What is adopted, which has no price, changes nothing in the event but that it has no dollars:
    neither all nor some."""
    costless = msgspec.structs.replace(event_of(saga_at(*PRICES), POLICY), deployment_cost_usd=None)
    assert event_of(saga_at(*prices, adopted=adopted), POLICY) == costless


def test_contributor() -> None:
    """A contributor is passed on in checksummed spelling."""
    saga = make(State.REGISTERED, message=message(contributor_address=SENDER.lower()))
    assert event_of(saga, POLICY).contributor_address == SENDER


def test_message_refused() -> None:
    """A stored message that is refused by now fails as invalid."""
    action = decide(make(State.REGISTERED, message=b"{}"), None, POLICY)
    assert isinstance(action, Fail)
    assert action.error_class is ErrorClass.INVALID
