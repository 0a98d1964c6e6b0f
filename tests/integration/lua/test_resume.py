import msgspec
import pytest

from saga.errors import LeaseLostError
from saga.model import ErrorClass, Saga, State
from tests.integration.lua.store import (
    EVENT,
    PATH,
    Corner,
    Recorder,
    advance,
    fail,
    intent,
    message,
    walk,
)

ACTIVE = PATH[:-1]


async def dead(corner: Corner, failed_in: State = State.VALIDATED) -> Saga:
    worker = corner.worker()
    await fail(worker, await corner.begin_in(worker, failed_in))
    (saga,) = [saga async for saga in corner.views.sagas([State.DEAD_LETTERED])]
    return saga


@pytest.mark.parametrize("failed_in", ACTIVE)
async def test_dead_letter(corner: Corner, failed_in: State) -> None:
    """A dead-lettered saga goes back to the state it failed in, with its message, in one write."""
    saga = await dead(corner, failed_in)
    await corner.deliver(message("other"))
    assert await corner.views.resume(saga, failed_in, actor="operator") == "OK"
    stored = await corner.read(saga)
    assert (stored.state, stored.version) == (failed_in, saga.version + 1)
    assert (stored.lease.owner, stored.lease.fence) == ("", saga.lease.fence + 1)
    assert (stored.attempts, stored.takeovers, stored.crashes) == (0, 0, 0)
    assert (stored.error, stored.error_class) == (None, None)
    assert (stored.failed_in, stored.failed_at) == (None, None)
    assert await corner.indexes(saga) == [failed_in]
    assert await corner.views.due_ms(saga.id) == stored.updated_ms
    assert await corner.listed(corner.keys.processing) == [saga.message, message("other")]
    assert await corner.listed(corner.keys.dead_letters) == []
    entry = (await corner.views.history(saga.id))[-1]
    assert (entry.kind, entry.worker) == ("resumed", "operator")
    assert (entry.was, entry.state) == (State.DEAD_LETTERED, failed_in)


@pytest.mark.parametrize("failed_in", ACTIVE)
async def test_to_the_end(corner: Corner, failed_in: State) -> None:
    """A resumed saga is taken at once and ends as if it had never failed: one event, no message."""
    saga = await dead(corner, failed_in)
    await corner.views.resume(saga, failed_in, actor="operator")
    worker = corner.worker("w2")
    (taken,) = await worker.take_due(1)
    assert (taken.takeovers, taken.resumed) == (0, True)
    await walk(worker, taken, State.ACKED)
    assert await corner.listed(corner.keys.outbound) == [EVENT]
    assert await corner.listed(corner.keys.processing) == []


async def test_message_already_there(corner: Corner) -> None:
    """A message that is in the processing list already is not put there twice."""
    saga = await dead(corner)
    await corner.deliver(saga.message)
    await corner.views.resume(saga, State.VALIDATED, actor="operator")
    assert await corner.listed(corner.keys.processing) == [saga.message]


async def test_message_far_in(corner: Corner) -> None:
    """Resuming looks for a copy only where it would be new: one further in is a duplicate later."""
    worker = corner.worker()
    saga = await dead(corner)
    others = [message(f"other-{n}") for n in range(500)]
    await corner.deliver(saga.message, *others)
    await corner.views.resume(saga, State.VALIDATED, actor="operator")
    assert (await corner.listed(corner.keys.processing)).count(saga.message) == 2
    assert (await corner.admit(worker, saga.message)).duplicate
    assert (await corner.listed(corner.keys.processing)).count(saga.message) == 1


async def test_given_letter(corner: Corner) -> None:
    """A letter whose bytes are known is removed as it is, whatever release wrote it."""
    saga = await dead(corner)
    await corner.client.delete(corner.keys.dead_letters)
    await corner.client.lpush(corner.keys.dead_letters, b"older", b"other")
    await corner.views.resume(saga, State.VALIDATED, actor="operator", letter=b"older")
    assert await corner.listed(corner.keys.dead_letters) == [b"other"]


async def test_own_letter(corner: Corner) -> None:
    """A resume removes the saga's own dead letter, and nobody else's."""
    worker = corner.worker()
    for n, raw in enumerate([message("a"), message("b"), b"\xff"]):
        saga = await corner.begin(worker, raw)
        await fail(worker, saga, error=f"№ {n}", why=ErrorClass.INVALID)
    first, second, third = await corner.listed(corner.keys.dead_letters)
    by_letter = {
        corner.views.letter_of(saga): saga
        async for saga in corner.views.sagas([State.DEAD_LETTERED])
    }
    assert set(by_letter) == {first, second, third}
    await corner.views.resume(by_letter[second], State.RECEIVED, actor="operator")
    assert await corner.listed(corner.keys.dead_letters) == [first, third]


async def test_letter_discarded(corner: Corner) -> None:
    """A saga whose dead letter was discarded can be resumed nonetheless."""
    saga = await dead(corner)
    await corner.client.delete(corner.keys.dead_letters)
    assert await corner.views.resume(saga, State.VALIDATED, actor="operator") == "OK"


async def test_claim_asked_anew(corner: Corner) -> None:
    """A saga resumed to RECEIVED asks for its model again; further on it keeps its answer."""
    worker = corner.worker()
    first = await worker.claim_model(await corner.begin(worker, message("a")), "a", "c")
    await fail(worker, first)
    await corner.views.resume(await corner.read(first), State.RECEIVED, actor="operator")
    assert (await corner.read(first)).claim is None
    second = await worker.claim_model(await corner.begin(worker, message("b")), "b", "c")
    await fail(worker, await advance(worker, second, State.VALIDATED, model_id="b"))
    await corner.views.resume(await corner.read(second), State.VALIDATED, actor="operator")
    assert (await corner.read(second)).claim == second.id


async def test_intent_kept(corner: Corner) -> None:
    """A resumed saga keeps its signed bytes: they are sent again, never signed again."""
    worker = corner.worker()
    saga = await corner.begin_in(worker, State.VALIDATED)
    given = (await worker.propose(saga, intent(4), spent=0, known=4)).saga
    assert given is not None
    await fail(worker, given)
    await corner.views.resume(await corner.read(saga), State.VALIDATED, actor="operator")
    assert (await corner.read(saga)).deploy == intent(4)


async def test_waiting(corner: Corner) -> None:
    """A waiting saga goes on at once, with its tries forgotten and its message untouched."""
    worker = corner.worker()
    saga = await corner.begin_in(worker, State.VALIDATED)
    await worker.postpone(saga, seconds=900, attempts=3, error="node away")
    waiting = await corner.read(saga)
    assert await corner.views.resume(waiting, State.VALIDATED, actor="operator") == "OK"
    stored = await corner.read(saga)
    assert (stored.attempts, stored.error, stored.version) == (0, None, waiting.version + 1)
    assert await corner.indexes(saga) == [State.VALIDATED]
    assert await corner.listed(corner.keys.processing) == [saga.message]
    (taken,) = await corner.worker("w2").take_due(1)
    assert taken.id == saga.id


async def test_leased(corner: Corner) -> None:
    """A saga that a worker is on is left alone."""
    saga = await corner.begin(corner.worker())
    before = await corner.contents()
    assert await corner.views.resume(saga, State.RECEIVED, actor="operator") == "LEASED"
    assert await corner.contents() == before


async def test_lapsed(corner: Corner) -> None:
    """A saga whose worker is gone can be resumed; the worker that comes back is fenced."""
    worker = corner.worker()
    saga = await corner.begin(worker)
    await corner.lapse(saga)
    assert await corner.views.resume(saga, State.RECEIVED, actor="operator") == "OK"
    before = await corner.contents()
    with pytest.raises(LeaseLostError, match="FENCED"):
        await advance(worker, saga, State.VALIDATED)
    assert await corner.contents() == before


async def test_conflict(corner: Corner) -> None:
    """A saga that moved since it was read is left alone: two operators resume it once."""
    saga = await dead(corner)
    assert await corner.views.resume(saga, State.VALIDATED, actor="one") == "OK"
    before = await corner.contents()
    assert await corner.views.resume(saga, State.VALIDATED, actor="two") == "CONFLICT"
    assert await corner.contents() == before


async def test_version_conflict(corner: Corner) -> None:
    """A saga that was written since it was read is left alone, also in the same state."""
    worker = corner.worker()
    saga = await corner.begin(worker)
    await worker.postpone(saga, seconds=0, attempts=1, error="later")
    seen = await corner.read(saga)
    (saga,) = await worker.take_due(1)
    await worker.postpone(saga, seconds=900, attempts=2, error="later still")
    before = await corner.contents()
    assert await corner.views.resume(seen, State.RECEIVED, actor="operator") == "CONFLICT"
    assert await corner.contents() == before


async def test_write_from_before(corner: Corner) -> None:
    """A write from before the resume that is sent again is refused, and changes nothing."""
    worker = corner.worker()
    saga = await corner.begin(worker)
    await worker.postpone(saga, seconds=900, attempts=1, error="later")
    await corner.views.resume(await corner.read(saga), State.RECEIVED, actor="operator")
    before = await corner.contents()
    assert await worker.scripts.again() == b"FENCED"
    assert await corner.contents() == before


async def test_state_conflict(corner: Corner) -> None:
    """A saga that is in another state than was read is left alone."""
    saga = await dead(corner)
    before = await corner.contents()
    seen = msgspec.structs.replace(saga, state=State.RECEIVED)
    assert await corner.views.resume(seen, State.RECEIVED, actor="operator") == "CONFLICT"
    assert await corner.contents() == before


@pytest.mark.parametrize("end", [State.ACKED, State.SKIPPED])
@pytest.mark.parametrize("to", [State.RECEIVED, State.PUBLISHED, "itself"])
async def test_finished(corner: Corner, end: State, to: State | str) -> None:
    """A finished saga never becomes active again, whoever asks."""
    saga = await corner.read(await corner.begin_in(corner.worker(), end))
    before = await corner.contents()
    wanted = end if to == "itself" else State(to)
    assert await corner.views.resume(saga, wanted, actor="operator") == "CONFLICT"
    assert await corner.contents() == before


async def test_no_jump(corner: Corner) -> None:
    """A waiting saga resumes in the state that it is in, and in no other."""
    worker = corner.worker()
    saga = await corner.begin(worker)
    await worker.postpone(saga, seconds=900, attempts=1, error="later")
    waiting = await corner.read(saga)
    before = await corner.contents()
    assert await corner.views.resume(waiting, State.PUBLISHED, actor="operator") == "CONFLICT"
    assert await corner.contents() == before


async def test_retried(corner: Corner) -> None:
    """A resume whose reply was lost answers OK again, wherever a worker has brought the saga."""
    scripts = Recorder(corner.client)
    corner.views._scripts = scripts
    saga = await dead(corner)
    assert await corner.views.resume(saga, State.VALIDATED, actor="operator") == "OK"
    before = await corner.contents()
    assert await scripts.again() == b"OK"
    assert await corner.contents() == before
    (taken,) = await corner.worker().take_due(1)
    await walk(corner.worker(), taken, State.ACKED)
    before = await corner.contents()
    assert await scripts.again() == b"OK"
    assert await corner.contents() == before


async def test_gone(corner: Corner) -> None:
    """A saga that is not stored is not resumed."""
    saga = await dead(corner)
    await corner.client.flushall()
    assert await corner.views.resume(saga, State.VALIDATED, actor="operator") == "GONE"
    assert await corner.contents() == {}
