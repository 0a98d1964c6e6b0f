"""The dead-letter list: reading it in pages, and taking entries out of it."""

import secrets
from collections.abc import AsyncIterator
from typing import Literal, cast

import msgspec
from redis.asyncio import Redis

from adapters.letter_codec import Letter, read_letter
from adapters.redis_client import Scripts, translated
from adapters.redis_codec import history_entry
from adapters.redis_events import AUDIT_KEPT
from adapters.redis_keys import RedisKeys
from adapters.redis_views import OPERATION_KEPT_MS
from saga.model import Saga, State

PAGE = 500
_FIELDS = ("state", "failed_at", "attempts", "model_id", "discarded")

EntryKind = Literal["ours", "stale", "orphan", "foreign"]


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A letter beside the saga that belongs to it, as both were read."""

    letter: Letter
    kind: EntryKind
    """ours: a saga waits for an operator with it. stale: its saga has another fate by now. orphan:
    of ours, but its saga is gone. foreign: put there by somebody else."""
    state: str | None
    """Of the saga; None where there is none. Of a later release it may be none that we know."""
    tries: int | None
    model_id: str | None
    discarded: str | None


class RedisDeadLetters:
    """The dead letters of one service."""

    def __init__(self, client: "Redis", keys: RedisKeys) -> None:
        self._client = client
        self._keys = keys
        self._scripts = Scripts(client)

    async def entries(self) -> AsyncIterator[Entry]:
        """All that is there now, newest first, in pages of PAGE: two round trips each.

        Places are counted from the oldest, so what is added meanwhile shifts nothing.
        """
        length = await self._length()
        for start in range(0, length, PAGE):
            page = await self._page(start - length, min(start + PAGE, length) - 1 - length)
            letters = [read_letter(raw, start + n) for n, raw in enumerate(page, 1)]
            for letter, fields in zip(letters, await self._sagas(letters), strict=True):
                yield _entry(letter, fields)

    @translated
    async def _length(self) -> int:
        return await self._client.llen(self._keys.dead_letters)

    @translated
    async def _page(self, start: int, stop: int) -> list[bytes]:
        found = await self._client.lrange(self._keys.dead_letters, start, stop)
        return cast("list[bytes]", found)

    @translated
    async def _sagas(self, letters: list[Letter]) -> list[list[bytes | None]]:
        pipe = self._client.pipeline(transaction=False)
        for letter in letters:
            pipe.hmget(self._keys.saga(letter.saga_id), _FIELDS)
        return cast("list[list[bytes | None]]", await pipe.execute())

    @translated
    async def now_seconds(self) -> int:
        """Since 1970 UTC, by the server's clock."""
        seconds, _ = await self._client.time()
        return int(seconds)

    @translated
    async def replay(self, entry: Entry, *, actor: str) -> str:
        """Put the message of a letter without saga on the inbound list.

        Returns OK, MISSING, or COMPLETE: its event was published, and the entry is only taken out.
        """
        letter, keys = entry.letter, self._keys
        answer = await self._scripts.call(
            "replay_letter",
            [
                keys.dead_letters,
                keys.inbound,
                keys.audit,
                keys.saga(letter.saga_id),
                keys.event(letter.saga_id),
                keys.operation(secrets.token_hex(8)),
            ],
            [
                letter.raw,
                letter.message,
                _audited("replayed", entry, actor, None),
                _audited("discarded", entry, actor, "complete already: its event was published"),
                AUDIT_KEPT,
                OPERATION_KEPT_MS,
            ],
        )
        return cast("bytes", answer).decode()

    @translated
    async def drop(self, entry: Entry, *, reason: str, actor: str) -> str:
        """Take out an entry that no saga waits with. Returns OK, MISSING, GONE or CONFLICT.

        Of one that is foreign, or whose saga is gone, nothing is left but a line in the audit list.
        """
        letter = entry.letter
        answer = await self._scripts.call(
            "drop_letter",
            [
                self._keys.dead_letters,
                self._keys.saga(letter.saga_id),
                self._keys.audit,
                self._keys.operation(secrets.token_hex(8)),
            ],
            [
                letter.raw,
                "1" if entry.kind == "stale" else "",
                letter.failed_at or "",
                _audited("discarded", entry, actor, reason),
                AUDIT_KEPT,
                OPERATION_KEPT_MS,
            ],
        )
        return cast("bytes", answer).decode()

    @translated
    async def discard(self, saga: Saga, letter: Letter, *, reason: str, actor: str) -> str:
        """Give a dead-lettered saga up and take its letter out.

        Returns OK, GONE or CONFLICT: it has moved, or has failed again with another letter.
        """
        entry = history_entry(
            kind="discarded",
            worker=actor,
            state=State.DEAD_LETTERED,
            note=f"discarded: {reason}",
        )
        answer = await self._scripts.call(
            "discard",
            [self._keys.saga(saga.id), self._keys.history(saga.id), self._keys.dead_letters],
            [
                saga.version,
                secrets.token_hex(8),
                letter.raw,
                letter.failed_at or "",
                reason,
                entry,
            ],
        )
        return cast("bytes", answer).decode()


def _audited(what: str, entry: Entry, actor: str, note: str | None) -> bytes:
    letter = entry.letter
    return history_entry(
        what=what,
        by=actor,
        letter=letter.id,
        saga_id=letter.saga_id,
        model_id=entry.model_id,
        note=note,
    )


def _entry(letter: Letter, fields: list[bytes | None]) -> Entry:
    held = [None if value is None else value.decode("utf-8", "replace") for value in fields]
    state, failed_at, attempts, model_id, discarded = held
    kind: EntryKind = "foreign"
    if letter.ours:
        same = state == State.DEAD_LETTERED and not discarded and failed_at == letter.failed_at
        kind = "orphan" if state is None else "ours" if same else "stale"
    tries = int(attempts) if attempts and attempts.isdecimal() else letter.attempts
    return Entry(
        letter=letter,
        kind=kind,
        state=state,
        tries=tries if letter.ours else None,
        model_id=letter.model_id or model_id,
        discarded=discarded,
    )
