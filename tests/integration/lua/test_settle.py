from saga.model import State
from tests.integration.lua.store import Corner


async def settle(corner: Corner, *expected: tuple[str, str, object]) -> list[bytes]:
    """As the service does, without the wait behind it."""
    keys = [corner.keys.settled, *(key for key, _, _ in expected)]
    args = [str(part) for _, field, value in expected for part in (field, value)]
    answer = await corner.worker().scripts.call("settle", keys, args)
    assert isinstance(answer, list)
    return answer


async def test_each_expectation(corner: Corner) -> None:
    """Each expectation is answered by itself: held, of another value, of a hash that is gone."""
    saga = await corner.begin_in(corner.worker(), State.VALIDATED)
    key = corner.keys.saga(saga.id)
    assert await settle(
        corner,
        (key, "version", saga.version),
        (key, "version", saga.version + 1),
        (key, "owner", saga.lease.owner),
        (corner.keys.saga("gone"), "version", saga.version),
        (key, "no such field", ""),
    ) == [b"1", b"0", b"1", b"0", b"0"]


async def test_a_write_each_time(corner: Corner) -> None:
    """Every call writes: a wait behind one that does not would wait for nothing. Sent again, it
    says the same."""
    saga = await corner.begin(corner.worker())
    expected = (corner.keys.saga(saga.id), "version", saga.version)
    before = await corner.contents()
    for count in (1, 2):
        assert await settle(corner, expected) == [b"1"]
        assert await corner.client.get(corner.keys.settled) == str(count).encode()
    after = await corner.contents()
    assert after.pop(corner.keys.settled.encode()) == b"2"
    assert after == before


async def test_nothing_expected(corner: Corner) -> None:
    """A mark alone is written too."""
    assert await settle(corner) == []
    assert await corner.client.get(corner.keys.settled) == b"1"
