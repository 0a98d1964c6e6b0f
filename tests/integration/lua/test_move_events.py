"""Laws of the events that the move to PUBLISHED keeps, and the move to ACKED lets expire."""

import pytest

from saga.actions import Fail, Skip
from saga.change import change_of
from saga.model import ErrorClass, Saga, State
from saga.ports import Change
from tests.integration.lua.store import EVENT, Corner, Worker, message, walk

DAY_MS = 86_400_000


async def published(corner: Corner, worker: Worker, number: int) -> Saga:
    """A saga whose event, of its own, is out."""
    saga = await corner.begin_in(worker, State.REGISTERED, message(f"model_{number}"))
    event = b'{"n":%d}' % number
    return await worker.move(saga, State.PUBLISHED, Change(saga=saga, event=event))


async def order(corner: Corner) -> list[tuple[str, int]]:
    found = await corner.client.zrange(corner.keys.events, 0, -1, withscores=True)
    return [(saga_id.decode(), int(score)) for saga_id, score in found]


async def test_kept(corner: Corner) -> None:
    """An event is kept, byte for byte, in the write that publishes it, and for ever so far."""
    worker = corner.worker(event_retention_seconds=60)
    saga = await published(corner, worker, 1)
    key = corner.keys.event(saga.id)
    assert await corner.client.get(key) == b'{"n":1}'
    assert await corner.listed(corner.keys.outbound) == [b'{"n":1}']
    assert await corner.client.pttl(key) == -1
    ((saga_id, at_us),) = await order(corner)
    stored = await corner.read(saga)
    assert (saga_id, at_us // 1000) == (saga.id, stored.updated_ms)


async def test_lost_reply(corner: Corner) -> None:
    """A publication sent again after its reply was lost keeps one event, at its first time."""
    worker = corner.worker()
    await published(corner, worker, 1)
    before = await corner.contents()
    assert await worker.scripts.again() == b"DUPLICATE"
    assert await corner.contents() == before


async def test_no_two_times_alike(corner: Corner) -> None:
    """Events are in the order of their publication, though the clock has gone back meanwhile."""
    worker = corner.worker()
    first = await published(corner, worker, 1)
    ahead = (await corner.now_ms() + DAY_MS) * 1000
    await corner.client.zadd(corner.keys.events, {first.id: ahead})
    later = [await published(corner, worker, number) for number in (2, 3, 4)]
    assert await order(corner) == [
        (first.id, ahead),
        *((saga.id, ahead + n) for n, saga in enumerate(later, 1)),
    ]


async def test_expiry(corner: Corner) -> None:
    """The span begins when the saga is acknowledged, and has nothing to do with the saga's own."""
    worker = corner.worker(event_retention_seconds=60, retention_seconds=5)
    saga = await published(corner, worker, 1)
    await walk(worker, saga, State.ACKED)
    assert 59_000 < await corner.client.pttl(corner.keys.event(saga.id)) <= 60_000
    assert await corner.client.pttl(corner.keys.saga(saga.id)) <= 5_000


async def test_for_ever(corner: Corner) -> None:
    """Without a span nothing expires and nothing is pruned."""
    worker = corner.worker(event_retention_seconds=0)
    saga = await published(corner, worker, 1)
    await corner.client.zadd(corner.keys.events, {saga.id: 1})
    await walk(worker, saga, State.ACKED)
    await walk(worker, await published(corner, worker, 2), State.ACKED)
    assert await corner.client.pttl(corner.keys.event(saga.id)) == -1
    assert (await order(corner))[0] == (saga.id, 1)


async def test_pruned(corner: Corner) -> None:
    """An acknowledgement takes events away whose span is over, their bytes included, some at once,
    also those that were kept for ever before."""
    ever, worker = corner.worker(), corner.worker("w2", event_retention_seconds=60)
    old = [await published(corner, ever, number) for number in range(20)]
    for saga in old:
        await walk(ever, saga, State.ACKED)
    await corner.client.zadd(corner.keys.events, {saga.id: n for n, saga in enumerate(old)})
    await corner.client.zadd(corner.keys.index(State.ACKED), {saga.id: 1 for saga in old})
    new = [await published(corner, worker, number) for number in (20, 21)]
    await walk(worker, new[0], State.ACKED)
    assert [saga_id for saga_id, _ in await order(corner)] == [
        saga.id for saga in (*old[16:], *new)
    ]
    await walk(worker, new[1], State.ACKED)
    assert [saga_id for saga_id, _ in await order(corner)] == [saga.id for saga in new]
    assert await corner.client.exists(*(corner.keys.event(saga.id) for saga in old)) == 0
    assert await corner.client.exists(*(corner.keys.event(saga.id) for saga in new)) == 2


async def test_published_again_by_another_saga_of_the_id(corner: Corner) -> None:
    """A saga that began anew after its own had expired leaves the first event as it was."""
    worker = corner.worker()
    saga = await corner.begin_in(worker, State.REGISTERED)
    await corner.client.set(corner.keys.event(saga.id), b"as it was")
    await corner.client.zadd(corner.keys.events, {saga.id: 5})
    await worker.move(saga, State.PUBLISHED, Change(saga=saga, event=EVENT))
    assert await corner.client.get(corner.keys.event(saga.id)) == b"as it was"
    assert await order(corner) == [(saga.id, 5)]


async def long_ago(corner: Corner, *sagas: Saga) -> None:
    """Published long before the span."""
    await corner.client.zadd(corner.keys.events, {saga.id: n for n, saga in enumerate(sagas, 1)})


async def test_span_begins_with_the_end(corner: Corner) -> None:
    """A saga that is acknowledged long after its publication has its event for the whole span."""
    worker = corner.worker(event_retention_seconds=60)
    saga = await published(corner, worker, 1)
    await long_ago(corner, saga)
    await walk(worker, saga, State.ACKED)
    assert 59_000 < await corner.client.pttl(corner.keys.event(saga.id)) <= 60_000
    assert await order(corner) == [(saga.id, 1)]
    await corner.client.delete(corner.keys.event(saga.id))  # as its span does
    await walk(worker, await published(corner, worker, 2), State.ACKED)
    assert saga.id not in dict(await order(corner))


async def test_of_a_saga_that_has_not_ended(corner: Corner) -> None:
    """The event of a saga that waits for its end is kept, however long that is; so many of them
    hide no other whose time is over."""
    worker = corner.worker(event_retention_seconds=60)
    waiting = [await published(corner, worker, number) for number in range(16)]
    await long_ago(corner, *waiting)
    await walk(worker, await published(corner, worker, 20), State.ACKED)
    assert await corner.client.exists(*(corner.keys.event(saga.id) for saga in waiting)) == 16
    gone = {f"{number:032x}": 100 for number in range(200)}
    await corner.client.zadd(corner.keys.events, gone)
    for number in range(21, 30):
        await walk(worker, await published(corner, worker, number), State.ACKED)
    kept = dict(await order(corner))
    assert {saga.id for saga in waiting} <= set(kept)
    assert len(set(kept) & set(gone)) < len(gone)


async def test_kept_for_ever_before(corner: Corner) -> None:
    """An event that had no span gets what is left of one, counted from its saga's end, or a whole
    one where nobody knows the end any more."""
    ever, worker = corner.worker(), corner.worker("w2", event_retention_seconds=60)
    ended, forgotten = [await published(corner, ever, number) for number in (1, 2)]
    for saga in (ended, forgotten):
        await walk(ever, saga, State.ACKED)
    await long_ago(corner, ended, forgotten)
    half = await corner.now_ms() - 30_000
    await corner.client.zadd(corner.keys.index(State.ACKED), {ended.id: half})
    await corner.client.zrem(corner.keys.index(State.ACKED), forgotten.id)
    await corner.client.delete(corner.keys.saga(forgotten.id))
    await walk(worker, await published(corner, worker, 3), State.ACKED)
    assert 0 < await corner.client.pttl(corner.keys.event(ended.id)) <= 30_000
    assert 30_000 < await corner.client.pttl(corner.keys.event(forgotten.id)) <= 60_000


async def test_done_anew(corner: Corner) -> None:
    """A saga that is done anew keeps its event until it has ended again, and the span after."""
    worker = corner.worker(event_retention_seconds=60)
    saga = await corner.begin_in(worker, State.REGISTERED)
    key = corner.keys.event(saga.id)
    await corner.client.set(key, b"as it was", px=1_000)
    await corner.client.zadd(corner.keys.events, {saga.id: 5})
    saga = await worker.move(saga, State.PUBLISHED, Change(saga=saga, event=EVENT))
    assert await corner.client.pttl(key) == -1
    await walk(worker, saga, State.ACKED)
    assert 59_000 < await corner.client.pttl(key) <= 60_000
    assert await order(corner) == [(saga.id, 5)]


@pytest.mark.parametrize("state", [State.VALIDATED, State.TOKEN_DEPLOYED, State.REGISTERED])
async def test_nothing_kept(corner: Corner, state: State) -> None:
    """Before its publication a saga has no event."""
    await corner.begin_in(corner.worker(event_retention_seconds=60), state)
    assert await order(corner) == []


async def test_duplicate_of(corner: Corner) -> None:
    """A duplicate says whose it is of, in the write that ends it."""
    worker = corner.worker()
    saga = await corner.begin(worker)
    change = change_of(saga, Skip(ErrorClass.DUPLICATE, "why", duplicate_of="a" * 32))
    await worker.move(saga, State.SKIPPED, change)
    stored = await corner.read(saga)
    assert (stored.duplicate_of, stored.conflicts_with) == ("a" * 32, None)


async def test_conflicts_with(corner: Corner) -> None:
    """A conflict says with whom, until the saga is resumed, by hand or by its message."""
    worker = corner.worker()
    saga = await corner.begin(worker)
    action = Fail(ErrorClass.CONFLICT, "why", conflicts_with="a" * 32)
    await worker.move(saga, State.DEAD_LETTERED, change_of(saga, action))
    stored = await corner.read(saga)
    assert (stored.duplicate_of, stored.conflicts_with) == (None, "a" * 32)
    assert await corner.views.resume(stored, State.RECEIVED, actor="operator") == "OK"
    assert (await corner.read(saga)).conflicts_with is None
    (again,) = await worker.take_due(1)
    await worker.move(again, State.DEAD_LETTERED, change_of(again, action))
    assert (await corner.read(saga)).conflicts_with == "a" * 32
    await corner.deliver(saga.message)
    assert (await corner.admit(worker, saga.message)).saga is not None
    assert (await corner.read(saga)).conflicts_with is None
