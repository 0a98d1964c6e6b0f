import asyncio

import pytest

from saga.model import State
from tests.integration.lua.store import Corner, advance, message, walk


async def test_leased_away(corner: Corner) -> None:
    """A saga whose lease runs is nobody else's."""
    await corner.begin(corner.worker())
    before = await corner.contents()
    assert await corner.worker("w2").take_due(10) == []
    assert await corner.contents() == before


async def test_taken_over(corner: Corner) -> None:
    """A saga whose lease ran out is leased anew, with a higher fence, in the state it was in."""
    saga = await corner.begin_in(corner.worker(), State.REGISTERED)
    await corner.lapse(saga)
    other = corner.worker("w2", lease_seconds=60)
    before = await corner.now_ms()
    (taken,) = await other.take_due(10)
    after = await corner.now_ms()
    assert (taken.lease.owner, taken.lease.fence) == ("w2.1", saga.lease.fence + 1)
    assert (taken.state, taken.version, taken.takeovers) == (State.REGISTERED, saga.version, 1)
    assert taken.resumed
    due = await corner.views.due_ms(saga.id)
    assert due is not None
    assert before + 60_000 <= due <= after + 60_000
    entry = (await corner.views.history(saga.id))[-1]
    assert (entry.kind, entry.worker, entry.state) == ("taken", "w2", State.REGISTERED)
    assert (entry.note, entry.lost) == ("the lease of its worker ran out", saga.lease.owner)
    assert await other.lost_leases(saga) == [saga.lease.owner]
    assert await corner.indexes(saga) == [State.REGISTERED]
    assert await walk(other, taken, State.ACKED)


async def test_real_lease(corner: Corner) -> None:
    """A lease runs out by the server's clock."""
    saga = await corner.begin(corner.worker(lease_seconds=0.02))
    other = corner.worker("w2")
    async with asyncio.timeout(10):
        while not (taken := await other.take_due(1)):
            pass
    due = await corner.views.due_ms(saga.id)
    assert [one.id for one in taken] == [saga.id]
    assert due is not None
    assert due >= saga.updated_ms + 20


@pytest.mark.parametrize("given_up", ["postponed", "released"])
async def test_given_up(corner: Corner, given_up: str) -> None:
    """A saga that was given up on purpose counts as no takeover, and leaves no line for one."""
    worker = corner.worker()
    saga = await corner.begin(worker)
    if given_up == "postponed":
        await worker.postpone(saga, seconds=0, attempts=1, error="later")
    else:
        await worker.release([saga])
    before = await corner.views.history(saga.id)
    (taken,) = await corner.worker("w2").take_due(1)
    assert (taken.takeovers, taken.crashes) == (0, 0)
    assert taken.lease.fence == saga.lease.fence + 1
    assert await corner.views.history(saga.id) == before


async def test_each_takeover_counts(corner: Corner) -> None:
    """Every crash under a saga counts, and so does the fence."""
    saga = await corner.begin(corner.worker())
    for count in (1, 2, 3):
        await corner.lapse(saga)
        (taken,) = await corner.worker(f"x{count}").take_due(1)
        assert (taken.takeovers, taken.crashes) == (count, count)
        assert taken.lease.fence == count + 1


@pytest.mark.parametrize("to", [State.VALIDATED, State.DEAD_LETTERED, State.SKIPPED])
async def test_crashes_of_a_state(corner: Corner, to: State) -> None:
    """Crashes are counted anew in each state; takeovers are not."""
    worker = corner.worker()
    await corner.lapse(await corner.begin(worker))
    (taken,) = await worker.take_due(1)
    moved = await advance(worker, taken, to)
    stored = await corner.read(taken)
    assert (moved.takeovers, moved.crashes) == (stored.takeovers, stored.crashes) == (1, 0)


async def test_writes_within_a_state_keep_crashes(corner: Corner) -> None:
    """What a worker does without moving the saga says nothing of what it dies of next."""
    worker = corner.worker("w2")
    await corner.lapse(await corner.begin(corner.worker()))
    (taken,) = await worker.take_due(1)
    await worker.postpone(taken, seconds=0, attempts=1, error="later")
    assert (await corner.read(taken)).crashes == 1


async def test_crashes_of_a_hash_without(corner: Corner) -> None:
    """A hash of an earlier release, which has no such field, counts from nothing."""
    saga = await corner.begin(corner.worker())
    await corner.client.hset(corner.keys.saga(saga.id), "takeovers", 9)
    assert (await corner.read(saga)).crashes == 0
    await corner.lapse(saga)
    (taken,) = await corner.worker("w2").take_due(1)
    assert (taken.takeovers, taken.crashes) == (10, 1)


async def test_limit(corner: Corner) -> None:
    """No more are taken than asked for, those that wait longest first."""
    worker = corner.worker()
    sagas = [await corner.begin(worker, message(n=n)) for n in range(5)]
    for score, saga in enumerate(sagas):
        await corner.client.zadd(corner.keys.due, {saga.id: 100 - score})
    other = corner.worker("w2")
    taken = [await other.take_due(2) for _ in range(4)]
    ids = [saga.id for saga in reversed(sagas)]
    assert [[saga.id for saga in some] for some in taken] == [ids[:2], ids[2:4], ids[4:], []]


async def test_once(corner: Corner) -> None:
    """Of many that look at once, one gets each saga."""
    worker = corner.worker()
    sagas = [await corner.begin(worker, message(n=n)) for n in range(20)]
    for saga in sagas:
        await corner.lapse(saga)
    others = [corner.worker(f"other{n}") for n in range(8)]
    taken = await asyncio.gather(*(other.take_due(6) for other in others))
    ids = [saga.id for some in taken for saga in some]
    assert sorted(ids) == sorted(saga.id for saga in sagas)


async def test_gone(corner: Corner) -> None:
    """A saga whose hash is gone leaves `due`; nothing else does."""
    worker = corner.worker()
    gone, there = [await corner.begin(worker, message(n=n)) for n in range(2)]
    await corner.client.delete(corner.keys.saga(gone.id))
    for saga in (gone, there):
        await corner.lapse(saga)
    taken = await corner.worker("w2").take_due(10)
    assert [saga.id for saga in taken] == [there.id]
    assert await corner.client.zrange(corner.keys.due, 0, -1) == [there.id.encode()]
    assert not await corner.client.exists(corner.keys.saga(gone.id))


async def test_nothing_due(corner: Corner) -> None:
    """Where nothing is due nothing is taken."""
    assert await corner.worker().take_due(10) == []
    assert await corner.contents() == {}


async def test_flushed(corner: Corner) -> None:
    """After FLUSHALL nothing is due, and the journal's scripts still run."""
    worker = corner.worker()
    await corner.begin(worker)
    await corner.client.flushall()
    await corner.client.script_flush()
    assert await worker.take_due(10) == []
    assert (await corner.begin(worker)).version == 1


async def test_own_lease(corner: Corner) -> None:
    """A worker that takes its own saga anew, since the store was away for longer than its lease,
    has not died of it."""
    worker = corner.worker()
    saga = await corner.begin(worker)
    await corner.lapse(saga)
    (taken,) = await worker.take_due(1)
    assert (taken.takeovers, taken.crashes) == (1, 0)
    await corner.lapse(taken)
    (taken,) = await corner.worker("w").take_due(1)
    assert (taken.takeovers, taken.crashes) == (2, 1), "w is no beginning of w1's leases"
