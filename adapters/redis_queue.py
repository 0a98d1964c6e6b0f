"""The inbound and processing lists."""

from collections.abc import Sequence
from typing import cast

from redis.asyncio import Redis

from adapters.redis_client import connect_blocking, translated
from adapters.redis_keys import RedisKeys
from saga.redis_url import RedisServer

BLOCK_SECONDS = 1


class RedisQueue:
    """`saga.ports.Queue`: FIFO, producers push left, we take from the right."""

    def __init__(self, where: str | RedisServer, client: "Redis", keys: RedisKeys) -> None:
        self._client = client
        self._blocking = connect_blocking(where, BLOCK_SECONDS)
        self._keys = keys

    @translated
    async def take(self) -> bytes | None:
        """Move one message into the processing list; None after a second without one.

        Never cancel it: a cancelled pop strands the message until the next sweep. It comes back
        within BLOCK_SECONDS, so a stop flag serves.
        """
        raw = await self._blocking.blmove(
            self._keys.inbound, self._keys.processing, BLOCK_SECONDS, "RIGHT", "LEFT"
        )
        return cast("bytes | None", raw)

    @translated
    async def unfinished(self) -> Sequence[bytes]:
        """The entries of the processing list, oldest first."""
        entries = await self._client.lrange(self._keys.processing, 0, -1)
        return cast("list[bytes]", entries)[::-1]

    @translated
    async def send(self, messages: Sequence[bytes]) -> int:
        """Push messages on the inbound list as they are; returns its length."""
        length: int = await self._client.lpush(self._keys.inbound, *messages)
        return length

    async def close(self) -> None:
        await self._blocking.aclose()
