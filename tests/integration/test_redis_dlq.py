"""Reading the dead-letter list while it is written to."""

from collections.abc import AsyncIterator

import pytest

from adapters.embedded import EmbeddedValkey
from adapters.redis_dlq import PAGE, RedisDeadLetters
from tests.integration.lua.store import Corner, opened


@pytest.fixture
async def corner(valkey: EmbeddedValkey) -> AsyncIterator[Corner]:
    """Keys of the test's own."""
    async with opened(valkey.url) as found:
        yield found


@pytest.mark.parametrize("count", [0, 1, PAGE, PAGE + 1, 2 * PAGE + 3])
async def test_pages(corner: Corner, count: int) -> None:
    """Each entry is read once, the newest first, numbered from one."""
    for n in range(count):
        await corner.client.lpush(corner.keys.dead_letters, str(n))
    letters = RedisDeadLetters(corner.client, corner.keys)
    found = [entry.letter async for entry in letters.entries()]
    assert [letter.raw for letter in found] == [str(n).encode() for n in reversed(range(count))]
    assert [letter.index for letter in found] == list(range(1, count + 1))


async def test_added_meanwhile(corner: Corner) -> None:
    """Letters that come while the list is read shift nothing: all of before are read once."""
    before = [str(n).encode() for n in range(2 * PAGE)]
    await corner.client.rpush(corner.keys.dead_letters, *before)
    letters = RedisDeadLetters(corner.client, corner.keys)
    found: list[bytes] = []
    async for entry in letters.entries():
        if len(found) == 0:
            await corner.client.lpush(corner.keys.dead_letters, *[b"new"] * 7)
        found.append(entry.letter.raw)
    assert found == before
