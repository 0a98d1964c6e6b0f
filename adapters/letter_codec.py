"""Entries of the dead-letter list: ours, and whatever others have put there."""

import hashlib
import re
from typing import Any

import msgspec

from saga.messages import identify
from saga.model import State
from saga.wire import too_deep

FOREIGN = "foreign"
"""The error class of what no saga of ours left behind."""
_SAGA_ID = re.compile(r"[0-9a-f]{32}")
_MESSAGE_FIELDS = ("original_message", "originalMessage")
"""As the Python producers and their TypeScript peer call it."""
_STATES = {state.value: state for state in State}
_TIME_FIELDS = ("failed_at", "timestamp")
_QUEUE_FIELDS = ("original_queue", "queue")


class Letter(msgspec.Struct, frozen=True, kw_only=True):
    """What one entry says of itself; foreign text, whoever wrote it."""

    raw: bytes
    """The entry as it is in the list."""
    index: int
    """Its place when it was read; 1 is the newest."""
    id: str
    """Of its saga; of a foreign entry, `letter-` with a hash of its bytes."""
    saga_id: str
    """The saga that left it, or that its message would become."""
    ours: bool
    """Whether it names a saga of ours as its author."""
    message: bytes
    """The original message; the entry itself where it holds none."""
    model_id: str | None = None
    error: str | None = None
    error_class: str = FOREIGN
    failed_in: State | None = None
    failed_at: str | None = None
    original_queue: str | None = None
    attempts: int | None = None


def read_letter(raw: bytes, index: int) -> Letter:
    """Any bytes at all. Never raises; O(size)."""
    fields = _object(raw)
    if fields is None:
        return _foreign(raw, index, {}, raw)
    saga_id, message = _text(fields, "saga_id"), _message(raw, fields)
    if message is None:
        return _foreign(raw, index, {}, raw)
    if saga_id is None or not _SAGA_ID.fullmatch(saga_id):
        return _foreign(raw, index, fields, message)
    failed_in = fields.get("failed_in")
    attempts = fields.get("attempts")
    return Letter(
        raw=raw,
        index=index,
        id=saga_id,
        saga_id=saga_id,
        ours=True,
        message=message,
        model_id=_text(fields, "model_id"),
        error=_text(fields, "error"),
        error_class=_text(fields, "error_class") or "",
        failed_in=_STATES.get(failed_in) if isinstance(failed_in, str) else None,
        failed_at=_text(fields, "failed_at"),
        original_queue=_text(fields, "original_queue"),
        attempts=attempts if type(attempts) is int else None,
    )


def _foreign(raw: bytes, index: int, fields: dict[str, Any], message: bytes) -> Letter:
    identity = identify(message)
    return Letter(
        raw=raw,
        index=index,
        id=f"letter-{hashlib.sha256(raw).hexdigest()[:16]}",
        saga_id=identity.saga_id,
        ours=False,
        message=message,
        model_id=identity.model_id,
        error=_text(fields, "error"),
        failed_at=_text(fields, *_TIME_FIELDS),
        original_queue=_text(fields, *_QUEUE_FIELDS),
    )


def _object(raw: bytes) -> dict[str, Any] | None:
    found = _decoded(raw)
    return found if isinstance(found, dict) else None


def _decoded(raw: bytes) -> object:
    """None for what is no JSON, or nests deeper than is safe to read."""
    try:
        return None if too_deep(raw) else msgspec.json.decode(raw)
    except msgspec.MsgspecError:
        return None


def _message(raw: bytes, fields: dict[str, Any]) -> bytes | None:
    """The original message, byte for byte where it can be had so."""
    exact = fields.get("original_message_base64")
    if isinstance(exact, str):
        try:
            return msgspec.convert(exact, bytes)
        except msgspec.ValidationError:
            pass
    for name in _MESSAGE_FIELDS:
        held = fields.get(name)
        if isinstance(held, str):
            return held.encode("utf-8", "surrogatepass")
        if isinstance(held, dict):
            return bytes(msgspec.json.decode(raw, type=dict[str, msgspec.Raw])[name])
    return None


def _text(fields: dict[str, Any], *names: str) -> str | None:
    for name in names:
        if isinstance(value := fields.get(name), str):
            return value
    return None


def readable(raw: bytes) -> object:
    """Bytes for people: a JSON value, else text, else base64 below its name."""
    found = _decoded(raw)
    if found is not None:
        return found
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return {"base64": raw}
