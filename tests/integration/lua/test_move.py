import asyncio
import base64
import json

import msgspec
import pytest

from adapters.redis_lane import FILL_KEPT_MS
from saga.actions import Advance, Fail
from saga.change import change_of
from saga.costs import Totals, receipt_cost
from saga.errors import LeaseLostError
from saga.model import ErrorClass, Saga, State, Step
from saga.ports import Change
from tests.integration.lua.store import (
    CHAIN_ID,
    DEPLOYMENT,
    EVENT,
    LOSSES,
    PATH,
    RECEIPT,
    REGISTRATION,
    SENDER,
    Corner,
    Worker,
    advance,
    confirm,
    fail,
    intent,
    message,
    nobody,
    pair,
    skip,
    walk,
)

SECONDS_60 = 60_000


async def publish(worker: Worker, saga: Saga) -> Saga:
    return await worker.move(saga, State.PUBLISHED, Change(saga=saga, event=EVENT))


async def acknowledge(worker: Worker, saga: Saga) -> Saga:
    return await worker.move(saga, State.ACKED, Change(saga=saga, ack=True))


async def test_edge(corner: Corner) -> None:
    """A move is one write: state, version, result, index, lease and history."""
    worker = corner.worker(lease_seconds=60)
    before = await corner.begin_in(worker, State.VALIDATED)
    after = await worker.move(
        before,
        State.TOKEN_DEPLOYED,
        Change(
            saga=msgspec.structs.replace(before, deployment=DEPLOYMENT), note="adopted", tx="0x33"
        ),
    )
    stored = await corner.read(before)
    assert worker.outcome == b"OK"
    assert msgspec.structs.replace(stored, updated_ms=after.updated_ms) == after
    assert (after.state, after.version) == (State.TOKEN_DEPLOYED, before.version + 1)
    assert (after.lease, after.deployment) == (before.lease, DEPLOYMENT)
    assert await corner.indexes(before) == [State.TOKEN_DEPLOYED]
    assert await corner.views.due_ms(before.id) == stored.updated_ms + SECONDS_60
    entry = (await corner.views.history(before.id))[-1]
    assert (entry.kind, entry.was, entry.state) == (
        "moved",
        State.VALIDATED,
        State.TOKEN_DEPLOYED,
    )
    assert (entry.worker, entry.fence) == ("w1", before.lease.fence)
    assert (entry.at_ms, entry.note, entry.tx) == (stored.updated_ms, "adopted", "0x33")


@pytest.mark.parametrize("state", PATH)
async def test_indexes(corner: Corner, state: State) -> None:
    """A saga is in exactly one state index, and in `due` if and only if it is active."""
    saga = await corner.begin_in(corner.worker(), state)
    assert await corner.indexes(saga) == [state]
    assert (await corner.views.due_ms(saga.id) is None) == state.terminal


async def test_attempts_reset(corner: Corner) -> None:
    """An edge forgets the failed tries and the error of the step that it leaves."""
    worker = corner.worker()
    saga = await corner.begin(worker)
    await worker.postpone(saga, seconds=0, attempts=2, error="node away")
    (again,) = await worker.take_due(1)
    assert (again.attempts, again.error) == (2, "node away")
    await advance(worker, again, State.VALIDATED, error=None)
    stored = await corner.read(saga)
    assert (stored.attempts, stored.error) == (0, None)


async def test_within_a_state(corner: Corner) -> None:
    """A write within a state removes and sets fields, and leaves the indexes alone."""
    worker = corner.worker()
    saga = await corner.begin_in(worker, State.VALIDATED)
    entered = await corner.client.zscore(corner.keys.index(State.VALIDATED), saga.id)
    stored = (await worker.propose(saga, intent(0), spent=0, known=0)).saga
    assert stored is not None
    after = await worker.abandon(stored, [Step.DEPLOY], attempts=1, note="reverted")
    found = await corner.read(saga)
    assert msgspec.structs.replace(found, updated_ms=after.updated_ms) == after
    assert (found.deploy, found.attempts, found.state) == (None, 1, State.VALIDATED)
    assert await corner.client.zscore(corner.keys.index(State.VALIDATED), saga.id) == entered
    entry = (await corner.views.history(saga.id))[-1]
    assert (entry.kind, entry.state, entry.note) == ("retry", State.VALIDATED, "reverted")


async def in_pair(corner: Corner, worker: Worker) -> Saga:
    """A saga that sent its registration right behind its deployment."""
    saga = await corner.begin_in(worker, State.VALIDATED)
    given = (await worker.propose(saga, *pair(3), spent=0, known=3)).saga
    assert given is not None
    assert list(await corner.records()) == [3, 4]
    return given


def cancelled(saga: Saga, *forget: Step) -> Change:
    """What the engine writes for a step that an operator has cancelled."""
    return change_of(saga, Fail(ErrorClass.CANCELLED, "cancelled", forget=forget))


async def test_record_goes_with_the_result(corner: Corner) -> None:
    """The record of a nonce goes away in the write that stores what it did, and no other does."""
    worker = corner.worker()
    saga = await confirm(worker, await in_pair(corner, worker))
    stored = await corner.read(saga)
    assert stored.deploy is not None
    assert (stored.deploy.attempts[0].raw, stored.register) == ("", pair(3)[1])
    assert list(await corner.records()) == [4]
    saga = await confirm(worker, saga)
    assert await corner.records() == {}
    assert (await corner.read(saga)).state is State.REGISTERED


async def test_record_of_a_dead_letter(corner: Corner) -> None:
    """A dead-lettered saga keeps its bytes and their records: the nonces are out still."""
    worker = corner.worker()
    saga = await in_pair(corner, worker)
    before = await corner.records()
    await fail(worker, saga)
    stored = await corner.read(saga)
    assert (stored.deploy, stored.register) == pair(3)
    assert await corner.records() == before


@pytest.mark.parametrize("write", ["postpone", "advance"])
async def test_record_kept(corner: Corner, write: str) -> None:
    """A write that settles no nonce leaves every record as it is."""
    worker = corner.worker()
    saga = await in_pair(corner, worker)
    before = await corner.records()
    if write == "postpone":
        await worker.postpone(saga, seconds=9, attempts=1, error="node away")
    else:
        await advance(worker, saga, State.TOKEN_DEPLOYED, deployment=DEPLOYMENT)
    assert await corner.records() == before


@pytest.mark.parametrize(
    ("forget", "left"),
    [
        ((Step.DEPLOY, Step.REGISTER), []),
        ((Step.REGISTER,), [3]),
        ((), [3, 4]),
    ],
)
async def test_forgotten(corner: Corner, forget: tuple[Step, ...], left: list[int]) -> None:
    """What a failure forgets goes in its write: a resume does not find it. The record of a nonce
    that is out still stays in the lane, for its keeper, with an end."""
    worker = corner.worker()
    saga = await in_pair(corner, worker)
    dead = await worker.move(saga, State.DEAD_LETTERED, cancelled(saga, *forget))
    stored = await corner.read(saga)
    out = [each.nonce for each in (stored.deploy, stored.register) if each is not None]
    out_still = [4] if forget == (Step.DEPLOY, Step.REGISTER) else []
    assert (out, list(await corner.records())) == (left, left + out_still)
    for nonce in out_still:
        ttl = await corner.client.pttl(corner.keys.nonce(CHAIN_ID, SENDER, nonce))
        assert 0 < ttl <= FILL_KEPT_MS
        (record,) = await corner.lane().read([nonce])
        assert (record.saga_id, len(record.attempts)) == ("", 1)
    assert (dead.deploy, dead.register) == (stored.deploy, stored.register)
    assert (stored.error_class, stored.failed_in) == ("cancelled", State.VALIDATED)
    (letter,) = [json.loads(entry) for entry in await corner.listed(corner.keys.dead_letters)]
    assert letter["error_class"] == "cancelled"
    before = await corner.contents()
    assert await worker.scripts.again() == b"DUPLICATE"
    assert await corner.contents() == before


async def test_forgotten_at_registration(corner: Corner) -> None:
    """A cancelled registration goes; what the deployment has brought stays."""
    worker = corner.worker()
    saga = await confirm(worker, await in_pair(corner, worker))
    await worker.move(saga, State.DEAD_LETTERED, cancelled(saga, Step.REGISTER))
    stored = await corner.read(saga)
    assert (stored.deploy, stored.register) == (saga.deploy, None)
    assert stored.deployment == DEPLOYMENT
    assert await corner.records() == {}


@pytest.mark.parametrize(("step", "left"), [(Step.DEPLOY, 4), (Step.REGISTER, 3)])
async def test_record_of_the_abandoned(corner: Corner, step: Step, left: int) -> None:
    """An intent that is given up goes with its record; the other step keeps both."""
    worker = corner.worker()
    saga = await in_pair(corner, worker)
    after = await worker.abandon(saga, [step], attempts=1, note="reverted")
    stored = await corner.read(saga)
    assert stored.intent(step) is None
    assert [each.nonce for each in (stored.deploy, stored.register) if each] == [left]
    assert (after.deploy, after.register) == (stored.deploy, stored.register)
    assert list(await corner.records()) == [left]
    before = await corner.contents()
    assert await worker.scripts.again() == b"DUPLICATE"
    assert await corner.contents() == before


@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss != "flushed"])
async def test_records_of_the_lost(corner: Corner, loss: str) -> None:
    """Who lost the lease removes no record and no intent."""
    worker = corner.worker()
    saga = await in_pair(corner, worker)
    await LOSSES[loss][0](corner, saga)
    before = await corner.contents()
    with pytest.raises(LeaseLostError):
        await confirm(worker, saga)
    with pytest.raises(LeaseLostError):
        await worker.move(saga, State.DEAD_LETTERED, cancelled(saga, *Step))
    with pytest.raises(LeaseLostError):
        await worker.abandon(saga, [Step.DEPLOY], attempts=1, note="reverted")
    assert await corner.contents() == before


# --- What is counted.

PRICED = msgspec.structs.replace(RECEIPT, native_usd="3000")
"""Of our own: what is adopted has no price."""
# 1,000,000 gas at 1 gwei, at 3000 dollars.
ONE = {"gas": 10**6, "fees_gwei": 10**6}
PAID = {"gas_used": 10**6, "fees_wei": 10**15}
TWICE = {"gas_used": 2 * 10**6, "fees_wei": 2 * 10**15}


async def deploy(worker: Worker, saga: Saga, *, adopted: bool = False) -> Saga:
    """The move to TOKEN_DEPLOYED, as the engine makes it."""
    receipt = RECEIPT if adopted else PRICED
    deployment = msgspec.structs.replace(DEPLOYMENT, receipt=receipt, adopted=adopted)
    change = change_of(saga, Advance(deployment=deployment))
    return await worker.move(saga, State.TOKEN_DEPLOYED, change)


async def register(worker: Worker, saga: Saga, *, adopted: bool = False) -> Saga:
    receipt = RECEIPT if adopted else PRICED
    registration = msgspec.structs.replace(REGISTRATION, receipt=receipt, adopted=adopted)
    change = change_of(saga, Advance(registration=registration))
    return await worker.move(saga, State.REGISTERED, change)


async def test_counted(corner: Corner) -> None:
    """Each deployment, registration and fee is counted in the write that stores it, and a repeated
    write counts nothing."""
    worker = corner.worker()
    saga = await corner.begin_in(worker, State.VALIDATED)
    assert await corner.views.totals() == Totals()
    saga = await deploy(worker, saga)
    assert await corner.views.totals() == Totals(deployments=1, **ONE)
    saga = await register(worker, saga)
    expected = Totals(
        deployments=1,
        registrations=1,
        priced=1,
        gas=2 * 10**6,
        fees_gwei=2 * 10**6,
        usd_micro=6_000_000,
    )
    assert [await worker.scripts.again() for _ in range(3)] == [b"DUPLICATE"] * 3
    assert await corner.views.totals() == expected
    assert {name: getattr(await corner.read(saga), name) for name in TWICE} == TWICE
    await acknowledge(worker, await publish(worker, saga))
    assert await corner.views.totals() == expected


async def test_counted_adopted(corner: Corner) -> None:
    """What is adopted is counted apart, and costs nothing."""
    worker = corner.worker()
    saga = await deploy(worker, await corner.begin_in(worker, State.VALIDATED), adopted=True)
    await register(worker, saga, adopted=True)
    assert await corner.views.totals() == Totals(adopted=1)
    assert (await corner.read(saga)).gas_used == 0


async def test_counted_abandoned(corner: Corner) -> None:
    """What came to nothing is paid all the same, once, and adds up with what follows."""
    worker = corner.worker()
    saga = await in_pair(corner, worker)
    cost = receipt_cost(RECEIPT)
    after = await worker.abandon(saga, [Step.DEPLOY], attempts=1, note="reverted", cost=cost)
    assert await worker.scripts.again() == b"DUPLICATE"
    assert await corner.views.totals() == Totals(**ONE)
    stored = await corner.read(saga)
    assert msgspec.structs.replace(stored, updated_ms=after.updated_ms) == after
    assert {name: getattr(stored, name) for name in PAID} == PAID
    assert {name: getattr(await deploy(worker, after), name) for name in TWICE} == TWICE


async def test_counted_cancelled(corner: Corner) -> None:
    """An operator's self-send is paid by the saga that it ends."""
    worker = corner.worker()
    saga = await in_pair(corner, worker)
    action = Fail(ErrorClass.CANCELLED, "cancelled", tuple(Step), receipt_cost(RECEIPT))
    await worker.move(saga, State.DEAD_LETTERED, change_of(saga, action))
    assert await corner.views.totals() == Totals(**ONE)
    assert {name: getattr(await corner.read(saga), name) for name in PAID} == PAID


async def test_counted_once_over_a_resume(corner: Corner) -> None:
    """A dead letter that is resumed keeps what it has paid, and counts only what is new."""
    worker = corner.worker()
    saga = await deploy(worker, await corner.begin_in(worker, State.VALIDATED))
    await fail(worker, saga)
    dead = await corner.read(saga)
    assert await corner.views.resume(dead, State.TOKEN_DEPLOYED, actor="operator") == "OK"
    (saga,) = await worker.take_due(1)
    assert await corner.views.totals() == Totals(deployments=1, **ONE)
    saga = await register(worker, saga)
    totals = await corner.views.totals()
    assert (totals.deployments, totals.registrations, totals.priced) == (1, 1, 1)
    assert (totals.gas, totals.usd_micro) == (2 * 10**6, 6_000_000)
    assert {name: getattr(await corner.read(saga), name) for name in TWICE} == TWICE


@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss != "flushed"])
async def test_lost_count_nothing(corner: Corner, loss: str) -> None:
    """Who lost the lease counts nothing."""
    worker = corner.worker()
    saga = await corner.begin_in(worker, State.VALIDATED)
    await LOSSES[loss][0](corner, saga)
    with pytest.raises(LeaseLostError):
        await deploy(worker, saga)
    assert await corner.views.totals() == Totals()


async def test_counts_outlive(corner: Corner) -> None:
    """The totals stay when the sagas that they count are gone."""
    worker = corner.worker(retention_seconds=1000)
    saga = await deploy(worker, await corner.begin_in(worker, State.VALIDATED))
    saga = await publish(worker, await register(worker, saga))
    await acknowledge(worker, saga)
    assert await corner.client.pttl(corner.keys.totals) == -1
    await corner.client.delete(corner.keys.saga(saga.id))
    assert (await corner.views.totals()).deployments == 1


@pytest.mark.parametrize("broken", ["a hash", "a counter"])
async def test_broken_counter(corner: Corner, broken: str) -> None:
    """A counter that somebody has broken keeps no saga from moving."""
    worker = corner.worker()
    saga = await corner.begin_in(worker, State.VALIDATED)
    if broken == "a hash":
        await corner.client.set(corner.keys.totals, "x")
    else:
        await corner.client.hset(corner.keys.totals, "gas", "x")
    saga = await deploy(worker, saga)
    assert await corner.indexes(saga) == [State.TOKEN_DEPLOYED]
    assert (await corner.read(saga)).gas_used == 10**6
    if broken == "a counter":
        assert (await corner.views.totals()).deployments == 1


async def test_told(corner: Corner) -> None:
    """Whoever counts in this process is told of each write once, refused ones left out."""
    told: list[tuple[int, int]] = []
    worker = corner.worker(on_written=lambda a, b: told.append((a.gas_used, b.gas_used)))
    saga = await corner.begin_in(worker, State.VALIDATED)
    told.clear()
    deployed = await deploy(worker, saga)
    with pytest.raises(LeaseLostError):
        await register(worker, nobody(deployed))
    await register(worker, deployed)
    assert told == [(0, 10**6), (10**6, 2 * 10**6)]


async def test_event_with_state(corner: Corner) -> None:
    """The event and the state PUBLISHED are one write; the message stays until acknowledged."""
    worker = corner.worker()
    saga = await corner.begin_in(worker, State.REGISTERED)
    assert await corner.listed(corner.keys.outbound) == []
    await publish(worker, saga)
    assert await corner.listed(corner.keys.outbound) == [EVENT]
    assert (await corner.read(saga)).state is State.PUBLISHED
    assert await corner.listed(corner.keys.processing) == [saga.message]


async def test_event_retried(corner: Corner) -> None:
    """An event whose reply was lost is pushed once, however often the write is repeated."""
    worker = corner.worker()
    await publish(worker, await corner.begin_in(worker, State.REGISTERED))
    before = await corner.contents()
    assert [await worker.scripts.again() for _ in range(3)] == [b"DUPLICATE"] * 3
    assert await corner.contents() == before
    assert await corner.listed(corner.keys.outbound) == [EVENT]


async def test_acknowledgement_retried(corner: Corner) -> None:
    """An acknowledgement removes one copy of the message, however often it is repeated."""
    worker = corner.worker()
    saga = await corner.begin_in(worker, State.PUBLISHED)
    await corner.deliver(message("other"), saga.message)
    await acknowledge(worker, saga)
    before = await corner.contents()
    assert await worker.scripts.again() == b"DUPLICATE"
    assert await corner.contents() == before
    assert await corner.listed(corner.keys.processing) == [saga.message, message("other")]


async def test_dead_letter_retried(corner: Corner) -> None:
    """A saga is dead-lettered once, however often the write is repeated."""
    worker = corner.worker()
    await fail(worker, await corner.begin(worker))
    before = await corner.contents()
    assert await worker.scripts.again() == b"DUPLICATE"
    assert await corner.contents() == before


async def test_late_retry(corner: Corner) -> None:
    """A repeated write is known after a takeover too, and fenced once the other has written."""
    worker, other = corner.worker(), corner.worker("w2")
    saga = await publish(worker, await corner.begin_in(worker, State.REGISTERED))
    await corner.lapse(saga)
    (taken,) = await other.take_due(1)
    assert await worker.scripts.again() == b"DUPLICATE"
    await acknowledge(other, taken)
    before = await corner.contents()
    assert await worker.scripts.again() == b"FENCED"
    assert await corner.contents() == before
    assert await corner.listed(corner.keys.outbound) == [EVENT]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("write", [publish, fail, acknowledge], ids=lambda write: write.__name__)
async def test_refused(corner: Corner, loss: str, write: object) -> None:
    """Who lost the lease writes nothing: no state, no event, no acknowledgement, no letter."""
    lose, word = LOSSES[loss]
    worker = corner.worker()
    saga = await corner.begin_in(worker, State.REGISTERED)
    await lose(corner, saga)
    before = await corner.contents()
    with pytest.raises(LeaseLostError, match=word.decode()):
        await write(worker, saga)  # type: ignore[operator]
    assert worker.outcome == word
    assert await corner.contents() == before


async def test_stranger(corner: Corner) -> None:
    """Who never had the lease writes nothing."""
    worker = corner.worker()
    saga = await corner.begin_in(worker, State.REGISTERED)
    before = await corner.contents()
    with pytest.raises(LeaseLostError, match="FENCED"):
        await publish(corner.worker("w2"), nobody(saga))
    assert await corner.contents() == before


async def test_free(corner: Corner) -> None:
    """A saga that nobody holds is not written by somebody without a lease."""
    worker = corner.worker()
    waiting = await corner.begin(worker)
    await worker.postpone(waiting, seconds=900, attempts=1, error="later")
    ended = await corner.begin_in(worker, State.ACKED, message("m2"))
    before = await corner.contents()
    for saga in (await corner.read(waiting), ended, await corner.read(ended)):
        with pytest.raises(LeaseLostError, match="FENCED"):
            await advance(worker, saga, State.VALIDATED)
    assert await corner.contents() == before


async def test_other_state(corner: Corner) -> None:
    """A move from a state that the saga is not in is refused and changes nothing."""
    worker = corner.worker()
    saga = await corner.begin_in(worker, State.VALIDATED)
    before = await corner.contents()
    with pytest.raises(LeaseLostError, match="CONFLICT"):
        await publish(worker, msgspec.structs.replace(saga, state=State.REGISTERED))
    assert await corner.contents() == before


async def test_dead_letter(corner: Corner) -> None:
    """A dead letter tells what failed, where, when and why, with the message as a string."""
    worker = corner.worker()
    raw = message("model_9", name="模型")
    saga = await corner.begin_in(worker, State.VALIDATED, raw)
    saga = msgspec.structs.replace(saga, attempts=3)
    await fail(worker, saga, error="reverted: no role", why=ErrorClass.RETRIES)
    (letter,) = [json.loads(entry) for entry in await corner.listed(corner.keys.dead_letters)]
    stored = await corner.read(saga)
    assert letter == {
        "original_message": raw.decode(),
        "error": "reverted: no role",
        "failed_at": stored.failed_at,
        "original_queue": corner.keys.inbound,
        "saga_id": saga.id,
        "model_id": "model_9",
        "failed_in": "VALIDATED",
        "error_class": "retries_exhausted",
        "attempts": 3,
    }
    assert stored.failed_at is not None
    assert stored.failed_at.endswith("Z")
    assert (stored.state, stored.failed_in) == (State.DEAD_LETTERED, State.VALIDATED)
    assert (stored.error, stored.error_class) == ("reverted: no role", "retries_exhausted")
    assert await corner.listed(corner.keys.processing) == []


async def test_dead_letter_binary(corner: Corner) -> None:
    """Bytes that are no UTF-8 come back whole from the dead letter's base64."""
    worker = corner.worker()
    raw = b'{"model_id": "\xff\x00"}'
    saga = await corner.begin(worker, raw)
    await fail(worker, saga, why=ErrorClass.INVALID)
    (letter,) = [json.loads(entry) for entry in await corner.listed(corner.keys.dead_letters)]
    assert base64.b64decode(letter["original_message_base64"]) == raw
    assert letter["original_message"] == raw.decode("utf-8", "replace")


@pytest.mark.parametrize("end", [State.ACKED, State.SKIPPED])
async def test_retention(corner: Corner, end: State) -> None:
    """A finished saga and its history are kept for the retention, and nobody holds it."""
    saga = await corner.begin_in(corner.worker(retention_seconds=1000), end)
    for key in (corner.keys.saga(saga.id), corner.keys.history(saga.id)):
        assert 990_000 < await corner.client.pttl(key) <= 1_000_000
    assert (await corner.read(saga)).lease.owner == ""
    assert await corner.views.due_ms(saga.id) is None


async def test_kept_for_ever(corner: Corner) -> None:
    """Dead letters never expire, and nothing does with a retention of 0."""
    dead = await corner.begin_in(corner.worker(retention_seconds=1000), State.DEAD_LETTERED)
    done = await corner.begin_in(corner.worker(retention_seconds=0), State.ACKED, message("m2"))
    for saga in (dead, done):
        assert await corner.client.pttl(corner.keys.saga(saga.id)) == -1
        assert await corner.client.pttl(corner.keys.history(saga.id)) == -1


async def test_expired(corner: Corner) -> None:
    """An expired saga leaves no hash and no history behind."""
    worker = corner.worker(retention_seconds=0.001)
    saga = await corner.begin_in(worker, State.SKIPPED)
    async with asyncio.timeout(10):
        while await corner.client.exists(corner.keys.saga(saga.id), corner.keys.history(saga.id)):
            pass
    assert await corner.views.find(saga.id) is None


async def test_index_trimmed(corner: Corner) -> None:
    """An index of finished sagas forgets those older than the retention, and no other."""
    worker = corner.worker(retention_seconds=1000)
    index = corner.keys.index(State.ACKED)
    now = await corner.now_ms()
    await corner.client.zadd(index, {"gone": now - 1_000_001, "kept": now - 900_000})
    saga = await corner.begin_in(worker, State.ACKED)
    assert await corner.client.zrange(index, 0, -1) == [b"kept", saga.id.encode()]


async def test_dead_letters_not_trimmed(corner: Corner) -> None:
    """The index of dead letters forgets none by age."""
    worker = corner.worker(retention_seconds=1000)
    index = corner.keys.index(State.DEAD_LETTERED)
    await corner.client.zadd(index, {"old": 0})
    saga = await corner.begin_in(worker, State.DEAD_LETTERED)
    assert await corner.client.zrange(index, 0, -1) == [b"old", saga.id.encode()]


async def test_timer(corner: Corner) -> None:
    """A postponed saga waits in `due` until its time, and nobody holds it."""
    worker = corner.worker()
    saga = await corner.begin_in(worker, State.VALIDATED)
    await worker.postpone(saga, seconds=90, attempts=1, error="node away")
    stored = await corner.read(saga)
    assert (stored.state, stored.lease.owner) == (State.VALIDATED, "")
    assert (stored.attempts, stored.error, stored.version) == (1, "node away", saga.version + 1)
    assert await corner.views.due_ms(saga.id) == stored.updated_ms + 90_000
    assert await worker.take_due(1) == []
    entry = (await corner.views.history(saga.id))[-1]
    assert (entry.kind, entry.note) == ("retry", "node away")


async def test_timer_retried(corner: Corner) -> None:
    """A postponement whose reply was lost counts once, and does not start anew."""
    worker = corner.worker()
    saga = await corner.begin(worker)
    await worker.postpone(saga, seconds=90, attempts=1, error="node away")
    before = await corner.contents()
    assert await worker.scripts.again() == b"DUPLICATE"
    assert await corner.contents() == before


async def test_history_bounded(corner: Corner) -> None:
    """A history keeps its last 500 entries."""
    worker = corner.worker()
    saga = await corner.begin(worker)
    await corner.client.rpush(corner.keys.history(saga.id), *[b"{}"] * 600)
    await skip(worker, saga)
    lines = await corner.listed(corner.keys.history(saga.id))
    assert len(lines) == 500
    assert json.loads(lines[-1])["state"] == "SKIPPED"


async def test_one_write_a_version(corner: Corner) -> None:
    """A second write of one lease at one version is taken for a retry of the first."""
    worker = corner.worker()
    saga = await corner.begin_in(worker, State.REGISTERED)
    first, second = await asyncio.gather(publish(worker, saga), publish(worker, saga))
    assert first == second
    assert await corner.listed(corner.keys.outbound) == [EVENT]
    assert (await corner.read(saga)).version == saga.version + 1


async def test_whole_path(corner: Corner) -> None:
    """A saga's whole path leaves one event, no message, and a history in order."""
    worker = corner.worker()
    saga = await walk(worker, await corner.begin(worker), State.ACKED)
    assert await corner.views.depths() == {
        "inbound": 0,
        "processing": 0,
        "outbound": 1,
        "dead_letters": 0,
    }
    entries = await corner.views.history(saga.id)
    assert [entry.state for entry in entries] == list(PATH)
    assert [entry.was for entry in entries] == [None, *PATH[:-1]]
    assert [entry.at_ms for entry in entries] == sorted(entry.at_ms for entry in entries)


async def test_abandon_leaves_the_lane(corner: Corner) -> None:
    """Intents that a saga leaves keep their records, which are the lane's own from then on."""
    worker = corner.worker()
    saga = await corner.begin_in(worker, State.VALIDATED)
    deploy, register = pair(0)
    answer = await worker.propose(saga, deploy, register, spent=0, known=0)
    assert answer.saga is not None
    left = await worker.abandon(
        answer.saga,
        [Step.DEPLOY, Step.REGISTER],
        attempts=0,
        note="no funds",
        left=[deploy, register],
    )
    stored = await corner.read(left)
    assert msgspec.structs.replace(stored, updated_ms=left.updated_ms) == left
    assert stored.left == (deploy.attempts[0].hash, register.attempts[0].hash)
    assert (stored.deploy, stored.register, left.deploy, left.register) == (None,) * 4
    records = await corner.records()
    assert {nonce: record[b"saga"] for nonce, record in records.items()} == {0: b"", 1: b""}
    assert (await corner.lane().read([0]))[0].attempts == deploy.attempts
