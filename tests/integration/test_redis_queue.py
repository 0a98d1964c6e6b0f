import asyncio
from collections.abc import AsyncIterator

import pytest

from adapters import redis_queue
from adapters.embedded import EmbeddedValkey
from adapters.redis_queue import RedisQueue
from tests.integration.lua.store import Corner, opened


@pytest.fixture
async def corner(valkey: EmbeddedValkey) -> AsyncIterator[Corner]:
    """Keys of the test's own."""
    async with opened(valkey.url) as found:
        yield found


@pytest.fixture
async def queue(
    valkey: EmbeddedValkey, corner: Corner, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[RedisQueue]:
    """A queue that waits 20 ms for a message instead of a second."""
    monkeypatch.setattr(redis_queue, "BLOCK_SECONDS", 0.02)
    found = RedisQueue(valkey.url, corner.client, corner.keys)
    yield found
    await found.close()


async def test_fifo(corner: Corner, queue: RedisQueue) -> None:
    """Messages are taken in the order in which they were pushed."""
    raws = [b"%d" % number for number in range(10)]
    for raw in raws:
        await corner.client.lpush(corner.keys.inbound, raw)
    assert [await queue.take() for _ in raws] == raws


async def test_taken(corner: Corner, queue: RedisQueue) -> None:
    """A taken message is in the processing list, and no longer in the inbound list."""
    await corner.client.lpush(corner.keys.inbound, b"\x00\xff")
    assert await queue.take() == b"\x00\xff"
    assert await corner.listed(corner.keys.inbound) == []
    assert await corner.listed(corner.keys.processing) == [b"\x00\xff"]


async def test_empty(corner: Corner, queue: RedisQueue) -> None:
    """Without a message a take ends with None, and changes nothing."""
    assert await queue.take() is None
    assert await corner.contents() == {}


async def test_waiting(corner: Corner, queue: RedisQueue) -> None:
    """A waiting take gets a message that comes meanwhile; nobody polls."""
    taking = asyncio.create_task(_taken(queue))
    await queue.send([b"late"])
    async with asyncio.timeout(10):
        assert await taking == b"late"


async def _taken(queue: RedisQueue) -> bytes:
    while (raw := await queue.take()) is None:
        pass
    return raw


async def test_each_once(
    valkey: EmbeddedValkey, corner: Corner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of many replicas that take at once, one gets each message."""
    monkeypatch.setattr(redis_queue, "BLOCK_SECONDS", 0.02)
    raws = [b"%d" % number for number in range(50)]
    queues = [RedisQueue(valkey.url, corner.client, corner.keys) for _ in range(4)]
    await queues[0].send(raws)
    try:
        taken = await asyncio.gather(*(_all(queue) for queue in queues))
    finally:
        for queue in queues:
            await queue.close()
    assert sorted(raw for some in taken for raw in some) == sorted(raws)


async def _all(queue: RedisQueue) -> list[bytes]:
    taken = []
    while (raw := await queue.take()) is not None:
        taken.append(raw)
    return taken


async def test_unfinished(corner: Corner, queue: RedisQueue) -> None:
    """What was taken and not finished is listed oldest first."""
    assert await queue.unfinished() == []
    raws = [b"%d" % number for number in range(5)]
    await queue.send(raws)
    for _ in range(3):
        await queue.take()
    assert await queue.unfinished() == raws[:3]


async def test_send(corner: Corner, queue: RedisQueue) -> None:
    """Messages are sent as they are, and the length of the list comes back."""
    raws = [b"not json", b"\xff\x00", "模型".encode()]
    assert await queue.send(raws[:2]) == 2
    assert await queue.send(raws[2:]) == 3
    assert [await queue.take() for _ in raws] == raws
