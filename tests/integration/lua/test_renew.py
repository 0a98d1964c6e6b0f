import pytest

from saga.model import Saga, State
from tests.integration.lua.store import (
    LOSSES,
    Corner,
    Worker,
    fail,
    message,
    nobody,
    skip,
    walk,
)


async def test_prolonged(corner: Corner) -> None:
    """A renewed lease runs from now on; nothing else of the saga changes."""
    worker = corner.worker(lease_seconds=60)
    sagas = [await corner.begin(worker, message(n=n)) for n in range(3)]
    for saga in sagas:
        await corner.lapse(saga)
    before = await corner.now_ms()
    assert await worker.renew(sagas) == set()
    after = await corner.now_ms()
    for saga in sagas:
        due = await corner.views.due_ms(saga.id)
        assert due is not None
        assert before + 60_000 <= due <= after + 60_000
        assert await corner.read(saga) == saga
    assert await corner.worker("w2").take_due(10) == []


@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss != "another version"])
@pytest.mark.parametrize("call", ["renew", "release"])
async def test_lost(corner: Corner, loss: str, call: str) -> None:
    """A lease that is lost is reported, and its saga not touched; one that nobody has is told by
    the answer to the write that gave it up."""
    worker = corner.worker()
    saga = await corner.begin(worker)
    await LOSSES[loss][0](corner, saga)
    before = await corner.contents()
    answer = await getattr(worker, call)([saga])
    lost = set() if loss == "given up" else {saga.id}
    assert worker.scripts.answer == [each.encode() for each in lost]
    assert answer == (lost if call == "renew" else None)
    assert await corner.contents() == before


async def test_some_lost(corner: Corner) -> None:
    """Of many leases those that are lost are reported, and the others prolonged."""
    worker = corner.worker(lease_seconds=60)
    sagas = [await corner.begin(worker, message(n=n)) for n in range(4)]
    for saga in sagas:
        await corner.lapse(saga)
    taken = await corner.worker("w2", lease_seconds=90).take_due(2)
    held = {saga.id: await corner.views.due_ms(saga.id) for saga in taken}
    assert await worker.renew(sagas) == set(held)
    for saga in sagas:
        if saga.id in held:
            assert await corner.views.due_ms(saga.id) == held[saga.id]
        else:
            assert await corner.views.due_ms(saga.id) != 0


async def test_versions_do_not_matter(corner: Corner) -> None:
    """A heartbeat renews by lease alone: the saga may have been written meanwhile."""
    worker = corner.worker()
    saga = await corner.begin(worker)
    await walk(worker, saga, State.REGISTERED)
    assert await worker.renew([saga]) == set()


async def test_released(corner: Corner) -> None:
    """A lease that is given up lets another take the saga at once; the old holder is fenced."""
    worker = corner.worker()
    saga = await corner.begin(worker)
    await worker.release([saga])
    assert (await corner.read(saga)).lease.owner == ""
    (taken,) = await corner.worker("w2").take_due(1)
    assert taken.id == saga.id
    assert await worker.renew([saga]) == {saga.id}


@pytest.mark.parametrize("end", [State.ACKED, State.SKIPPED, State.DEAD_LETTERED])
async def test_ended(corner: Corner, end: State) -> None:
    """A renewal does not make an ended saga active again."""
    worker = corner.worker()
    saga = await corner.begin(worker)
    ends = {State.ACKED: walk_to_end, State.SKIPPED: skip, State.DEAD_LETTERED: fail}
    ended = await ends[end](worker, saga)
    before = await corner.contents()
    for seen, lost in ((saga, set()), (ended, {saga.id})):
        assert await worker.renew([seen]) == lost
        await worker.release([seen])
    assert await corner.contents() == before


async def walk_to_end(worker: Worker, saga: Saga) -> Saga:
    return await walk(worker, saga, State.ACKED)


async def test_free(corner: Corner) -> None:
    """A saga that nobody holds is not renewed by somebody without a lease."""
    worker = corner.worker()
    saga = await corner.begin(worker)
    await worker.postpone(saga, seconds=900, attempts=1, error="later")
    before = await corner.contents()
    assert await worker.renew([await corner.read(saga)]) == {saga.id}
    assert await corner.contents() == before


async def test_not_due(corner: Corner) -> None:
    """A renewal never brings a saga into `due`."""
    worker = corner.worker()
    saga = await corner.begin(worker)
    await corner.client.zrem(corner.keys.due, saga.id)
    await worker.renew([saga])
    assert await corner.views.due_ms(saga.id) is None


async def test_nobody(corner: Corner) -> None:
    """Without sagas nothing is asked; a stranger's renewal changes nothing."""
    worker = corner.worker()
    assert await worker.renew([]) == set()
    assert worker.scripts.last[0] == ""
    saga = await corner.begin(worker)
    before = await corner.contents()
    assert await worker.renew([nobody(saga)]) == {saga.id}
    assert await corner.contents() == before
