import json

import msgspec
import pytest

from adapters.embedded import EmbeddedValkey
from adapters.redis_views import OPERATION_KEPT_MS
from saga.errors import StoreUnavailableError
from saga.model import State
from tests.integration.lua.store import Corner, message, opened, walk
from tests.integration.lua.test_discard import Letters, dead


@pytest.mark.parametrize(
    ("raw", "sent"),
    [
        (json.dumps({"original_message": "hallo", "error": "no"}).encode(), b"hallo"),
        (message("a"), message("a")),
        (b"\xff\x00", b"\xff\x00"),
        (b"", b""),
    ],
)
async def test_moved(corner: Corner, raw: bytes, sent: bytes) -> None:
    """The original message is the inbound list's newest, and its entry is gone, in one write."""
    letters = Letters(corner)
    await corner.client.lpush(corner.keys.inbound, b"before")
    await corner.client.lpush(corner.keys.dead_letters, b"other", raw, b"another")
    (entry,) = [entry for entry in await letters.all() if entry.letter.raw == raw]
    assert await letters.replay(entry, actor="op") == "OK"
    assert await corner.listed(corner.keys.inbound) == [sent, b"before"]
    assert await corner.listed(corner.keys.dead_letters) == [b"another", b"other"]
    (line,) = await corner.listed(corner.keys.audit)
    said = msgspec.json.decode(line)
    assert (said["what"], said["by"], said["letter"]) == ("replayed", "op", entry.letter.id)


async def test_twice(corner: Corner) -> None:
    """A message is put on the list once, however often the same replay is called."""
    letters = Letters(corner)
    await corner.client.lpush(corner.keys.dead_letters, b"x")
    (entry,) = await letters.all()
    assert await letters.replay(entry, actor="op") == "OK"
    before = await corner.contents()
    assert await letters.replay(entry, actor="op") == "MISSING"
    assert await corner.contents() == before


async def test_retried(corner: Corner) -> None:
    """A replay whose reply was lost gives its answer again, also when a like entry came since."""
    letters = Letters(corner)
    await corner.client.lpush(corner.keys.dead_letters, b"x")
    (entry,) = await letters.all()
    assert await letters.replay(entry, actor="op") == "OK"
    await corner.client.lpush(corner.keys.dead_letters, b"x")
    before = await corner.contents()
    assert await letters.scripts.again() == b"OK"
    assert await corner.contents() == before
    operation = letters.scripts.last[1][-1]
    assert 0 < await corner.client.pttl(operation) <= OPERATION_KEPT_MS


async def test_same_bytes(corner: Corner) -> None:
    """Two entries of the same bytes are two: each is moved once."""
    letters = Letters(corner)
    await corner.client.lpush(corner.keys.dead_letters, b"x", b"x")
    answers = [await letters.replay(entry, actor="op") for entry in await letters.all()]
    assert answers == ["OK", "OK"]
    assert await corner.listed(corner.keys.inbound) == [b"x", b"x"]
    assert await corner.listed(corner.keys.dead_letters) == []


async def test_orphan(corner: Corner) -> None:
    """Law 2: what is left of a saga that is gone is its letter, and that brings it back."""
    letters, worker = Letters(corner), corner.worker()
    saga = await dead(corner)
    await corner.client.delete(corner.keys.saga(saga.id), corner.keys.history(saga.id))
    (entry,) = await letters.all()
    assert entry.kind == "orphan"
    assert await letters.replay(entry, actor="op") == "OK"
    assert await corner.listed(corner.keys.inbound) == [saga.message]
    assert (await corner.begin(worker, saga.message)).id == saga.id


async def test_complete(corner: Corner) -> None:
    """Law 1: the letter of a saga that is gone brings nothing back whose event was published."""
    letters = Letters(corner)
    saga = await dead(corner)
    (entry,) = await letters.all()
    published = await corner.begin(corner.worker(), saga.message)
    await walk(corner.worker(), published, State.ACKED)
    await corner.client.delete(corner.keys.saga(saga.id), corner.keys.history(saga.id))
    await corner.client.lpush(corner.keys.dead_letters, entry.letter.raw)  # of an older release
    assert await letters.replay(entry, actor="op") == "COMPLETE"
    assert await corner.listed(corner.keys.dead_letters) == []
    assert await corner.listed(corner.keys.inbound) == []
    (line,) = await corner.listed(corner.keys.audit)
    assert "its event was published" in msgspec.json.decode(line)["note"]
    before = await corner.contents()
    assert await letters.scripts.again() == b"COMPLETE"
    assert await corner.contents() == before


async def test_no_memory() -> None:
    """Law 2: a server that refuses writes keeps the entry."""
    with EmbeddedValkey() as server:
        async with opened(server.url) as corner:
            letters = Letters(corner)
            await corner.client.lpush(corner.keys.dead_letters, b"x")
            (entry,) = await letters.all()
            await corner.client.config_set("maxmemory", 1)
            with pytest.raises(StoreUnavailableError, match="memory"):
                await letters.replay(entry, actor="op")
            assert await corner.listed(corner.keys.dead_letters) == [b"x"]
            await corner.client.config_set("maxmemory", 0)
            assert await letters.replay(entry, actor="op") == "OK"
