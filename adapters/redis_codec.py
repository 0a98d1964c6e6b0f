"""A saga as a Redis hash, and back. Field names are permanent (`tests/golden`)."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

import msgspec

from saga.errors import TamperedError
from saga.model import Deployment, HistoryEntry, Intent, Lease, Registration, Saga, State

_STRUCTS: dict[str, type[Intent | Deployment | Registration]] = {
    "deploy": Intent,
    "register": Intent,
    "deployment": Deployment,
    "registration": Registration,
}
_TEXTS = (
    "message_id",
    "model_id",
    "error",
    "error_class",
    "failed_at",
    "discarded",
    "claim",
    "duplicate_of",
    "conflicts_with",
    "content",
    "traceparent",
)


def pairs(flat: Iterable[bytes]) -> dict[bytes, bytes]:
    """A RESP2 flat list of fields and values as a mapping."""
    items = iter(flat)
    return dict(zip(items, items, strict=True))


def decode(fields: Mapping[bytes, bytes], *, resumed: bool = False) -> Saga:
    """The saga of a hash. Raises TamperedError for a hash that no script of ours wrote."""
    try:
        return _decode(fields, resumed=resumed)
    except (ValueError, LookupError, msgspec.MsgspecError) as error:
        saga_id = fields.get(b"id", b"without id").decode("utf-8", "replace")
        raise TamperedError(f"saga {saga_id}: {type(error).__name__}: {error}") from error


def _decode(fields: Mapping[bytes, bytes], *, resumed: bool) -> Saga:
    def text(name: str) -> str | None:
        value = fields.get(name.encode())
        return None if value is None else value.decode("utf-8", "replace")

    failed_in = text("failed_in")
    return Saga(
        id=fields[b"id"].decode(),
        state=State(fields[b"state"].decode()),
        version=int(fields[b"version"]),
        lease=Lease(owner=fields[b"owner"].decode(), fence=int(fields[b"fence"])),
        message=fields[b"message"],
        created_ms=int(fields[b"created_ms"]),
        updated_ms=int(fields[b"updated_ms"]),
        attempts=int(fields.get(b"attempts", b"0")),
        takeovers=int(fields.get(b"takeovers", b"0")),
        crashes=int(fields.get(b"crashes", b"0")),
        gas_used=int(fields.get(b"gas_used", b"0")),
        fees_wei=int(fields.get(b"fees_wei", b"0")),
        left=msgspec.json.decode(fields.get(b"left", b"[]"), type=tuple[str, ...]),
        failed_in=None if failed_in is None else State(failed_in),
        claim_same=fields.get(b"claim_same") == b"1",
        resumed=resumed,
        **{name: text(name) for name in _TEXTS},  # type: ignore[arg-type]  # all str | None
        **{  # type: ignore[arg-type]  # each of its own type
            name: msgspec.json.decode(fields[name.encode()], type=kind)
            for name, kind in _STRUCTS.items()
            if name.encode() in fields
        },
    )


def encode_struct(value: Intent | Deployment | Registration) -> bytes:
    return msgspec.json.encode(value)


def spending(before: Saga, after: Saga) -> list[tuple[str, str | bytes]]:
    """The fields of what a saga has paid, and of what it has left unpaid, where they changed."""
    found: list[tuple[str, str | bytes]] = [
        (name, str(getattr(after, name)))  # wei may be more than the 64 bits of a JSON number
        for name in ("gas_used", "fees_wei")
        if getattr(after, name) != getattr(before, name)
    ]
    if after.left != before.left:
        found.append(("left", msgspec.json.encode(after.left)))
    return found


def history_entry(**fields: object) -> bytes:
    """A history entry as JSON without its opening brace: the server puts its time in front."""
    return msgspec.json.encode({k: v for k, v in fields.items() if v is not None})[1:]


def decode_history(raw: bytes) -> HistoryEntry:
    return msgspec.json.decode(raw, type=HistoryEntry)


def dead_letter(saga: Saga, *, error: str, error_class: str, failed_at: str, queue: str) -> bytes:
    """The DLQ entry of a saga: readable by the producers' own tools, then our fields.

    `original_message` is the message as a string; bytes that are no UTF-8 are replaced there, and
    kept in `original_message_base64`. The same arguments give the same bytes.
    """
    entry: dict[str, object] = {
        "original_message": saga.message.decode("utf-8", "replace"),
        "error": error,
        "failed_at": failed_at,
        "original_queue": queue,
        "saga_id": saga.id,
        "model_id": saga.model_id,
        "failed_in": saga.state.value,
        "error_class": error_class,
        "attempts": saga.attempts,
    }
    try:
        saga.message.decode("utf-8")
    except UnicodeDecodeError:
        entry["original_message_base64"] = saga.message
    return msgspec.json.encode(entry)


def own_letter(saga: Saga, queue: str) -> bytes:
    """The bytes that this dead-lettered saga has in the DLQ."""
    return dead_letter(
        msgspec.structs.replace(saga, state=saga.failed_in or State.RECEIVED),
        error=saga.error or "",
        error_class=saga.error_class or "",
        failed_at=saga.failed_at or "",
        queue=queue,
    )


def utc_now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
