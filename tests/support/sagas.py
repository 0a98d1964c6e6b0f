"""Sagas, facts and a policy to decide on, all of them plain data."""

import json
from typing import Any

import msgspec

from saga.facts import Call, TokenExists
from saga.messages import content_fingerprint, parse
from saga.model import Attempt, Deployment, Intent, Lease, Receipt, Registration, Saga, State, Step
from saga.policy import Policy

OWN = "a" * 32
OTHER = "b" * 32
TOKEN = "0x5FbDB2315678afecb367f032d93F642f64180aa3"
SENDER = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"
POLICY = Policy(network="sepolia", min_improvement_percent=1.0)
PAYLOAD: dict[str, Any] = {
    "model_id": "model_123",
    "token_symbol": "HKAI-123",
    "metric_name": "accuracy",
    "baseline_value": 0.8,
    "current_value": 0.884,
    "model_name": "classifier",
    "model_version": "1.1.0",
    "mlflow_run_id": "run_abc",
}


def message(**changes: object) -> bytes:
    """An improvement of 10.5 %, unless changed."""
    return json.dumps(PAYLOAD | changes).encode()


MESSAGE = message()
CONTENT = content_fingerprint(parse(MESSAGE))
CALL = Call(to=SENDER, data="0x01", gas=1, max_fee=2, max_priority_fee=1, predicted=TOKEN)
RECEIPT = Receipt(
    tx_hash="0x" + "1a" * 32,
    block_number=7,
    block_hash="0x" + "2b" * 32,
    block_time=1_706_349_690,
    sender=SENDER,
    gas_used=1_000_000,
    gas_price=2_000_000_000,
)
LATER = msgspec.structs.replace(RECEIPT, tx_hash="0x" + "3c" * 32, block_number=8)
DEPLOYMENT = Deployment(token=TOKEN, receipt=RECEIPT)
REGISTRATION = Registration(receipt=LATER)
TOKEN_EXISTS = TokenExists(
    deployment=msgspec.structs.replace(DEPLOYMENT, adopted=True),
    name="Hokusai Model 123",
    symbol="HKAI-123",
    mlflow_run_id="run_abc",
)


def intent(step: Step = Step.DEPLOY, nonce: int = 5) -> Intent:
    attempt = Attempt(hash="0x" + "4d" * 32, raw="0x02", max_fee=2, max_priority_fee=1, gas=1)
    return Intent(
        step=step,
        sender=SENDER,
        chain_id=1,
        nonce=nonce,
        to=SENDER,
        predicted=TOKEN,
        attempts=(attempt,),
    )


def make(state: State, **changes: Any) -> Saga:
    """A saga in `state`, with what the earlier states have left in it."""
    given: dict[str, Any] = {}
    passed = list(State)[: list(State).index(state)]
    if State.RECEIVED in passed:
        given |= {"model_id": "model_123", "claim": OWN, "claim_same": True, "content": CONTENT}
    if State.VALIDATED in passed:
        given |= {"deployment": DEPLOYMENT}
    if State.TOKEN_DEPLOYED in passed:
        given |= {"registration": REGISTRATION}
    given |= {"id": OWN, "version": 1, "message": MESSAGE, "created_ms": 0, "updated_ms": 0}
    return Saga(**given | {"state": state, "lease": Lease(owner="w.1", fence=1)} | changes)
