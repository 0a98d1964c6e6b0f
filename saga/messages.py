"""Inbound messages: the saga that some bytes belong to, and what they say.

`identify` answers for any bytes at all; `parse` returns a checked message or raises
InvalidMessage with one line an operator can act on. Both read bytes by `wire`, and:

- A message comes bare or as the `payload` of the producers' envelope. It is an envelope when it
  has a `payload`, or, without a `model_id`, a `message_type` or `message_id`.
- Unknown fields are ignored, and so is what else the envelope says (timestamp, retry counts):
  messages of the same identity must not have different fates.
- For an optional field null means absent. The free fields (experiment_name, status, tags) are
  dropped when they are not what they should be: they never cost a model its token.

SIDE EFFECTS: none.
"""

import math
import re
from datetime import datetime
from functools import lru_cache
from hashlib import sha256
from typing import Annotated, Any, Final

import msgspec
from eth_utils.address import to_checksum_address
from msgspec import Meta

from saga import wire
from saga.wire import CC, MAX_TEXT, InvalidMessage, Object

__all__ = [
    "Identity",
    "InvalidMessage",
    "ModelReadyToDeployMessage",
    "content_fingerprint",
    "identify",
    "parse",
    "token_name",
]

MESSAGE_TYPE: Final = "model_ready_to_deploy"
MAX_IDENTIFIED_BYTES: Final = 1 << 18  # the worst that fits takes some 30 ms to read

# Also the patterns of the JSON Schemas, hence in the subset that ECMA-262 reads too.
TEXT_PATTERN: Final = rf"^[^{CC}]*[^\s{CC}][^{CC}]*$"
SYMBOL_PATTERN: Final = r"^[A-Za-z0-9._-]{1,64}$"
ADDRESS_PATTERN: Final = r"^0x[0-9a-fA-F]{40}$"
VERSION_PATTERN: Final = r"^1\.[0-9]{1,9}$"
TIMESTAMP_PATTERN: Final = (
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}(:[0-9]{2}([.,][0-9]{1,9})?)?"
    r"(Z|[+-][0-9]{2}:?[0-9]{2})?$"
)
_SYMBOL: Final = re.compile(SYMBOL_PATTERN[1:-1])  # bare, for fullmatch: `$` allows a newline
_ADDRESS: Final = re.compile(ADDRESS_PATTERN[1:-1])
_TIMESTAMP: Final = re.compile(TIMESTAMP_PATTERN[1:-1])
_TYPE: Final = re.compile(MESSAGE_TYPE)
_VERSION: Final = re.compile(r"(0|[1-9][0-9]{0,8})\.[0-9]{1,9}")
# https://www.w3.org/TR/trace-context/#traceparent-header: no version ff, no all-zero id
_TRACEPARENT: Final = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
)

Text = Annotated[str, Meta(min_length=1, max_length=MAX_TEXT, pattern=TEXT_PATTERN)]
Symbol = Annotated[str, Meta(min_length=1, max_length=64, pattern=SYMBOL_PATTERN)]
Address = Annotated[str, Meta(pattern=ADDRESS_PATTERN)]
Timestamp = Annotated[str, Meta(pattern=TIMESTAMP_PATTERN)]
Version = Annotated[str, Meta(pattern=VERSION_PATTERN)]


class Identity(msgspec.Struct, frozen=True):
    """What is known of a message before it is understood; the last three are None when unknown."""

    saga_id: str
    message_id: str | None = None
    model_id: str | None = None
    traceparent: str | None = None


class ModelReadyToDeployMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A model that passed validation and is ready for its token."""

    model_id: Text
    token_symbol: Symbol
    metric_name: Text
    baseline_value: float
    current_value: float
    model_name: Text
    model_version: Text
    mlflow_run_id: Text
    improvement_percentage: float
    contributor_address: Address | None = None
    experiment_name: str | None = None
    status: str | None = None
    tags: dict[str, Any] | None = None
    timestamp: Timestamp | None = None
    message_version: Version = "1.0"


def identify(raw: bytes) -> Identity:
    """The saga the bytes belong to. Never raises; O(size).

    The id hashes the envelope's message_id, where it is usable text, with the payload in
    canonical form, so a redelivery with other retry counts is the same saga, and a message_id
    reused for another payload is another. What has no canonical form is hashed as it came.
    """
    unread = Identity(_digest(b"saga-id:raw", raw)[:32])
    if len(raw) > MAX_IDENTIFIED_BYTES:
        return unread
    try:
        message = wire.decode(raw)
    except InvalidMessage:
        return unread
    envelope, payload = _open(message)
    inner = payload if isinstance(payload, dict) else {}
    message_id = _usable_id(envelope.get("message_id"))
    return Identity(
        _saga_id(envelope, payload, message_id) or unread.saga_id,
        message_id,
        _hint(inner.get("model_id")),
        _traceparent(envelope.get("traceparent")) or _traceparent(inner.get("traceparent")),
    )


def parse(raw: bytes, *, max_bytes: int = 65536) -> ModelReadyToDeployMessage:
    """The checked message. Raises InvalidMessage, and nothing else, with the first fault found."""
    if len(raw) > max_bytes:
        raise InvalidMessage(f"message is {len(raw)} bytes: at most {max_bytes} are read")
    fields = _payload(wire.decode(raw))
    version = _version(fields)  # first: another major version may mean other fields
    return ModelReadyToDeployMessage(
        model_id=wire.text(fields, "model_id"),
        token_symbol=wire.matching(fields, "token_symbol", _SYMBOL, SYMBOL_NEEDED),
        metric_name=wire.text(fields, "metric_name"),
        baseline_value=wire.number(fields, "baseline_value"),
        current_value=wire.number(fields, "current_value"),
        model_name=wire.text(fields, "model_name"),
        model_version=wire.text(fields, "model_version"),
        mlflow_run_id=wire.text(fields, "mlflow_run_id"),
        improvement_percentage=_improvement(fields),
        contributor_address=_contributor(fields),
        experiment_name=_free_text(fields, "experiment_name"),
        status=_free_text(fields, "status"),
        tags=_free_object(fields, "tags"),
        timestamp=_timestamp(fields),
        message_version=version,
    )


def token_name(model_id: str) -> str:
    """The token's name: `model_123` is `Hokusai Model 123`. Part of the token's creation code."""
    words = re.split("[ _-]+", model_id.strip(" _-"))
    return "Hokusai " + (" ".join(word[:1].upper() + word[1:] for word in words) or model_id)


def content_fingerprint(message: ModelReadyToDeployMessage) -> str:
    """64 hex that are equal for messages asking for the same token of the same model."""
    content = (message.model_id, message.token_symbol, message.mlflow_run_id)
    return _digest(b"token-content", *(part.encode() for part in content))


# --- Identity. What is hashed here names sagas in Redis: a change would orphan them.

_CANONICAL: Final = msgspec.json.Encoder(order="sorted")


def _digest(*parts: bytes) -> str:
    """SHA-256 of a domain tag and fields, each with its length: no two lists hash alike."""
    return sha256(b"".join(len(part).to_bytes(8, "big") + part for part in parts)).hexdigest()


def _saga_id(envelope: Object, payload: object, message_id: str | None) -> str | None:
    """The id, or None without a canonical form: a number no double holds, a lone surrogate."""
    # An envelope of another type is refused, and must not take the id of the message it quotes.
    foreign = bool(envelope) and envelope.get("message_type") != MESSAGE_TYPE
    canonical = _canonical(envelope if foreign else payload)
    if canonical is None:
        return None
    if foreign:
        return _digest(b"saga-id:foreign", canonical)[:32]
    if message_id is None:
        return _digest(b"saga-id:payload", canonical)[:32]
    return _digest(b"saga-id:envelope", message_id.encode(), canonical)[:32]


def _canonical(value: object) -> bytes | None:
    try:
        return _CANONICAL.encode(value)
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError):
        return None


def _usable_id(value: object) -> str | None:
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_TEXT or wire.UNSAFE.search(value):
        return None
    return value


def _traceparent(value: object) -> str | None:
    return value if isinstance(value, str) and _TRACEPARENT.fullmatch(value) else None


def _hint(value: object) -> str | None:
    """Text for a listing, of whatever a producer called a model id."""
    if not isinstance(value, str) or not value:
        return None
    text = value[:MAX_TEXT]
    return wire.escaped(text)[:MAX_TEXT] if wire.UNSAFE.search(text) else text


# --- Fields.

SYMBOL_NEEDED: Final = "1 to 64 of the characters A-Z a-z 0-9 . _ - are needed"
VERSION_NEEDED: Final = "a major and a minor number such as 1.0 are needed"
ADDRESS_NEEDED: Final = "0x and 40 hexadecimal digits are needed"
TIMESTAMP_NEEDED: Final = "an ISO 8601 time such as 2024-01-27T10:00:00Z is needed"
TYPE_NEEDED: Final = f"{MESSAGE_TYPE} is the only type read here"
_checksummed: Final = lru_cache(1024)(to_checksum_address)  # 20 microseconds, the parser's rest 10


def _open(message: Object) -> tuple[Object, object]:
    """The envelope, empty for a bare payload, and the payload."""
    named = "model_id" not in message and ("message_type" in message or "message_id" in message)
    if "payload" in message or named:
        return message, message.get("payload", wire.MISSING)
    return {}, message


def _payload(message: Object) -> Object:
    envelope, payload = _open(message)
    if envelope:
        wire.matching(envelope, "message_type", _TYPE, TYPE_NEEDED)
    if not isinstance(payload, dict):
        raise wire.refusal("payload", payload, "the message as an object is needed")
    return payload


def _version(fields: Object) -> str:
    if fields.get("message_version") is None:
        return "1.0"
    version = wire.matching(fields, "message_version", _VERSION, VERSION_NEEDED)
    if not version.startswith("1."):
        raise wire.refusal("message_version", version, "only major version 1 is understood")
    return version


def _improvement(fields: Object) -> float:
    """Percent over the baseline: as given, if that is so; a baseline below zero tells nothing."""
    baseline, current = wire.number(fields, "baseline_value"), wire.number(fields, "current_value")
    name = "improvement_percentage"
    given = None if fields.get(name) is None else wire.number(fields, name)
    if baseline <= 0:
        if given is not None:
            return given
        needed = f"a number is needed, as none follows from a baseline_value of {baseline}"
        raise wire.refusal(name, fields.get(name, wire.MISSING), needed)
    computed = (current - baseline) / baseline * 100
    if not math.isfinite(computed):
        needed = (
            f"baseline_value {baseline} and current_value {current} give one too large for a double"
        )
        raise wire.refusal(name, fields.get(name, wire.MISSING), needed)
    # Producers round to two digits; 1 % also covers other ways of rounding a large one.
    if given is not None and abs(given - computed) > max(0.01, abs(computed) / 100):
        needed = f"baseline_value {baseline} and current_value {current} give {computed}"
        raise wire.refusal(name, given, needed)
    return computed if given is None else given


def _contributor(fields: Object) -> str | None:
    """The address in EIP-55 spelling. Real producers send wrong checksums: they are not checked."""
    if fields.get("contributor_address") is None:
        return None
    return _checksummed(wire.matching(fields, "contributor_address", _ADDRESS, ADDRESS_NEEDED))


def _timestamp(fields: Object) -> str | None:
    if fields.get("timestamp") is None:
        return None
    value = wire.matching(fields, "timestamp", _TIMESTAMP, TIMESTAMP_NEEDED)
    try:
        datetime.fromisoformat(value)  # for the ranges: no month 13, no hour 25
    except ValueError:
        raise wire.refusal("timestamp", value, TIMESTAMP_NEEDED) from None
    return value


def _free_text(fields: Object, name: str) -> str | None:
    try:
        return wire.text(fields, name)
    except InvalidMessage:
        return None


def _free_object(fields: Object, name: str) -> dict[str, Any] | None:
    value = fields.get(name)
    return value if isinstance(value, dict) and _canonical(value) is not None else None
