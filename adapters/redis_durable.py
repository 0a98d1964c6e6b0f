"""Waits until what was written to Redis would outlive the server: before money is spent on it."""

import asyncio
from collections.abc import Sequence
from typing import Literal, cast

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from adapters.redis_client import Scripts, translated
from adapters.redis_keys import RedisKeys
from saga.errors import HeldError, StoreUnavailableError

Durability = Literal["none", "aof", "replica"]
Expected = tuple[str, str, str | int]
"""A hash, a field of it, and the value that must be there."""
WAIT_MS = 3000
"""Less than the socket's timeout. With `appendfsync everysec` a wait takes up to a second."""
_HOLD = "durability"


class _Round:
    """Waits of several sagas that one command serves."""

    def __init__(self) -> None:
        self.expected: list[Expected] = []
        self.answer: list[bool] | HeldError | StoreUnavailableError | None = None


class RedisDurable:
    """One for a client.

    WAIT and WAITAOF only look at what their own connection wrote, and writes go through a pool of
    connections. So a script writes a mark and the wait follows it on the same connection, in one
    round trip: the stream of writes is ordered, and what was answered before the mark was written
    is in front of it. Whoever comes while a round is under way shares the next one.
    """

    def __init__(self, client: "Redis", keys: RedisKeys, mode: Durability) -> None:
        self._client = client
        self._scripts = Scripts(client)
        self._mark = keys.settled
        self._mode = mode
        self._turn = asyncio.Lock()
        self._next = _Round()

    async def settle(self, expected: Sequence[Expected]) -> bool:
        """Return when all that was written is safe; False when something expected is not there.

        Raises HeldError where not enough acknowledge it in time, and StoreUnavailableError.
        """
        if self._mode == "none":
            return True
        mine, at = self._next, len(self._next.expected)
        mine.expected += expected
        await asyncio.sleep(0)  # who asks at the same time is in the same round
        async with self._turn:
            if mine.answer is None:
                if self._next is mine:
                    self._next = _Round()
                mine.answer = await self._outcome(mine.expected)
        if isinstance(mine.answer, list):
            return all(mine.answer[at : at + len(expected)])
        if isinstance(mine.answer, HeldError):  # an error for each: tracebacks grow
            raise HeldError(_HOLD, str(mine.answer))
        raise StoreUnavailableError(str(mine.answer))

    async def _outcome(
        self, expected: Sequence[Expected]
    ) -> list[bool] | HeldError | StoreUnavailableError:
        try:
            return await self._wait(expected)
        except (HeldError, StoreUnavailableError) as error:
            return error

    @translated
    async def _wait(self, expected: Sequence[Expected]) -> list[bool]:
        keys = [self._mark, *(key for key, _, _ in expected)]
        args = [part for _, field, value in expected for part in (field, value)]
        wait = ("WAITAOF", 1, 0, WAIT_MS) if self._mode == "aof" else ("WAIT", 1, WAIT_MS)
        held, acknowledged = await self._scripts.call_and_wait("settle", keys, args, wait)
        if isinstance(acknowledged, ResponseError):
            raise HeldError(_HOLD, f"REDIS_DURABILITY={self._mode}: Redis: {acknowledged}")
        count = acknowledged[0] if isinstance(acknowledged, list) else acknowledged
        if not count:
            where = "on the disk of Redis" if self._mode == "aof" else "on any replica of Redis"
            raise HeldError(
                _HOLD, f"REDIS_DURABILITY={self._mode}: not {where} after {WAIT_MS // 1000} s"
            )
        return [each == b"1" for each in cast("list[bytes]", held)]
