import asyncio

import pytest

from saga.messages import Identity, identify
from saga.model import State
from saga.ports import Admission
from tests.integration.lua.store import Corner, advance, envelope, fail, intent, message, walk


async def test_admitted(corner: Corner) -> None:
    """A new message becomes a leased saga in RECEIVED, and stays in the processing list."""
    worker = corner.worker(lease_seconds=60)
    raw = message("model_7")
    before = await corner.now_ms()
    saga = await corner.begin(worker, raw)
    after = await corner.now_ms()

    assert worker.outcome == b"ADMITTED"
    assert await corner.read(saga) == saga
    assert (saga.id, saga.state, saga.version) == (identify(raw).saga_id, State.RECEIVED, 1)
    assert (saga.lease.owner, saga.lease.fence) == ("w1.1", 1)
    assert (saga.message, saga.model_id, saga.resumed) == (raw, "model_7", False)
    assert before <= saga.created_ms == saga.updated_ms <= after
    assert await corner.indexes(saga) == [State.RECEIVED]
    assert await corner.views.due_ms(saga.id) == saga.created_ms + 60_000
    assert await corner.listed(corner.keys.processing) == [raw]
    (entry,) = await corner.views.history(saga.id)
    assert (entry.kind, entry.worker, entry.at_ms) == ("admitted", "w1", saga.created_ms)
    assert [one.id for one in await corner.views.siblings("model_7")] == [saga.id]


async def test_optional_fields(corner: Corner) -> None:
    """What the message says of itself is stored as it is; what it does not say is no field."""
    raw = message()
    known = Identity("saga-1", "msg-1", "m", "00-" + "1" * 32 + "-" + "2" * 16 + "-01")
    await corner.deliver(raw, raw)
    told = (await corner.worker().admit(raw, known)).saga
    silent = (await corner.worker().admit(raw, Identity("saga-2"))).saga
    assert told is not None
    assert silent is not None
    assert (told.message_id, told.model_id, told.traceparent) == known_fields(known)
    assert (silent.message_id, silent.model_id, silent.traceparent) == (None, None, None)
    assert not await corner.client.exists(corner.keys.sagas_of(""))


def known_fields(identity: Identity) -> tuple[str | None, str | None, str | None]:
    return identity.message_id, identity.model_id, identity.traceparent


@pytest.mark.parametrize(
    "raw",
    [b"", b"\x00\xff\xfe\r\n", b"{not json", b'{"model_id": "\\ud800"}', "模型 🎨".encode()],
    ids=["empty", "binary", "text", "surrogate", "unicode"],
)
async def test_any_bytes(corner: Corner, raw: bytes) -> None:
    """Any bytes at all can be admitted, and come back as they were."""
    saga = await corner.begin(corner.worker(), raw)
    assert (await corner.read(saga)).message == raw


async def test_siblings_bounded(corner: Corner) -> None:
    """A model remembers its last hundred sagas, the newest included."""
    key = corner.keys.sagas_of("model_1")
    await corner.client.zadd(key, {f"old-{n:03}": n for n in range(100)})
    saga = await corner.begin(corner.worker())
    members = await corner.client.zrange(key, 0, -1)
    assert (len(members), members[0], members[-1]) == (100, b"old-001", saga.id.encode())


async def test_stolen(corner: Corner) -> None:
    """A message that left the processing list meanwhile makes no saga."""
    worker = corner.worker()
    assert await corner.admit(worker, message()) == Admission(None, duplicate=False)
    assert worker.outcome == b"STOLEN"
    assert await corner.contents() == {}


async def test_retried(corner: Corner) -> None:
    """An admission whose reply was lost gives the same saga again, and changes nothing."""
    worker = corner.worker()
    await corner.begin(worker)
    before = await corner.contents()
    assert await worker.scripts.again() == worker.scripts.answer
    assert await corner.contents() == before


async def test_one_of_many(corner: Corner) -> None:
    """Of many who admit one message at once, one gets the saga; the others leave it alone."""
    raw = message()
    await corner.deliver(raw)
    workers = [corner.worker(f"w{n}") for n in range(20)]
    answers = await asyncio.gather(*(corner.admit(worker, raw) for worker in workers))
    assert len([answer for answer in answers if answer.saga is not None]) == 1
    assert not any(answer.duplicate for answer in answers)
    assert await corner.listed(corner.keys.processing) == [raw]


@pytest.mark.parametrize("state", [State.RECEIVED, State.VALIDATED, State.PUBLISHED])
async def test_held(corner: Corner, state: State) -> None:
    """The one copy of an active saga's message stays where it is."""
    saga = await corner.begin_in(corner.worker(), state)
    before = await corner.contents()
    other = corner.worker("w2")
    assert await corner.admit(other, saga.message) == Admission(None, duplicate=False)
    assert other.outcome == b"HELD"
    assert await corner.contents() == before


@pytest.mark.parametrize("state", [State.RECEIVED, State.VALIDATED, State.PUBLISHED])
async def test_second_copy(corner: Corner, state: State) -> None:
    """A second identical copy of an active saga's message goes, the first stays."""
    saga = await corner.begin_in(corner.worker(), state)
    before = await corner.contents()
    await corner.deliver(saga.message)
    other = corner.worker("w2")
    assert await corner.admit(other, saga.message) == Admission(None, duplicate=True)
    assert other.outcome == b"DUPLICATE"
    assert await corner.contents() == before
    assert await other.scripts.again() == [b"HELD", state.value.encode()]
    assert await corner.contents() == before


async def test_second_in_other_bytes(corner: Corner) -> None:
    """A copy in other bytes (another retry count) goes, the saga's own stays."""
    first, second = envelope("id-1", 0), envelope("id-1", 1)
    saga = await corner.begin(corner.worker(), first)
    await corner.deliver(second)
    other = corner.worker("w2")
    assert await corner.admit(other, second) == Admission(None, duplicate=True)
    assert await corner.listed(corner.keys.processing) == [first]
    assert await other.scripts.again() == [b"HELD", b"RECEIVED"]
    assert await corner.read(saga) == saga


@pytest.mark.parametrize("state", [State.ACKED, State.SKIPPED])
async def test_after_the_end(corner: Corner, state: State) -> None:
    """A message of a finished saga is acknowledged, one copy at a time, and begins nothing."""
    saga = await corner.begin_in(corner.worker(), state)
    before = await corner.contents()
    await corner.deliver(saga.message, saga.message)
    other = corner.worker("w2")
    assert await corner.admit(other, saga.message) == Admission(None, duplicate=True)
    assert other.scripts.answer == [b"DUPLICATE", state.value.encode()]
    assert await corner.listed(corner.keys.processing) == [saga.message]
    await corner.admit(other, saga.message)
    assert await corner.contents() == before


@pytest.mark.parametrize("failed_in", [State.RECEIVED, State.VALIDATED, State.REGISTERED])
async def test_reopened(corner: Corner, failed_in: State) -> None:
    """A dead-lettered saga whose message comes again goes on in the state it failed in."""
    worker = corner.worker(lease_seconds=60)
    saga = await corner.begin_in(worker, failed_in)
    dead = await fail(worker, saga)
    await corner.client.hset(
        corner.keys.saga(saga.id), mapping={"claim": "x", "takeovers": 2, "crashes": 2}
    )
    await corner.deliver(saga.message)
    other = corner.worker("w2", lease_seconds=60)
    reopened = (await corner.admit(other, saga.message)).saga

    assert other.outcome == b"REOPENED"
    assert reopened is not None
    assert (reopened.state, reopened.version) == (failed_in, dead.version + 1)
    assert (reopened.lease.owner, reopened.lease.fence) == ("w2.1", dead.lease.fence + 1)
    assert (reopened.attempts, reopened.takeovers, reopened.crashes) == (0, 0, 0)
    assert reopened.resumed
    assert (reopened.error, reopened.error_class, reopened.claim) == (None, None, None)
    assert (reopened.failed_in, reopened.failed_at) == (None, None)
    assert await corner.indexes(saga) == [failed_in]
    assert await corner.views.due_ms(saga.id) == reopened.updated_ms + 60_000
    assert await corner.listed(corner.keys.processing) == [saga.message]
    entry = (await corner.views.history(saga.id))[-1]
    assert (entry.kind, entry.worker) == ("resumed", "w2")
    assert (entry.was, entry.state) == (State.DEAD_LETTERED, failed_in)
    assert await walk(other, reopened, State.ACKED)


@pytest.mark.parametrize("raw", [message(), b"\xff"])
async def test_reopened_letter(corner: Corner, raw: bytes) -> None:
    """Law 2: the write that reopens a dead-lettered saga takes its letter, and no other, out."""
    worker = corner.worker()
    await fail(worker, await corner.begin(worker, message("other")))
    others = await corner.listed(corner.keys.dead_letters)
    await fail(worker, await corner.begin(worker, raw))
    await corner.begin(worker, raw)
    assert worker.outcome == b"REOPENED"
    assert await corner.listed(corner.keys.dead_letters) == others
    before = await corner.contents()
    assert (await worker.scripts.again())[0] == b"REOPENED"  # type: ignore[index]
    assert await corner.contents() == before


async def test_reopened_letter_of_before(corner: Corner) -> None:
    """A letter that was made of an older version opens nothing: the hash is given anew."""
    worker = corner.worker()
    await fail(worker, await corner.begin(worker))
    await corner.deliver(message())
    reopened = (await corner.admit(worker, message())).saga
    assert reopened is not None
    call = worker.scripts.last
    await fail(worker, reopened)
    await corner.deliver(message())
    before = await corner.contents()
    assert (await worker.scripts.call(*call))[0] == b"DEAD"  # type: ignore[index]
    assert await corner.contents() == before


@pytest.mark.parametrize("sent", [False, True])
async def test_reopened_without_its_model(corner: Corner, sent: bool) -> None:
    """A saga that lost its model before it sent anything asks anew; one that sent goes on."""
    worker = corner.worker()
    first = await worker.claim_model(await corner.begin(worker), "model_1", "c")
    first = await walk(worker, first, State.VALIDATED)
    if sent:
        given = await worker.propose(first, intent(0), spent=0, known=0)
        assert given.saga is not None
        first = given.saga
    await fail(worker, first)
    second = await corner.begin(worker, message(n=2))
    second = await worker.claim_model(second, "model_1", "d")
    again = await corner.begin(worker, first.message)
    failed_in = State.VALIDATED if sent else State.RECEIVED
    assert (again.state, again.claim) == (failed_in, None)
    assert await corner.indexes(again) == [failed_in]
    assert (await corner.views.history(again.id))[-1].state is failed_in
    again = await worker.claim_model(again, "model_1", "c")
    assert (again.claim, second.claim) == ((first.id,) * 2 if sent else (second.id,) * 2)


async def test_reopened_in_other_bytes(corner: Corner) -> None:
    """A reopened saga keeps the bytes that reopened it: they are what it will acknowledge."""
    worker = corner.worker()
    first, second = envelope("id-1", 0), envelope("id-1", 1)
    await fail(worker, await corner.begin(worker, first))
    saga = await corner.begin(worker, second)
    assert saga.message == second
    await walk(worker, saga, State.ACKED)
    assert await corner.listed(corner.keys.processing) == []


async def test_reopening_retried(corner: Corner) -> None:
    """A reopening whose reply was lost gives the same answer again, and changes nothing."""
    worker = corner.worker()
    saga = await corner.begin_in(worker, State.DEAD_LETTERED)
    await corner.begin(worker, saga.message)
    before = await corner.contents()
    assert await worker.scripts.again() == worker.scripts.answer
    assert await corner.contents() == before


async def test_reopening_stolen(corner: Corner) -> None:
    """A dead-lettered saga stays so while its message is not in the processing list."""
    worker = corner.worker()
    saga = await corner.begin_in(worker, State.DEAD_LETTERED)
    before = await corner.contents()
    assert await corner.admit(worker, saga.message) == Admission(None, duplicate=False)
    assert worker.scripts.answer == [b"STOLEN", b"DEAD_LETTERED"]
    assert await corner.contents() == before


async def test_zombie_after_reopening(corner: Corner) -> None:
    """Who ended the saga cannot write to it once it is reopened."""
    worker = corner.worker()
    saga = await advance(worker, await corner.begin(worker), State.VALIDATED)
    dead = await fail(worker, saga)
    await corner.begin(corner.worker("w2"), saga.message)
    before = await corner.contents()
    assert await worker.renew([saga, dead]) == {saga.id}
    assert await corner.contents() == before
