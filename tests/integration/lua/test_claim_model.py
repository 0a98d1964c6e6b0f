import asyncio

import pytest

from adapters.redis_dlq import RedisDeadLetters
from saga.errors import LeaseLostError
from saga.model import Saga, State
from tests.integration.lua.store import (
    DEPLOYMENT,
    LOSSES,
    Corner,
    Worker,
    advance,
    fail,
    intent,
    message,
    skip,
    walk,
)

MODEL = "model_1"


async def claimed(corner: Corner, worker: Worker, content: str = "c", n: int = 0) -> Saga:
    """The n-th saga of the model, after it asked for the claim."""
    saga = await corner.begin(worker, message(MODEL, n=n))
    return await worker.claim_model(saga, MODEL, content)


async def holder(corner: Corner) -> str | None:
    found = await corner.client.get(corner.keys.claim(MODEL))
    return None if found is None else str(found.decode())


async def test_first(corner: Corner) -> None:
    """The first saga to ask owns the model."""
    worker = corner.worker(lease_seconds=60)
    saga = await claimed(corner, worker, "fingerprint")
    stored = await corner.read(saga)
    assert (worker.outcome, await holder(corner)) == (b"OK", saga.id)
    assert (stored.claim, stored.claim_same, stored.content) == (saga.id, True, "fingerprint")
    assert (stored.claim, stored.claim_same) == (saga.claim, saga.claim_same)
    assert (stored.version, stored.model_id, saga.version) == (2, MODEL, 2)
    assert await corner.views.due_ms(saga.id) == stored.updated_ms + 60_000
    assert [entry.kind for entry in await corner.views.history(saga.id)] == ["admitted"]


async def test_asked_again(corner: Corner) -> None:
    """The owner that asks again still owns the model."""
    worker = corner.worker()
    saga = await claimed(corner, worker)
    again = await worker.claim_model(saga, MODEL, "c")
    assert (again.claim, again.claim_same, again.version) == (saga.id, True, 3)


@pytest.mark.parametrize(("content", "same"), [("c", True), ("d", False)])
async def test_second(corner: Corner, content: str, same: bool) -> None:
    """A later saga is told who owns the model, and whether it deploys the same content."""
    worker = corner.worker()
    first = await claimed(corner, worker)
    second = await claimed(corner, worker, content, n=1)
    stored = await corner.read(second)
    assert (stored.claim, stored.claim_same, stored.content) == (first.id, same, content)
    assert (second.claim, second.claim_same) == (first.id, same)
    assert await holder(corner) == first.id
    assert (await corner.views.history(second.id))[-1].note == "another saga owns the model"


@pytest.mark.parametrize("same", ["c", "d"])
async def test_retried(corner: Corner, same: str) -> None:
    """A claim whose reply was lost gives the same answer again, and changes nothing."""
    worker = corner.worker()
    first = await claimed(corner, worker)
    await claimed(corner, worker, same, n=1)
    before = await corner.contents()
    flag = b"1" if same == "c" else b""
    assert worker.scripts.answer == [b"OK", first.id.encode(), flag]
    assert await worker.scripts.again() == [b"DUPLICATE", first.id.encode(), flag]
    assert await corner.contents() == before


async def test_other_models(corner: Corner) -> None:
    """Models do not share a claim."""
    worker = corner.worker()
    await claimed(corner, worker)
    saga = await corner.begin(worker, message("model_2"))
    assert (await worker.claim_model(saga, "model_2", "c")).claim == saga.id


@pytest.mark.parametrize("end", [fail, skip], ids=["failed", "skipped"])
@pytest.mark.parametrize("state", [State.RECEIVED, State.VALIDATED])
async def test_passes_on(corner: Corner, end: object, state: State) -> None:
    """A claim passes on from a saga that ended without any intent."""
    worker = corner.worker()
    first = await walk(worker, await claimed(corner, worker), state)
    await end(worker, first)  # type: ignore[operator]
    second = await claimed(corner, worker, "d", n=1)
    assert (second.claim, second.claim_same) == (second.id, True)
    assert await holder(corner) == second.id


async def test_passes_on_from_the_gone(corner: Corner) -> None:
    """A claim passes on from a saga that is no longer stored."""
    worker = corner.worker()
    first = await claimed(corner, worker)
    await corner.client.delete(corner.keys.saga(first.id))
    second = await claimed(corner, worker, "d", n=1)
    assert await holder(corner) == second.id


@pytest.mark.parametrize("state", [state for state in State if state is not State.RECEIVED])
async def test_kept(corner: Corner, state: State) -> None:
    """A claim stays with an active saga, and with one that may have sent something."""
    worker = corner.worker()
    first = await walk(worker, await claimed(corner, worker), State.VALIDATED)
    if state in (State.DEAD_LETTERED, State.SKIPPED):
        given = (await worker.propose(first, intent(0), spent=0, known=0)).saga
        assert given is not None
        await (fail if state is State.DEAD_LETTERED else skip)(worker, given)
    else:
        await walk(worker, first, state)
    second = await claimed(corner, worker, "d", n=1)
    assert (second.claim, second.claim_same) == (first.id, False)
    assert await holder(corner) == first.id


async def test_kept_after_adoption(corner: Corner) -> None:
    """A claim stays with a failed saga that has found a token."""
    worker = corner.worker()
    first = await walk(worker, await claimed(corner, worker), State.VALIDATED)
    first = await advance(worker, first, State.TOKEN_DEPLOYED, deployment=DEPLOYMENT)
    await fail(worker, first)
    assert (await claimed(corner, worker, n=1)).claim == first.id


async def test_passes_on_from_discarded(corner: Corner) -> None:
    """Law 1 is the chain's fence: a discarded saga keeps no model, not even with an intent."""
    worker = corner.worker()
    first = await walk(worker, await claimed(corner, worker), State.VALIDATED)
    given = (await worker.propose(first, intent(0), spent=0, known=0)).saga
    assert given is not None
    await fail(worker, given)
    dead = await corner.read(first)
    letters = RedisDeadLetters(corner.client, corner.keys)
    (entry,) = [entry async for entry in letters.entries()]
    assert await letters.discard(dead, entry.letter, reason="wrong", actor="op") == "OK"
    saga = await corner.begin(worker, message(MODEL, n=1))
    told = await corner.views.claimed(saga, MODEL, "d")
    second = await worker.claim_model(saga, MODEL, "d")
    assert (told.claim, told.claim_same) == (second.claim, second.claim_same) == (saga.id, True)
    assert await holder(corner) == second.id


async def test_one_of_many(corner: Corner) -> None:
    """Of many that ask at once, one owns the model, and all are told the same."""
    workers = [corner.worker(f"w{n}") for n in range(3)]
    sagas = await asyncio.gather(
        *(claimed(corner, workers[n % 3], "c" if n % 2 else "d", n=n) for n in range(30))
    )
    (owner,) = {saga.claim for saga in sagas}
    assert owner == await holder(corner)
    assert [saga.id for saga in sagas if saga.claim == saga.id] == [owner]
    content = next(saga for saga in [await corner.read(one) for one in sagas] if saga.id == owner)
    for saga in sagas:
        stored = await corner.read(saga)
        assert stored.claim_same == (stored.content == content.content)


@pytest.mark.parametrize("loss", LOSSES)
async def test_refused(corner: Corner, loss: str) -> None:
    """Who lost the lease claims nothing."""
    lose, word = LOSSES[loss]
    worker = corner.worker()
    saga = await corner.begin(worker)
    await lose(corner, saga)
    before = await corner.contents()
    with pytest.raises(LeaseLostError, match=word.decode()):
        await worker.claim_model(saga, MODEL, "c")
    assert worker.scripts.answer == [word]
    assert await corner.contents() == before


async def test_asked_without_claiming(corner: Corner) -> None:
    """A dry run foretells what the claim then answers."""
    worker = corner.worker()
    first = await claimed(corner, worker)
    for content, end in (("c", None), ("d", None), ("d", fail)):
        if end is not None:
            await end(worker, first)
        saga = await corner.begin(worker, message(MODEL, n=content, end=str(end)))
        told = await corner.views.claimed(saga, MODEL, content)
        found = await worker.claim_model(saga, MODEL, content)
        assert (told.claim, told.claim_same) == (found.claim, found.claim_same)
