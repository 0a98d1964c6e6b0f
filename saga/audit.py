"""Judging a run by what can be seen from outside: messages, sagas, contracts, events. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec

from saga.messages import identify
from saga.model import Saga, State
from saga.wire import too_deep


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What was found after a run."""

    sent: Sequence[bytes]
    sagas: Mapping[str, Saga]
    """By saga id."""
    contracts: Mapping[str, Sequence[str]]
    """Model id → addresses of the contracts that say so in their constructor's logs."""
    events: Sequence[bytes]
    """The outbound list."""
    dead_letters: Sequence[bytes]
    """The DLQ's entries."""
    inbound: int = 0
    processing: int = 0


class _Event(msgspec.Struct):
    model_id: str
    token_address: str


class _Letter(msgspec.Struct):
    saga_id: str = ""


def audit(evidence: Evidence) -> list[str]:
    """The findings, one line each; none means: no duplicate, no loss, no missing event."""
    return [
        *_messages(evidence),
        *_contracts(evidence),
        *_events(evidence),
        *(
            f"{length} message(s) left in the {name} list"
            for name, length in (
                ("inbound", evidence.inbound),
                ("processing", evidence.processing),
            )
            if length
        ),
    ]


def _messages(evidence: Evidence) -> list[str]:
    letters = {_author(letter) for letter in evidence.dead_letters}
    findings = []
    for saga_id in dict.fromkeys(identify(raw).saga_id for raw in evidence.sent):
        saga = evidence.sagas.get(saga_id)
        if saga is None:
            findings.append(f"lost: no saga for message {saga_id}")
        elif not saga.state.terminal:
            findings.append(f"unfinished: saga {saga_id} is {saga.state}")
        elif saga.state is State.DEAD_LETTERED and not (saga.discarded or saga_id in letters):
            findings.append(f"lost: saga {saga_id} is dead-lettered, but not in the DLQ")
    return findings


def _author(letter: bytes) -> str:
    """The saga that left it; none of ours left what does not say so."""
    try:
        return "" if too_deep(letter) else msgspec.json.decode(letter, type=_Letter).saga_id
    except msgspec.MsgspecError:
        return ""


def _acked(evidence: Evidence) -> list[Saga]:
    return [saga for saga in evidence.sagas.values() if saga.state is State.ACKED]


def _contracts(evidence: Evidence) -> list[str]:
    findings = [
        f"duplicate: model {model!r} has {len(addresses)} contracts: {', '.join(addresses)}"
        for model, addresses in evidence.contracts.items()
        if len(addresses) > 1
    ]
    for saga in _acked(evidence):
        token = saga.deployment.token if saga.deployment else None
        if token not in evidence.contracts.get(saga.model_id or "", ()):
            findings.append(f"missing: model {saga.model_id!r} has no contract at {token}")
    return findings


def _events(evidence: Evidence) -> list[str]:
    decoded = [msgspec.json.decode(event, type=_Event) for event in evidence.events]
    counts = Counter((event.model_id, event.token_address) for event in decoded)
    expected = {
        (saga.model_id or "", saga.deployment.token if saga.deployment else "")
        for saga in _acked(evidence)
    }
    return [
        f"missing or repeated: {counts[key]} event(s) for model {key[0]!r}, token {key[1]}"
        for key in sorted(expected | counts.keys())
        if counts[key] != (key in expected)
    ]
