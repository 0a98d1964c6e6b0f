"""Events that were published, and publishing them again."""

from collections.abc import AsyncIterator, Sequence
from typing import Literal, cast

import msgspec
from redis.asyncio import Redis

from adapters.redis_client import Scripts, translated
from adapters.redis_codec import history_entry
from adapters.redis_keys import RedisKeys
from saga.model import State

_PAGE = 500
AUDIT_KEPT = 10_000
"""Entries of the audit list, some 250 bytes each."""
RUN_KEPT_MS = 86_400_000
"""A command that is still at it renews this with each event."""

Answer = Literal["OK", "DUPLICATE", "GONE", "CONFLICT"]


class Published(msgspec.Struct, frozen=True):
    """When the event of a saga was first published."""

    saga_id: str
    at_us: int
    """Microseconds since 1970, by the server's clock."""
    kept: bool
    """Whether its bytes are; else a release published it that kept none, and this is when its saga
    ended."""


class RedisEvents:
    """All methods raise StoreUnavailableError when Redis is away."""

    def __init__(self, client: "Redis", keys: RedisKeys) -> None:
        self._client = client
        self._keys = keys
        self._scripts = Scripts(client)

    async def published(self, since_us: int = 0) -> AsyncIterator[Published]:
        """All kept events from a time on, in the order of their publication; then the ACKED sagas
        whose event was not kept, in the order of their end."""
        least: int | str = since_us
        while page := await self._kept(least):
            for saga_id, at_us in page:
                yield Published(saga_id.decode(), int(at_us), kept=True)
            least = f"({int(page[-1][1])}"
        # By time and id, not by rank: retention takes from the front of this index meanwhile.
        last, ties = (-(-since_us // 1000), b""), 0
        while ended := await self._ended(last, ties):
            for published in await self._unkept(ended):
                yield published
            times = [int(ms) for _, ms in ended]
            ties = times.count(times[-1]) + (ties if times[-1] == last[0] else 0)
            last = (times[-1], ended[-1][0])

    @translated
    async def _kept(self, least: int | str) -> list[tuple[bytes, float]]:
        return cast(
            "list[tuple[bytes, float]]",
            await self._client.zrangebyscore(
                self._keys.events, least, "+inf", start=0, num=_PAGE, withscores=True
            ),
        )

    @translated
    async def _ended(self, last: tuple[int, bytes], ties: int) -> list[tuple[bytes, float]]:
        """Those behind `last` (ms, id), of whose time `ties` were read already."""
        found = await self._client.zrangebyscore(
            self._keys.index(State.ACKED),
            last[0],
            "+inf",
            start=0,
            num=_PAGE + ties,
            withscores=True,
        )
        page = cast("list[tuple[bytes, float]]", found)
        return [each for each in page if (int(each[1]), each[0]) > last]

    @translated
    async def _unkept(self, ended: Sequence[tuple[bytes, float]]) -> list[Published]:
        """Those of some ended sagas that have no kept event."""
        names = [saga_id.decode() for saga_id, _ in ended]
        scores = await self._client.zmscore(self._keys.events, names)
        return [
            Published(name, int(ms) * 1000, kept=False)
            for name, (_, ms), score in zip(names, ended, scores, strict=True)
            if score is None
        ]

    @translated
    async def named(self, id_or_model: str) -> Published | None:
        """The event of a saga, or of the saga that owns the model; None without saga and event."""
        holder = cast("bytes | None", await self._client.get(self._keys.claim(id_or_model)))
        for saga_id in (id_or_model, *(() if holder is None else (holder.decode(),))):
            score = await self._client.zscore(self._keys.events, saga_id)
            if score is not None:
                return Published(saga_id, int(score), kept=True)
            updated = await self._client.hget(self._keys.saga(saga_id), "updated_ms")
            if updated is not None:
                return Published(saga_id, int(updated) * 1000, kept=False)
        return None

    @translated
    async def bytes_of(self, saga_ids: Sequence[str]) -> list[bytes | None]:
        """The kept events of some sagas. One round trip."""
        if not saga_ids:
            return []
        found = await self._client.mget([self._keys.event(each) for each in saga_ids])
        return cast("list[bytes | None]", found)

    @translated
    async def now_us(self) -> int:
        """The server's time."""
        seconds, micros = await self._client.time()
        return int(seconds) * 1_000_000 + int(micros)

    @translated
    async def republish(
        self,
        saga_id: str,
        *,
        run: str,
        place: int,
        actor: str,
        model_id: str | None,
        rebuilt: bytes = b"",
    ) -> Answer:
        """Push a kept event, or the rebuilt one, on the outbound list, and record who did it.

        The same place of the same run is sent once, however often this is called.
        """
        keys = self._keys
        audited: dict[str, object] = {
            "what": "republished",
            "by": actor,
            "saga_id": saga_id,
            "model_id": model_id,
            "run": run,
        }
        answer = await self._scripts.call(
            "republish",
            [
                keys.saga(saga_id),
                keys.history(saga_id),
                keys.event(saga_id),
                keys.outbound,
                keys.audit,
                keys.republishing(run),
            ],
            [
                place,
                rebuilt,
                history_entry(kind="republished", worker=actor, state=State.ACKED)[:-1],
                history_entry(**audited)[:-1],
                AUDIT_KEPT,
                RUN_KEPT_MS,
            ],
        )
        return cast("Answer", cast("bytes", answer).decode())
