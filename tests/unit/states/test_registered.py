import json

import msgspec

from saga.actions import Advance, Fail
from saga.facts import Sent
from saga.model import ErrorClass, State
from states.registered import decide, event_of
from tests.support.sagas import DEPLOYMENT, LATER, POLICY, RECEIPT, SENDER, TOKEN, make, message

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
        "message_version": "1.0",
    }


def test_same_bytes() -> None:
    """Another worker, at another time, with an adopted token, builds the same bytes."""
    later = make(
        State.REGISTERED,
        updated_ms=99,
        takeovers=2,
        resumed=True,
        deployment=msgspec.structs.replace(DEPLOYMENT, adopted=True),
    )
    assert decide(later, Sent(), POLICY) == decide(SAGA, None, POLICY)


def test_contributor() -> None:
    """A contributor is passed on in checksummed spelling."""
    saga = make(State.REGISTERED, message=message(contributor_address=SENDER.lower()))
    assert event_of(saga, POLICY).contributor_address == SENDER


def test_message_refused() -> None:
    """A stored message that is refused by now fails as invalid."""
    action = decide(make(State.REGISTERED, message=b"{}"), None, POLICY)
    assert isinstance(action, Fail)
    assert action.error_class is ErrorClass.INVALID
