"""What the world is told when a saga is dead-lettered: `token_deploy_failed`. Pure.

One for each time a saga is dead-lettered: consumers drop repeats by `saga_id` and `failed_at`. The
message itself is not in it, and no secret.
"""

import re
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, field

from saga.events import Hash
from saga.model import Saga, State
from saga.redaction import for_strangers

MAX_ERROR: Final = 2000
"""Characters. A revert's reason may be as long as a contract likes."""
_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_HASH: Final = re.compile(r"0x[0-9a-f]{64}")
_FAILED_IN: Final = "The state that the saga did not get out of: a resume goes on from there."
_HASHES: Final = (
    "Of all transactions that are known of the saga: those left behind in a lane, those signed for "
    "its deployment with every replacement, that of its token, then the same of its registration. "
    "Not all of them need have been mined."
)
UtcMillis = Annotated[
    str, Meta(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z$")
]


class TokenDeployFailedMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message was dead-lettered. Field order is the order on the wire, none is ever left out."""

    event_type: Literal["token_deploy_failed"] = field(
        default_factory=lambda: "token_deploy_failed"
    )
    model_id: Annotated[str | None, Meta(description="null where the message names none.")]
    saga_id: Annotated[str, Meta(pattern=r"^[0-9a-f]{32}$")]
    message_id: str | None
    failed_in: Annotated[State, Meta(description=_FAILED_IN)]
    error_class: str
    error: Annotated[str, Meta(description="For people. Secrets are masked.")]
    attempts: Annotated[int, Meta(ge=0, description="Failed tries of that state before the last.")]
    transaction_hashes: Annotated[tuple[Hash, ...], Meta(description=_HASHES)]
    trace_id: Annotated[str, Meta(pattern=r"^[0-9a-f]{32}$")] | None
    failed_at: UtcMillis
    network: Annotated[str, Meta(min_length=1)]
    message_version: Literal["1.0"] = field(default_factory=lambda: "1.0")


def failure_of(
    before: Saga, after: Saga, *, failed_at: str, network: str
) -> TokenDeployFailedMessage:
    """Of a saga as it was in the state that it failed in, and as it is dead-lettered. The same
    arguments give the same event."""
    return TokenDeployFailedMessage(
        model_id=after.model_id or None,
        saga_id=before.id,
        message_id=before.message_id,
        failed_in=before.state,
        error_class=after.error_class or "",
        error=for_strangers(after.error or "", MAX_ERROR),
        attempts=before.attempts,
        transaction_hashes=known_hashes(before, after),
        trace_id=_trace_id(before.traceparent),
        failed_at=failed_at,
        network=network,
    )


def known_hashes(*sagas: Saga) -> tuple[str, ...]:
    """Each hash once. A record that somebody has tampered with adds nothing else."""
    found: list[str] = []
    for saga in sagas:
        found += saga.left
        for intent, result in (
            (saga.deploy, saga.deployment),
            (saga.register, saga.registration),
        ):
            found += [attempt.hash for attempt in intent.attempts] if intent is not None else []
            found += [result.receipt.tx_hash] if result is not None else []
    return tuple(dict.fromkeys(each for each in found if _HASH.fullmatch(each)))


def encode_failure(event: TokenDeployFailedMessage) -> bytes:
    """The event as it goes on the wire; equal events give equal bytes."""
    return msgspec.json.encode(event)


def _trace_id(traceparent: str | None) -> str | None:
    found = _TRACEPARENT.fullmatch(traceparent or "")
    return None if found is None else found[1]
