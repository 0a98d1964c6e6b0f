import msgspec
import pytest

from adapters.redis_dlq import Entry
from saga.model import State
from tests.integration.lua.store import Corner, fail
from tests.integration.lua.test_discard import Letters, dead, discard


async def drop(letters: Letters, entry: Entry) -> str:
    return await letters.drop(entry, reason="rubbish", actor="op")


async def test_foreign(corner: Corner) -> None:
    """A foreign entry goes for good; the audit list says whose order that was, and why."""
    letters = Letters(corner)
    await corner.client.lpush(corner.keys.dead_letters, b"a", b"\xff", b"c")
    (entry,) = [entry for entry in await letters.all() if entry.letter.raw == b"\xff"]
    assert await drop(letters, entry) == "OK"
    assert await corner.listed(corner.keys.dead_letters) == [b"c", b"a"]
    (line,) = await corner.listed(corner.keys.audit)
    said = msgspec.json.decode(line)
    assert (said["what"], said["by"], said["note"]) == ("discarded", "op", "rubbish")
    assert said["letter"] == entry.letter.id
    assert said["at_ms"] > 0


async def test_missing(corner: Corner) -> None:
    """What is gone already is not dropped again."""
    letters = Letters(corner)
    await corner.client.lpush(corner.keys.dead_letters, b"a")
    (entry,) = await letters.all()
    assert await drop(letters, entry) == "OK"
    before = await corner.contents()
    assert await drop(letters, entry) == "MISSING"
    assert await corner.contents() == before


async def test_retried(corner: Corner) -> None:
    """A drop whose reply was lost answers OK again, and takes no like entry that came since."""
    letters = Letters(corner)
    await corner.client.lpush(corner.keys.dead_letters, b"a")
    (entry,) = await letters.all()
    assert await drop(letters, entry) == "OK"
    await corner.client.lpush(corner.keys.dead_letters, b"a")
    before = await corner.contents()
    assert await letters.scripts.again() == b"OK"
    assert await corner.contents() == before


async def test_same_bytes(corner: Corner) -> None:
    """Of two entries of the same bytes one drop takes one."""
    letters = Letters(corner)
    await corner.client.lpush(corner.keys.dead_letters, b"a", b"a")
    newer, _ = await letters.all()
    assert await drop(letters, newer) == "OK"
    assert await corner.listed(corner.keys.dead_letters) == [b"a"]


async def test_stale(corner: Corner) -> None:
    """Law 2: an older letter of a saga that has failed again goes, the newer one stays."""
    letters, worker = Letters(corner), corner.worker()
    saga = await dead(corner)
    old = msgspec.json.decode((await letters.all())[0].letter.raw) | {"failed_at": "2020-01-01"}
    await corner.client.rpush(corner.keys.dead_letters, msgspec.json.encode(old))
    newer, older = await letters.all()
    assert (newer.kind, older.kind) == ("ours", "stale")
    assert await drop(letters, older) == "OK"
    assert await corner.listed(corner.keys.dead_letters) == [newer.letter.raw]
    again = await corner.begin(worker, saga.message)
    assert await letters.all() == []
    await fail(worker, again)


@pytest.mark.parametrize("how", ["waits", "gone"])
async def test_kept(corner: Corner, how: str) -> None:
    """Law 2: the letter that a saga waits with, or whose saga is gone meanwhile, stays."""
    letters = Letters(corner)
    saga = await dead(corner)
    (entry,) = await letters.all()
    if how == "gone":
        await corner.client.delete(corner.keys.saga(saga.id))
    before = await corner.contents()
    stale = msgspec.structs.replace(entry, kind="stale")
    assert await drop(letters, stale) == ("GONE" if how == "gone" else "CONFLICT")
    assert await corner.contents() == before


async def test_left_behind(corner: Corner) -> None:
    """A letter that a discarded saga has left behind can be dropped."""
    letters = Letters(corner)
    saga = await dead(corner)
    (entry,) = await letters.all()
    await discard(letters, saga)
    await corner.client.lpush(corner.keys.dead_letters, entry.letter.raw)
    (left,) = await letters.all()
    assert (left.kind, left.state) == ("stale", State.DEAD_LETTERED)
    assert await drop(letters, left) == "OK"
