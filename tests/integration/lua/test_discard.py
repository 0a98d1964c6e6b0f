from typing import Any

import pytest

from adapters.redis_dlq import Entry, RedisDeadLetters
from saga.model import Saga, State
from tests.integration.lua.store import Corner, Recorder, envelope, fail, message


class Letters(RedisDeadLetters):
    """Dead letters whose last script call can be sent again."""

    def __init__(self, corner: Corner) -> None:
        super().__init__(corner.client, corner.keys)
        self.scripts = Recorder(corner.client)
        self._scripts = self.scripts

    async def all(self) -> list[Entry]:
        return [entry async for entry in self.entries()]


async def dead(corner: Corner, raw: bytes | None = None) -> Saga:
    worker = corner.worker()
    saga = await corner.begin_in(worker, State.VALIDATED, raw)
    await fail(worker, saga)
    return await corner.read(saga)


async def discard(letters: Letters, saga: Saga, **changes: Any) -> str:
    (entry,) = [entry for entry in await letters.all() if entry.letter.saga_id == saga.id]
    return await letters.discard(saga, entry.letter, reason="withdrawn", actor="op", **changes)


async def test_discard(corner: Corner) -> None:
    """A discarded saga stays dead-lettered with its message and says why and by whom; its letter,
    and no other, leaves the list in the same write."""
    letters = Letters(corner)
    saga, other = await dead(corner), await dead(corner, message("b"))
    assert await discard(letters, saga) == "OK"
    stored = await corner.read(saga)
    assert (stored.state, stored.discarded) == (State.DEAD_LETTERED, "withdrawn")
    assert (stored.message, stored.error) == (saga.message, saga.error)
    assert stored.version == saga.version + 1
    assert await corner.indexes(saga) == [State.DEAD_LETTERED]
    assert [entry.letter.saga_id for entry in await letters.all()] == [other.id]
    entry = (await corner.views.history(saga.id))[-1]
    assert (entry.kind, entry.worker, entry.note) == ("discarded", "op", "discarded: withdrawn")


async def test_retried(corner: Corner) -> None:
    """A discard whose reply was lost gives the same answer again, and changes nothing."""
    letters = Letters(corner)
    assert await discard(letters, await dead(corner)) == "OK"
    before = await corner.contents()
    assert await letters.scripts.again() == b"OK"
    assert await corner.contents() == before


@pytest.mark.parametrize("how", ["resumed", "discarded", "gone"])
async def test_moved(corner: Corner, how: str) -> None:
    """A saga that has moved since it was read is not discarded, and nothing changes."""
    letters = Letters(corner)
    saga = await dead(corner)
    (entry,) = await letters.all()
    match how:
        case "resumed":
            await corner.views.resume(saga, State.VALIDATED, actor="op")
        case "discarded":
            await letters.discard(saga, entry.letter, reason="first", actor="op")
        case _:
            await corner.client.delete(corner.keys.saga(saga.id))
    before = await corner.contents()
    answer = await letters.discard(saga, entry.letter, reason="second", actor="op")
    assert answer == ("GONE" if how == "gone" else "CONFLICT")
    assert await corner.contents() == before


async def failed_again(corner: Corner, saga: Saga) -> Saga:
    """The saga, resumed by somebody else and dead once more, at another time."""
    assert await corner.views.resume(saga, State.VALIDATED, actor="other") == "OK"
    worker = corner.worker()
    (taken,) = await worker.take_due(1)
    again = await corner.read(await fail(worker, taken, error="another fault", why="conflict"))
    if again.failed_at == saga.failed_at:  # within one millisecond
        await corner.client.hset(corner.keys.saga(saga.id), "failed_at", "2099-01-01T00:00:00Z")
    return await corner.read(saga)


async def test_failed_again(corner: Corner) -> None:
    """Law 2: an order that names an older failure does not touch the newer one."""
    letters = Letters(corner)
    saga = await dead(corner)
    (old,) = await letters.all()
    again = await failed_again(corner, saga)
    before = await corner.contents()
    answer = await letters.discard(again, old.letter, reason="r", actor="op")
    assert answer == "CONFLICT"
    answer = await corner.views.resume(
        again,
        State.VALIDATED,
        actor="op",
        letter=old.letter.raw,
        failed_at=old.letter.failed_at,
    )
    assert answer == "CONFLICT"
    assert await corner.contents() == before


async def test_resumed_by_hand(corner: Corner) -> None:
    """A discarded saga that is resumed after all is discarded no more."""
    letters = Letters(corner)
    saga = await dead(corner)
    await discard(letters, saga)
    stored = await corner.read(saga)
    assert await corner.views.resume(stored, State.VALIDATED, actor="op") == "OK"
    again = await corner.read(saga)
    assert (again.state, again.discarded) == (State.VALIDATED, None)


async def test_delivered_again(corner: Corner) -> None:
    """A second copy of a discarded message is a duplicate: it does not bring the saga back."""
    letters, worker = Letters(corner), corner.worker()
    saga = await dead(corner)
    await discard(letters, saga)
    before = await corner.contents()
    await corner.deliver(saga.message)
    admission = await corner.admit(worker, saga.message)
    assert (admission.saga, admission.duplicate) == (None, True)
    assert await corner.contents() == before


async def test_other_bytes(corner: Corner) -> None:
    """The same message in other bytes is the producer's new order: it opens the saga again."""
    letters, worker = Letters(corner), corner.worker()
    saga = await dead(corner, envelope("id-1", 0))
    await discard(letters, saga)
    again = await corner.begin(worker, envelope("id-1", 1))
    assert (again.id, again.state, again.discarded) == (saga.id, State.VALIDATED, None)
