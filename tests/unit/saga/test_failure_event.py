"""Laws of `token_deploy_failed`: what it says, what it never says."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from jsonschema import Draft202012Validator

from saga.failure_event import (
    MAX_ERROR,
    TokenDeployFailedMessage,
    encode_failure,
    failure_of,
    known_hashes,
)
from saga.model import Saga, State, Step
from saga.redaction import for_strangers
from saga.schemas import FAILURE, schemas
from tests.support.sagas import LATER, MESSAGE, RECEIPT, intent, make

GOLDEN = Path(__file__).parents[2] / "golden" / "messages" / "token_deploy_failed.json"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SENT = "0x" + "4d" * 32
KEY = "4c0883a69102937d6231471b5dbb6204fe512961708279b1d4f1d6b2f0a1c3e5"


def saga(state: State = State.VALIDATED, **changes: Any) -> Saga:
    given = {
        "id": "0123456789abcdef0123456789abcdef",
        "message_id": "msg-7",
        "attempts": 3,
        "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01",
        "left": (RECEIPT.tx_hash,),
        "deploy": intent(),
    }
    return make(state, **given | changes)


def failure(
    before: Saga,
    error: str = "the node at https://node.example/v3/0123456789 said no (tried 4 times)",
) -> TokenDeployFailedMessage:
    after = msgspec.structs.replace(before, error=error, error_class="retries_exhausted")
    return failure_of(before, after, failed_at="2024-01-27T10:01:30.123Z", network="polygon")


def test_golden() -> None:
    """A failure has exactly these fields, in this order, on one line."""
    sample = json.loads(GOLDEN.read_bytes())
    found = encode_failure(failure(saga()))
    assert found == json.dumps(sample, separators=(",", ":")).encode()
    assert encode_failure(msgspec.json.decode(found, type=TokenDeployFailedMessage)) == found


@pytest.mark.parametrize("state", [state for state in State if not state.terminal])
def test_schema(state: State) -> None:
    """Whatever a saga has and lacks, its failure is what the schema says."""
    for changes in (
        {},
        {"model_id": None, "message_id": None, "traceparent": None, "left": (), "deploy": None},
        {"traceparent": "garbage", "left": ("garbage", "")},
    ):
        raw = encode_failure(failure(saga(state, **changes)))
        Draft202012Validator(schemas()[FAILURE]).validate(json.loads(raw))
        assert MESSAGE.decode() not in raw.decode()


def test_hashes() -> None:
    """Each transaction that a saga knows of is named once, in the order of its life."""
    before = saga(State.REGISTERED, register=intent(Step.REGISTER, 6), left=("0x" + "11" * 32,))
    assert known_hashes(before, before) == (
        "0x" + "11" * 32,
        SENT,
        RECEIPT.tx_hash,
        LATER.tx_hash,
    )


def test_forgotten_hashes() -> None:
    """A transaction that the failing write forgets is named all the same, and so is one that it
    leaves to its lane."""
    before = saga(left=())
    after = msgspec.structs.replace(before, deploy=None, left=(RECEIPT.tx_hash,))
    found = failure_of(before, after, failed_at="2024-01-27T10:01:30.123Z", network="polygon")
    assert found.transaction_hashes == (SENT, RECEIPT.tx_hash)


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        ("redis://:hunter2@host:6379/0 is away", "redis://***@host:6379/*** is away"),
        ("at https://node.example/abcdef: 401", "at https://node.example/*** 401"),
        ("at wss://n.example:443?k=1, then http://b", "at wss://n.example:443/*** then http://b"),
        (f"private key: 0x{KEY}!", "private key: ***!"),
        ("sent 0x02f8" + "1c" * 150, "sent 0x02f81c…***"),
        (f"hash {SENT} reverted", f"hash {SENT} reverted"),
        ("x" * (MAX_ERROR + 1), "x" * MAX_ERROR + "…"),
    ],
)
def test_error(error: str, shown: str) -> None:
    """The error of a failure holds no credential, no path of a URL, no signed bytes, and an end."""
    assert failure(saga(), error).error == shown


def test_masked_twice() -> None:
    """What is masked stays as it is when it is masked again."""
    once = for_strangers("redis://:hunter2@host:6379/0 and https://n/v3/0123456789", 100)
    assert for_strangers(once, 100) == once
