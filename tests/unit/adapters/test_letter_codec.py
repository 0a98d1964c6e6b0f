"""Dead letters of every hand that writes them."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.letter_codec import FOREIGN, read_letter, readable
from adapters.redis_codec import dead_letter
from saga.messages import identify
from saga.model import State
from tests.support.sagas import MESSAGE, OWN, make

ENVELOPE = json.dumps({"message_id": "m1", "payload": json.loads(MESSAGE)})
BINARY = b'\xff{"model_id"'


def ours(message: bytes = MESSAGE) -> bytes:
    saga = msgspec.structs.replace(make(State.VALIDATED), message=message, attempts=3)
    return dead_letter(
        saga,
        error="reverted",
        error_class="reverted",
        failed_at="2026-01-02T03:04:05.678Z",
        queue="in",
    )


@pytest.mark.parametrize("message", [MESSAGE, BINARY, b"", b"\xff\xfe"])
def test_ours(message: bytes) -> None:
    """What a saga of ours wrote is read back whole, the message byte for byte."""
    letter = read_letter(ours(message), 7)
    assert (letter.id, letter.saga_id, letter.ours, letter.index) == (OWN, OWN, True, 7)
    assert (letter.message, letter.model_id) == (message, "model_123")
    assert (letter.error, letter.error_class) == ("reverted", "reverted")
    assert (letter.failed_in, letter.attempts) == (State.VALIDATED, 3)
    assert (letter.failed_at, letter.original_queue) == ("2026-01-02T03:04:05.678Z", "in")


FOREIGN_ENTRIES: dict[str, tuple[dict[str, Any], bytes, str | None]] = {
    "producer": (
        {"original_message": ENVELOPE, "error": "no", "failed_at": "t", "original_queue": "q"},
        ENVELOPE.encode(),
        "t",
    ),
    "TypeScript": (
        {"originalMessage": ENVELOPE, "error": "no", "timestamp": "t", "queue": "q"},
        ENVELOPE.encode(),
        "t",
    ),
    "nested object": (
        {"original_message": json.loads(ENVELOPE), "error": "no"},
        ENVELOPE.encode(),
        None,
    ),
}


@pytest.mark.parametrize("name", FOREIGN_ENTRIES)
def test_foreign(name: str) -> None:
    """An entry of the producers' tools gives its message byte for byte, and its saga."""
    fields, message, failed_at = FOREIGN_ENTRIES[name]
    letter = read_letter(json.dumps(fields).encode(), 1)
    assert not letter.ours
    assert (letter.message, letter.model_id) == (message, "model_123")
    assert letter.saga_id == identify(message).saga_id
    assert (letter.error, letter.error_class, letter.failed_at) == ("no", FOREIGN, failed_at)


@pytest.mark.parametrize("raw", [MESSAGE, ENVELOPE.encode()])
def test_raw_message(raw: bytes) -> None:
    """A raw message in the list is its own original message; it says of no failure."""
    letter = read_letter(raw, 1)
    assert (letter.message, letter.model_id, letter.ours) == (raw, "model_123", False)
    assert (letter.error, letter.failed_at) == (None, None)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"42",
        b"[]",
        b"{}",
        b"\xff\x00",
        b"[" * 100_000,
        b"1e999",
        b'{"saga_id": "x"}',
        b'{"original_message": 5}',
    ],
)
def test_garbage(raw: bytes) -> None:
    """Whatever lies in the list can be listed, and is its own message."""
    letter = read_letter(raw, 1)
    assert (letter.message, letter.ours) == (raw, False)
    assert letter.id.startswith("letter-")


@pytest.mark.parametrize(
    "changes",
    [
        {"saga_id": "../x"},
        {"saga_id": 5},
        {"saga_id": None},
    ],
)
def test_pretended(changes: dict[str, Any]) -> None:
    """What does not name a saga as we do is foreign."""
    raw = json.dumps(json.loads(ours()) | changes).encode()
    letter = read_letter(raw, 1)
    assert (letter.ours, letter.message) == (False, MESSAGE)


@pytest.mark.parametrize(
    ("field", "value"),
    [("failed_in", "NOWHERE"), ("failed_in", []), ("attempts", True), ("error", {})],
)
def test_odd_fields(field: str, value: object) -> None:
    """A field of ours that is not what it should be is left out; the letter is not."""
    letter = read_letter(json.dumps(json.loads(ours()) | {field: value}).encode(), 1)
    assert letter.ours
    assert getattr(letter, field) is None


def test_bad_base64() -> None:
    """A message that cannot be had exactly is had as text."""
    raw = json.dumps(json.loads(ours()) | {"original_message_base64": "?"}).encode()
    assert read_letter(raw, 1).message == MESSAGE


def test_same_bytes_same_id() -> None:
    """A foreign entry is named for its bytes: the same wherever it lies."""
    assert read_letter(b"x", 1).id == read_letter(b"x", 2).id != read_letter(b"y", 1).id


@given(st.binary(max_size=200))
def test_never_raises(raw: bytes) -> None:
    """Any bytes are a letter, and can be shown as JSON."""
    letter = read_letter(raw, 1)
    assert letter.raw == raw
    msgspec.json.encode(readable(raw))
