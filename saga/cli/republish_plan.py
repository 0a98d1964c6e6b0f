"""Which events `saga republish` would publish again, in which order, and what their bytes are."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from adapters.redis_events import Published, RedisEvents
from adapters.redis_views import RedisViews
from saga.actions import Advance
from saga.cli.render import safe
from saga.config import Settings, StoreSettings
from saga.errors import UsageError
from saga.events import network_name
from saga.model import Saga, State, Step
from saga.policy import Policy
from states.table import TABLE

PAGE = 500
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_AGE = re.compile(r"([0-9]{1,9})([smhd])")
TIME_NEEDED = "give --since as 2024-01-27T10:00:00Z (UTC where no zone is named), or an age as 90m"


class RepublishSettings(StoreSettings):
    """And what the network is called in an event that has to be rebuilt."""

    CHAIN_ID: int | None = Settings.model_fields["CHAIN_ID"]  # type: ignore[assignment]  # a field
    NETWORK_NAME: str | None = Settings.model_fields["NETWORK_NAME"]  # type: ignore[assignment]


class Chosen(msgspec.Struct, frozen=True, kw_only=True):
    """One event of those that were asked for."""

    saga_id: str
    at_us: int
    """When it was first published, microseconds."""
    model_id: str | None = None
    size: int = 0
    """Bytes."""
    rebuilt: bytes = b""
    """The event, where its bytes were not kept."""
    problem: str | None = None
    """Why it cannot be published again."""


async def chosen(
    settings: RepublishSettings,
    views: RedisViews,
    events: RedisEvents,
    names: Sequence[str],
    since: str | None,
) -> list[Chosen]:
    """What was asked for by names, else all of it since a time, in the order of publication.

    Raises UsageError for a name that nobody has, and for a time that is none.
    """
    if names:
        found = {each.saga_id: each for each in [await _named(events, name) for name in names]}
    else:
        start = 0 if since is None else since_us(since, await events.now_us())
        found = {each.saga_id: each async for each in events.published(start)}
    ordered = sorted(found.values(), key=lambda each: (each.at_us, each.saga_id))
    return [
        each
        for start in range(0, len(ordered), PAGE)
        for each in await _read(settings, views, events, ordered[start : start + PAGE])
    ]


async def _named(events: RedisEvents, name: str) -> Published:
    found = await events.named(name)
    if found is None:
        raise UsageError(f"no saga, no model and no kept event '{safe(name)}'")
    return found


def since_us(text: str, now_us: int) -> int:
    """A time, or an age before `now_us`, in microseconds since 1970. Raises UsageError."""
    if (age := _AGE.fullmatch(text)) is not None:
        return max(0, now_us - int(age[1]) * _UNITS[age[2]] * 1_000_000)
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"--since '{safe(text)}' is no time: {TIME_NEEDED}") from None
    at = at.replace(tzinfo=UTC) if at.tzinfo is None else at
    whole = int(at.replace(microsecond=0).timestamp())
    return max(0, whole * 1_000_000 + at.microsecond)


async def _read(
    settings: RepublishSettings,
    views: RedisViews,
    events: RedisEvents,
    page: Sequence[Published],
) -> list[Chosen]:
    """A page of events with what is known of each. Two round trips."""
    kept = await events.bytes_of([each.saga_id for each in page])
    sagas = await views.several([each.saga_id for each in page])
    return [
        _one(settings, each, raw, sagas.get(each.saga_id))
        for each, raw in zip(page, kept, strict=True)
    ]


def _one(
    settings: RepublishSettings, each: Published, raw: bytes | None, saga: Saga | None
) -> Chosen:
    model_id = _model_of(raw) if saga is None else saga.model_id
    found = Chosen(saga_id=each.saga_id, at_us=each.at_us, model_id=model_id)
    if saga is not None and saga.state is not State.ACKED:
        problem = f"its saga is {saga.state}, and only those of ACKED sagas are published again"
        return msgspec.structs.replace(found, problem=problem)
    if raw is not None:
        return msgspec.structs.replace(found, size=len(raw))
    if saga is None:
        return msgspec.structs.replace(found, problem="neither event nor saga is kept any more")
    try:
        rebuilt = _rebuilt(settings, saga)
    except UsageError as error:
        return msgspec.structs.replace(found, problem=f"it cannot be rebuilt: {error}")
    return msgspec.structs.replace(found, size=len(rebuilt), rebuilt=rebuilt)


def _model_of(raw: bytes | None) -> str | None:
    """The model of a kept event."""
    try:
        found = msgspec.json.decode(raw or b"{}")
    except msgspec.MsgspecError:
        return None
    return str(found["model_id"]) if isinstance(found, dict) and "model_id" in found else None


def _rebuilt(settings: RepublishSettings, saga: Saga) -> bytes:
    """The event of a saga whose release kept none: what REGISTERED decides. Raises UsageError."""
    if saga.deployment is None or saga.registration is None:
        raise UsageError("the saga lacks its results")
    chain_ids = [intent.chain_id for step in Step if (intent := saga.intent(step)) is not None]
    chain_id = next(iter(chain_ids), settings.CHAIN_ID)
    if chain_id is None and settings.NETWORK_NAME is None:
        raise UsageError("the saga does not say its network: set CHAIN_ID or NETWORK_NAME")
    policy = Policy(
        network=network_name(chain_id or 0, settings.NETWORK_NAME),
        max_message_bytes=len(saga.message),  # it was accepted once
    )
    registered = msgspec.structs.replace(saga, state=State.REGISTERED)
    action = TABLE[State.REGISTERED].decide(registered, None, policy)
    if not isinstance(action, Advance) or action.event is None:
        raise UsageError(getattr(action, "reason", "the saga gives no event"))
    return action.event
