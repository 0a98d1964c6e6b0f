"""The last known price in Redis: a replica that starts while the source is down still knows it."""

import hashlib
from decimal import Decimal
from typing import cast
from urllib.parse import urlsplit

import msgspec
from redis.asyncio import Redis

from adapters.price_feed import KNOWN_SECONDS, PriceMemory
from adapters.redis_client import translated
from adapters.redis_keys import RedisKeys
from adapters.rpc import host_of


class _Known(msgspec.Struct):
    usd: str
    at_ms: int
    """When the source gave it, by the server's clock."""


class RedisPrice(PriceMemory):
    """The memory of one source: what is asked, and where in the answer the number is."""

    def __init__(self, client: "Redis", keys: RedisKeys, *, url: str, path: str) -> None:
        self._client = client
        self._key = keys.price(_source(url, path))

    @translated
    async def keep(self, usd: Decimal) -> None:
        known = _Known(usd=f"{usd:f}", at_ms=await self._now_ms())
        await self._client.set(self._key, msgspec.json.encode(known), ex=KNOWN_SECONDS)

    @translated
    async def last(self) -> tuple[str, float] | None:
        """None too where somebody else's bytes are under the key."""
        raw = cast("bytes | None", await self._client.get(self._key))
        if raw is None:
            return None
        try:
            known = msgspec.json.decode(raw, type=_Known)
        except ValueError:  # msgspec's own errors, and bytes that are no UTF-8
            return None
        return known.usd, max(await self._now_ms() - known.at_ms, 0) / 1000

    async def _now_ms(self) -> int:
        seconds, micros = await self._client.time()
        return seconds * 1000 + micros // 1000


def _source(url: str, path: str) -> str:
    """64 bits of a hash: the query says which token is asked for, and may hold an API key."""
    parts = urlsplit(url)
    asked = "\n".join((host_of(url), parts.path, parts.query, path))
    return hashlib.sha256(asked.encode()).hexdigest()[:16]
