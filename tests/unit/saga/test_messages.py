import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from saga.messages import (
    MAX_IDENTIFIED_BYTES,
    Identity,
    InvalidMessage,
    content_fingerprint,
    identify,
    parse,
    token_name,
)

GOLDEN = Path(__file__).parents[2] / "golden" / "messages"
SAMPLE = (GOLDEN / "model_ready_to_deploy.json").read_bytes()
REAL = [json.loads(line) for line in (GOLDEN / "real_messages.jsonl").read_text().splitlines()]
EXPECTED = json.loads((GOLDEN / "real_messages.expected.json").read_text())
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
DROP = object()


def payload(**changes: object) -> dict[str, Any]:
    fields = {**json.loads(SAMPLE), **changes}
    return {name: value for name, value in fields.items() if value is not DROP}


def bare(**changes: object) -> bytes:
    return json.dumps(payload(**changes)).encode()


def enveloped(fields: object = None, **changes: object) -> bytes:
    envelope = {
        "message_id": "id-1",
        "message_type": "model_ready_to_deploy",
        "payload": payload() if fields is None else fields,
        "timestamp": "2024-01-27T10:00:00.123456",
        "retry_count": 0,
        "max_retries": 3,
        **changes,
    }
    return json.dumps({k: v for k, v in envelope.items() if v is not DROP}).encode()


def refused(raw: bytes) -> InvalidMessage:
    with pytest.raises(InvalidMessage) as caught:
        parse(raw)
    return caught.value


def fate(raw: bytes) -> dict[str, Any]:
    try:
        outcome: dict[str, Any] = {"parsed": msgspec.to_builtins(parse(raw))}
    except InvalidMessage as error:
        outcome = {"field": error.field, "error": str(error)}
    return {"identity": msgspec.to_builtins(identify(raw)), **outcome}


# --- What parse returns.


@pytest.mark.parametrize("raw", [SAMPLE, enveloped()])
def test_sample(raw: bytes) -> None:
    """The requirement's sample parses to its own fields, bare or enveloped."""
    assert msgspec.to_builtins(parse(raw)) == {
        **json.loads(SAMPLE),
        "contributor_address": "0x742D35cC6634C0532925a3b844BC9E7595f82b3d",
        "status": None,
    }


@pytest.mark.parametrize("case", REAL, ids=lambda case: case["case"])
def test_real_messages(case: dict[str, str]) -> None:
    """What becomes of each message that real producers sent is pinned."""
    assert fate(case["raw"].encode()) == EXPECTED[case["case"]]


@pytest.mark.parametrize(
    ("changes", "field", "value"),
    [
        ({"message_version": DROP}, "message_version", "1.0"),
        ({"message_version": None}, "message_version", "1.0"),
        ({"message_version": "1.17"}, "message_version", "1.17"),
        ({"improvement_percentage": DROP}, "improvement_percentage", 3.512880562060893),
        ({"improvement_percentage": None}, "improvement_percentage", 3.512880562060893),
        ({"improvement_percentage": 3.503}, "improvement_percentage", 3.503),
        ({"current_value": 0.855, "improvement_percentage": 0.11}, "improvement_percentage", 0.11),
        ({"baseline_value": 0, "improvement_percentage": 7}, "improvement_percentage", 7.0),
        ({"baseline_value": -2, "improvement_percentage": -7}, "improvement_percentage", -7.0),
        ({"contributor_address": None}, "contributor_address", None),
        ({"contributor_address": DROP}, "contributor_address", None),
        ({"timestamp": None}, "timestamp", None),
        ({"timestamp": "2024-01-27T10:00:00"}, "timestamp", "2024-01-27T10:00:00"),
        ({"timestamp": "2024-01-27 10:00+0530"}, "timestamp", "2024-01-27 10:00+0530"),
        ({"model_id": "模型/2"}, "model_id", "模型/2"),
        ({"model_id": "m" * 256}, "model_id", "m" * 256),
        ({"token_symbol": "x"}, "token_symbol", "x"),
        ({"experiment_name": 7}, "experiment_name", None),
        ({"experiment_name": "\x1b[31m"}, "experiment_name", None),
        ({"status": ["registered"]}, "status", None),
        ({"tags": "a,b"}, "tags", None),
        ({"tags": {"loss": float("nan")}}, "tags", None),
        ({"tags": {"name": "\ud800"}}, "tags", None),
        ({"message_type": "any", "message_id": "any"}, "model_id", "model_123"),
        ({"api_schema": {"x": [float("inf")]}, "new_field": 1}, "model_id", "model_123"),
    ],
)
def test_accepted(changes: dict[str, object], field: str, value: object) -> None:
    """Optional fields may be absent, null or, where nothing hangs on them, odd."""
    assert getattr(parse(bare(**changes)), field) == value


def test_contributor_spelling() -> None:
    """An address is normalised to EIP-55 whatever the case it came in."""
    spelled = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"  # from EIP-55's own examples
    for given in (spelled, spelled.lower(), "0x" + spelled[2:].upper()):
        assert parse(bare(contributor_address=given)).contributor_address == spelled


def test_envelope_fields_ignored() -> None:
    """What the envelope says beside type and payload decides nothing."""
    odd = enveloped(message_id=None, timestamp="yesterday", retry_count="x", max_retries=DROP)
    assert parse(odd) == parse(SAMPLE)


def test_size_limit() -> None:
    """A message of exactly max_bytes is read."""
    assert parse(SAMPLE, max_bytes=len(SAMPLE)) == parse(SAMPLE)


# --- What parse refuses, and in which words.

TEXT = "a string of 1 to 256 characters is needed"
NUMBER = "a finite number is needed"
SYMBOL = "1 to 64 of the characters A-Z a-z 0-9 . _ - are needed"
ADDRESS = "0x and 40 hexadecimal digits are needed"
TIME = "an ISO 8601 time such as 2024-01-27T10:00:00Z is needed"
VERSION = "a major and a minor number such as 1.0 are needed"
TYPE = "model_ready_to_deploy is the only type read here"
NAN = float("nan")


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("model_id", DROP, f"is missing: {TEXT}"),
        ("token_symbol", DROP, f"is missing: {SYMBOL}"),
        ("metric_name", DROP, f"is missing: {TEXT}"),
        ("baseline_value", DROP, f"is missing: {NUMBER}"),
        ("current_value", DROP, f"is missing: {NUMBER}"),
        ("mlflow_run_id", DROP, f"is missing: {TEXT}"),
        ("model_name", DROP, f"is missing: {TEXT}"),
        ("model_version", DROP, f"is missing: {TEXT}"),
        ("model_id", None, f"is null: {TEXT}"),
        ("token_symbol", None, f"is null: {SYMBOL}"),
        ("current_value", None, f"is null: {NUMBER}"),
        ("mlflow_run_id", None, f"is null: {TEXT}"),
        ("model_id", "m" * 257, f'is the string "{"m" * 80}…": {TEXT}, not 257'),
        ("model_version", 2, f"is 2: {TEXT}"),
        ("token_symbol", "HKAI 123 $$", f'is the string "HKAI 123 $$": {SYMBOL}'),
        ("token_symbol", "北斎", f'is the string "北斎": {SYMBOL}'),
        ("token_symbol", "X\n", f'is the string "X\\n": {SYMBOL}'),
        ("token_symbol", "", f'is the string "": {SYMBOL}'),
        ("token_symbol", "x" * 65, f'is the string "{"x" * 65}": {SYMBOL}'),
        ("baseline_value", "0.85", f'is the string "0.85": {NUMBER}'),
        ("baseline_value", False, f"is false: {NUMBER}"),
        ("current_value", NAN, f"is NaN: {NUMBER}"),
        ("improvement_percentage", NAN, f"is NaN: {NUMBER}"),
        ("improvement_percentage", "3.51", f'is the string "3.51": {NUMBER}'),
        (
            "improvement_percentage",
            3.6,
            "is 3.6: baseline_value 0.854 and current_value 0.884 give 3.512880562060893",
        ),
        ("contributor_address", "vitalik.eth", f'is the string "vitalik.eth": {ADDRESS}'),
        ("contributor_address", "0x" + "g" * 40, f'is the string "0x{"g" * 40}": {ADDRESS}'),
        ("contributor_address", 0, f"is 0: {ADDRESS}"),
        ("timestamp", "yesterday", f'is the string "yesterday": {TIME}'),
        ("timestamp", "2024-13-27T10:00:00Z", f'is the string "2024-13-27T10:00:00Z": {TIME}'),
        ("timestamp", 1706349600, f"is 1706349600: {TIME}"),
        ("message_version", "2.0", 'is the string "2.0": only major version 1 is understood'),
        ("message_version", "one", f'is the string "one": {VERSION}'),
        ("message_version", "1", f'is the string "1": {VERSION}'),
        ("message_version", 1.0, f"is 1.0: {VERSION}"),
    ],
)
def test_refused_field(field: str, value: object, text: str) -> None:
    """A field that is not right is named, with its value and what would be right."""
    for raw in (bare(**{field: value}), enveloped(payload(**{field: value}))):
        error = refused(raw)
        assert (error.field, str(error)) == (field, f"{field} {text}")


@pytest.mark.parametrize(
    ("value", "shown"), [(DROP, "missing"), (None, "null")], ids=["missing", "null"]
)
def test_improvement_needed(value: object, shown: str) -> None:
    """Without a baseline above zero the improvement must be given."""
    assert str(refused(bare(baseline_value=0, improvement_percentage=value))) == (
        f"improvement_percentage is {shown}: a number is needed, "
        "as none follows from a baseline_value of 0.0"
    )


def test_improvement_overflow() -> None:
    """An improvement that no double holds is refused, given or not."""
    for value in (None, 3.51):
        error = refused(
            bare(baseline_value=1e-308, current_value=1e308, improvement_percentage=value)
        )
        assert str(error) == (
            f"improvement_percentage is {value or 'null'}: baseline_value 1e-308 and "
            "current_value 1e+308 give one too large for a double"
        )


@pytest.mark.parametrize(
    ("raw", "field", "text"),
    [
        (b"{}", "model_id", f"model_id is missing: {TEXT}"),
        (b" " * 65537, None, "message is 65537 bytes: at most 65536 are read"),
        (
            enveloped(message_type="model_retired"),
            "message_type",
            f'message_type is the string "model_retired": {TYPE}',
        ),
        (enveloped(message_type=DROP), "message_type", f"message_type is missing: {TYPE}"),
        (
            enveloped(payload=DROP),
            "payload",
            "payload is missing: the message as an object is needed",
        ),
        (b'{"message_id": "id-1"}', "message_type", f"message_type is missing: {TYPE}"),
        (
            enveloped("{}"),
            "payload",
            'payload is the string "{}": the message as an object is needed',
        ),
    ],
)
def test_refused_message(raw: bytes, field: str | None, text: str) -> None:
    """What is no message of ours is refused with the exact reason."""
    error = refused(raw)
    assert (error.field, str(error)) == (field, text)


# --- Identity.


@pytest.mark.parametrize(
    ("raw", "saga_id"),
    [
        (SAMPLE, "1d929e1c20059d9dc158a9d8b33c1f6e"),
        (enveloped(), "b031ad769cbd852012a6b2ed855c7d99"),
        (enveloped(message_type="other"), "282781f1e556921b82121eefb52bf750"),
        (b"", "9274100a0ca53ce59e6fa3a2052e4f20"),
    ],
)
def test_identity_pinned(raw: bytes, saga_id: str) -> None:
    """Saga ids are stored: the same bytes give the same id in every release."""
    assert identify(raw).saga_id == saga_id


def test_redelivery() -> None:
    """Other retry counts, times, spacing and key order are the same saga."""
    again = json.loads(enveloped(retry_count=2, timestamp="2025-01-01T00:00:00"))
    again["payload"] = dict(reversed(again["payload"].items()))
    assert identify(json.dumps(again, indent=1).encode()) == identify(enveloped())


@pytest.mark.parametrize(
    "other",
    [
        enveloped(message_id="id-2"),
        enveloped(message_id=DROP),
        enveloped(payload(current_value=0.885)),
        enveloped(message_type="model_retired"),
        SAMPLE,
        b"[" + SAMPLE + b"]",
        SAMPLE.replace(b"0.884", b"NaN"),
        SAMPLE.replace(b"0.884", b"1e400"),
        SAMPLE.replace(b"{", b'{"model_id": "model_123",', 1),
    ],
)
def test_other_saga(other: bytes) -> None:
    """Another message id or another content is another saga."""
    assert identify(other).saga_id != identify(enveloped()).saga_id


def test_bare_is_payload() -> None:
    """An envelope without a usable message id is known by its payload alone."""
    for odd in (DROP, None, "", 7, "x" * 257, "a\x00", "\ud800"):
        assert identify(enveloped(message_id=odd)) == identify(SAMPLE)


def test_hints() -> None:
    """Message id, model id and trace context are told before anything is checked."""
    raw = enveloped({"model_id": "m", "current_value": NAN, "traceparent": TRACEPARENT})
    found = identify(raw)
    assert found == Identity(found.saga_id, "id-1", "m", TRACEPARENT)


@pytest.mark.parametrize(
    "odd",
    [
        TRACEPARENT.upper(),
        "ff" + TRACEPARENT[2:],
        TRACEPARENT + "\n",
        TRACEPARENT.replace("b7ad6b7169203331", "0" * 16),
        TRACEPARENT.replace("0af7651916cd43dd8448eb211c80319c", "0" * 32),
        7,
    ],
)
def test_bad_traceparent(odd: object) -> None:
    """A trace context that W3C calls invalid is none; the envelope's comes first."""
    assert identify(enveloped(traceparent=odd)).traceparent is None
    assert identify(enveloped({"traceparent": odd}, traceparent=TRACEPARENT)).traceparent


@pytest.mark.parametrize(
    ("model_id", "hint"),
    [
        ("x" * 300, "x" * 256),
        ("\x1b" * 99, "\\x1b" * 64),
        ("\ud800", "\\ud800"),
        (7, None),
        ("", None),
    ],
)
def test_model_hint(model_id: object, hint: str | None) -> None:
    """The model id of a listing is short and safe to print."""
    assert identify(bare(model_id=model_id)).model_id == hint


def test_oversized_is_not_decoded() -> None:
    """A huge message is known by its bytes, and nothing more is known of it."""
    raw = SAMPLE + b" " * MAX_IDENTIFIED_BYTES
    assert identify(raw) == Identity(identify(raw).saga_id)


def test_deep_call_stack() -> None:
    """Identity and verdict are the same however deep the caller's stack is."""

    def below(depth: int, act: Callable[[], object]) -> object:
        return below(depth - 1, act) if depth else act()

    raw = bare(tags={"deep": json.loads("[" * 60 + "]" * 60)})
    assert below(600, lambda: (identify(raw), parse(raw))) == (identify(raw), parse(raw))


# --- What follows from a message.


@pytest.mark.parametrize(
    ("model_id", "name"),
    [
        ("model_123", "Hokusai Model 123"),
        ("msg-ai-model/1/msg-ai", "Hokusai Msg Ai Model/1/msg Ai"),
        ("__a--_b c-", "Hokusai A B C"),
        ("GPT_4o", "Hokusai GPT 4o"),
        ("élan", "Hokusai Élan"),
        ("42", "Hokusai 42"),
        ("_-_", "Hokusai _-_"),
    ],
)
def test_token_name(model_id: str, name: str) -> None:
    """A token is named after its model, in words."""
    assert token_name(model_id) == name


def test_fingerprint() -> None:
    """The fingerprint changes with what the token is made of, and with nothing else."""
    same = {"model_name": "n", "current_value": 0.8841, "tags": None, "timestamp": None}
    ours = content_fingerprint(parse(SAMPLE))
    assert ours == "f975b14078a37adae2a5003a1b7779d56381477ee29a4643d73eb0fd4ae40af2"
    assert content_fingerprint(parse(enveloped(payload(**same)))) == ours
    for field in ("model_id", "token_symbol", "mlflow_run_id"):
        assert content_fingerprint(parse(bare(**{field: "other"}))) != ours


def test_fingerprint_boundaries() -> None:
    """Characters that move from one field to the next change the fingerprint."""
    moved = parse(bare(model_id="ab", token_symbol="c"))
    assert content_fingerprint(moved) != content_fingerprint(
        parse(bare(model_id="a", token_symbol="bc"))
    )
