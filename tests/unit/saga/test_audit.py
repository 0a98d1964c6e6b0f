"""Laws of the audit: it finds each thing that must never be, and nothing else."""

import json
from typing import Any

import msgspec
import pytest

from saga.audit import Evidence, audit
from saga.messages import identify
from saga.model import Deployment, Lease, Receipt, Saga, State

RAW = b'{"model_id": "m"}'
SAGA_ID = identify(RAW).saga_id
TOKEN = "0x" + "11" * 20
OTHER = "0x" + "22" * 20
RECEIPT = Receipt(
    tx_hash="0x" + "ab" * 32,
    block_number=1,
    block_hash="0x" + "cd" * 32,
    block_time=0,
    sender=OTHER,
    gas_used=1,
    gas_price=1,
)


def saga(state: State) -> Saga:
    return Saga(
        id=SAGA_ID,
        state=state,
        version=6,
        lease=Lease(owner="", fence=1),
        message=RAW,
        created_ms=0,
        updated_ms=0,
        model_id="m",
        deployment=Deployment(token=TOKEN, receipt=RECEIPT),
    )


def event(token: str) -> bytes:
    return json.dumps({"model_id": "m", "token_address": token}).encode()


CLEAN = Evidence(
    sent=[RAW],
    sagas={SAGA_ID: saga(State.ACKED)},
    contracts={"m": [TOKEN]},
    events=[event(TOKEN)],
    dead_letters=[],
)


def test_a_clean_run_has_no_findings() -> None:
    """One saga, one contract, one event, empty lists: nothing is found."""
    assert audit(CLEAN) == []


def test_a_dead_letter_is_accounted_for() -> None:
    """A dead-lettered saga whose message is in the DLQ is no loss."""
    letter = json.dumps({"saga_id": SAGA_ID}).encode()
    dead = {SAGA_ID: saga(State.DEAD_LETTERED)}
    evidence = msgspec.structs.replace(
        CLEAN, sagas=dead, contracts={}, events=[], dead_letters=[letter]
    )
    assert audit(evidence) == []


def test_a_discarded_saga_is_accounted_for() -> None:
    """A saga that an operator has discarded is no loss; letters of others are nobody's."""
    discarded = msgspec.structs.replace(saga(State.DEAD_LETTERED), discarded="withdrawn")
    evidence = msgspec.structs.replace(
        CLEAN,
        sagas={SAGA_ID: discarded},
        contracts={},
        events=[],
        dead_letters=[b"\xff", b"[]", b'{"saga_id": 5}', b"[" * 100_000],
    )
    assert audit(evidence) == []


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        ({"sagas": {}, "contracts": {}, "events": []}, "lost: no saga for message"),
        ({"sagas": {SAGA_ID: saga(State.VALIDATED)}, "events": []}, "unfinished: saga"),
        (
            {"sagas": {SAGA_ID: saga(State.DEAD_LETTERED)}, "events": []},
            "is dead-lettered, but not in the DLQ",
        ),
        ({"contracts": {"m": [TOKEN, OTHER]}}, "duplicate: model 'm' has 2 contracts"),
        ({"contracts": {"m": [OTHER]}}, "missing: model 'm' has no contract at"),
        ({"contracts": {}}, "missing: model 'm' has no contract at"),
        ({"events": []}, "missing or repeated: 0 event(s)"),
        ({"events": [event(TOKEN), event(TOKEN)]}, "missing or repeated: 2 event(s)"),
        ({"events": [event(TOKEN), event(OTHER)]}, "missing or repeated: 1 event(s)"),
        ({"inbound": 2}, "2 message(s) left in the inbound list"),
        ({"processing": 1}, "1 message(s) left in the processing list"),
    ],
)
def test_each_fault_is_found(change: dict[str, Any], finding: str) -> None:
    """Each fault gives exactly one finding that says what it is."""
    findings = audit(msgspec.structs.replace(CLEAN, **change))
    assert len(findings) == 1
    assert finding in findings[0]
