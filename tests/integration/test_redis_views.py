import json
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from adapters.embedded import EmbeddedValkey
from adapters.redis_dlq import RedisDeadLetters
from saga.costs import Totals
from saga.errors import TamperedError
from saga.model import Saga, State, Step
from saga.ports import Change
from tests.integration.lua.store import (
    Corner,
    advance,
    envelope,
    fail,
    intent,
    message,
    opened,
    skip,
    walk,
)

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "saga_hash.json").read_text("utf-8"))


@pytest.fixture
async def corner(valkey: EmbeddedValkey) -> AsyncIterator[Corner]:
    """Keys of the test's own."""
    async with opened(valkey.url) as found:
        yield found


async def aged(corner: Corner, saga: Saga, began_ms: int) -> None:
    """As if the saga had begun then."""
    await corner.client.zadd(corner.keys.sagas_of("model_1"), {saga.id: began_ms})


async def test_find_by_id(corner: Corner) -> None:
    """A saga is found by its id."""
    saga = await corner.begin(corner.worker())
    assert await corner.views.find(saga.id) == saga


async def test_find_nothing(corner: Corner) -> None:
    """What is no saga and no model is not found."""
    await corner.begin(corner.worker())
    assert await corner.views.find("model_2") is None
    assert await corner.views.get("model_1") is None
    assert await corner.views.siblings("model_2") == []
    assert await corner.views.history("model_2") == []
    assert await corner.views.due_ms("model_2") is None


async def test_find_owner(corner: Corner) -> None:
    """By its model, the saga that owns the model is found, be it not the newest."""
    worker = corner.worker()
    owner = await worker.claim_model(await corner.begin(worker), "model_1", "c")
    await corner.begin(worker, message(n=1))
    found = await corner.views.find("model_1")
    assert found is not None
    assert found.id == owner.id


async def test_find_newest(corner: Corner) -> None:
    """By a model that nobody owns, its newest saga is found."""
    worker = corner.worker()
    sagas = [await corner.begin(worker, message(n=n)) for n in range(3)]
    for saga, began_ms in zip(sagas, (20, 30, 10), strict=True):
        await aged(corner, saga, began_ms)
    assert await corner.views.find("model_1") == sagas[1]
    assert await corner.views.siblings("model_1") == [sagas[1], sagas[0], sagas[2]]


async def test_find_past_the_gone(corner: Corner) -> None:
    """Sagas that have expired, the owner included, do not hide those that are there."""
    worker = corner.worker()
    gone = await worker.claim_model(await corner.begin(worker), "model_1", "c")
    there = await corner.begin(worker, message(n=1))
    await corner.client.delete(corner.keys.saga(gone.id))
    await aged(corner, gone, 2**45)
    assert await corner.views.find("model_1") == there
    assert await corner.views.siblings("model_1") == [there]


async def test_counts(corner: Corner) -> None:
    """Each state's sagas are counted, and a state without any counts none."""
    worker = corner.worker()
    assert await corner.views.counts() == dict.fromkeys(State, 0)
    for n in range(2):
        await corner.begin_in(worker, State.VALIDATED, message(n=n))
    await corner.begin_in(worker, State.ACKED, message(n=2))
    expected = dict.fromkeys(State, 0) | {State.VALIDATED: 2, State.ACKED: 1}
    assert await corner.views.counts() == expected


async def test_depths(corner: Corner) -> None:
    """The four lists are measured, each by its role."""
    lists = (
        corner.keys.inbound,
        corner.keys.processing,
        corner.keys.outbound,
        corner.keys.dead_letters,
    )
    for depth, key in enumerate(lists, 1):
        await corner.client.lpush(key, *[b"x"] * depth)
    assert await corner.views.depths() == {
        "inbound": 1,
        "processing": 2,
        "outbound": 3,
        "dead_letters": 4,
    }


@pytest.mark.parametrize("count", [499, 500, 501, 1203])
async def test_pages(corner: Corner, count: int) -> None:
    """A listing has every saga once, however many pages it takes, oldest first."""
    key = corner.keys.index(State.RECEIVED)
    pipe = corner.client.pipeline(transaction=False)
    fields = {name: GOLDEN["hash"][name] for name in ("version", "owner", "fence", "message")}
    times = {"created_ms": "1", "updated_ms": "1", "state": "RECEIVED"}
    for n in range(count):
        pipe.hset(corner.keys.saga(f"s{n:04}"), mapping=fields | times | {"id": f"s{n:04}"})
        pipe.zadd(key, {f"s{n:04}": count - n})
    await pipe.execute()
    found = [saga.id async for saga in corner.views.sagas([State.RECEIVED])]
    assert found == [f"s{n:04}" for n in reversed(range(count))]


async def test_listing(corner: Corner) -> None:
    """A listing has the states that were asked for, and leaves out what has expired."""
    worker = corner.worker()
    received = await corner.begin(worker, message(n=0))
    skipped = await corner.begin_in(worker, State.SKIPPED, message(n=1))
    gone = await corner.begin(worker, message(n=2))
    await corner.client.delete(corner.keys.saga(gone.id))
    wanted = [State.SKIPPED, State.RECEIVED, State.ACKED]
    assert [saga.id async for saga in corner.views.sagas(wanted)] == [skipped.id, received.id]
    assert [saga async for saga in corner.views.sagas([])] == []


async def test_history(corner: Corner) -> None:
    """A history tells in order who did what, when, from which state to which, and why."""
    worker, other = corner.worker(), corner.worker("w2")
    saga = await corner.begin_in(worker, State.VALIDATED)
    await worker.postpone(saga, seconds=0, attempts=1, error="node away")
    (saga,) = await other.take_due(1)
    given = (await other.intend(saga, [intent(0)], cost_gas=0, spent=0, known=0)).saga
    assert given is not None
    await corner.lapse(saga)
    (saga,) = await worker.take_due(1)
    await fail(worker, saga, error="reverted")
    dead = await corner.read(saga)
    await corner.views.resume(dead, State.VALIDATED, actor="operator")
    entries = await corner.views.history(saga.id)
    assert [(entry.kind, entry.worker, entry.state, entry.was) for entry in entries] == [
        ("admitted", "w1", State.RECEIVED, None),
        ("moved", "w1", State.VALIDATED, State.RECEIVED),
        ("retry", "w1", State.VALIDATED, None),
        ("intent", "w2", State.VALIDATED, None),
        ("taken", "w1", State.VALIDATED, None),
        ("moved", "w1", State.DEAD_LETTERED, State.VALIDATED),
        ("resumed", "operator", State.VALIDATED, State.DEAD_LETTERED),
    ]
    assert [entry.note for entry in entries if entry.kind != "intent"] == [
        None,
        None,
        "node away",
        "the lease of its worker ran out",
        "reverted",
        None,
    ]
    times = [entry.at_ms for entry in entries]
    assert times == sorted(times)


async def test_only_golden_fields(corner: Corner) -> None:
    """All scripts together write the golden fields, and no others."""
    worker = corner.worker()
    trace = {"traceparent": "00-" + "1" * 32 + "-" + "2" * 16 + "-01"}
    raw = json.dumps(json.loads(envelope("msg-1", 0)) | trace).encode()
    saga = await worker.claim_model(await corner.begin(worker, raw), "model_1", "c")
    saga = await walk(worker, saga, State.VALIDATED)
    stranded = (await worker.intend(saga, [intent(0)], cost_gas=0, spent=0, known=0)).saga
    assert stranded is not None
    left = [intent(0)]
    saga = await worker.abandon(stranded, [Step.DEPLOY], attempts=0, note="no funds", left=left)
    for step, state in ((Step.DEPLOY, State.TOKEN_DEPLOYED), (Step.REGISTER, State.REGISTERED)):
        nonce = 1 + (step is Step.REGISTER)
        given = await worker.intend(saga, [intent(nonce, step)], cost_gas=0, spent=0, known=0)
        assert given.saga is not None
        saga = await walk(worker, given.saga, state)
    await corner.lapse(saga)
    (saga,) = await corner.worker("w2").take_due(1)
    taken = await corner.client.hgetall(corner.keys.saga(saga.id))  # what the next move drops
    why = {"error": "no", "error_class": "conflict"}
    owner = {"duplicate_of": "a" * 32, "conflicts_with": "b" * 32}
    after = msgspec.structs.replace(saga, **why, **owner)
    await worker.move(saga, State.DEAD_LETTERED, Change(saga=after, ack=True, dead_letter=True))
    letters = RedisDeadLetters(corner.client, corner.keys)
    (letter,) = [entry.letter async for entry in letters.entries()]
    dead = await corner.read(saga)
    assert await letters.discard(dead, letter, reason="withdrawn", actor="operator") == "OK"
    fields = await corner.client.hgetall(corner.keys.saga(saga.id))
    assert {name.decode() for name in fields | taken} == set(GOLDEN["hash"])
    assert fields[b"schema"].decode() == GOLDEN["schema"]


async def test_totals(corner: Corner) -> None:
    """The golden totals read as they were meant; what is no number, or of a later release, is
    passed over; of a fresh Redis all are zero."""
    assert await corner.views.totals() == Totals()
    golden = GOLDEN["totals"]
    await corner.client.hset(corner.keys.totals, mapping={**golden, "later": "5"})
    expected = Totals(**{name: int(value) for name, value in golden.items()})
    assert await corner.views.totals() == expected
    await corner.client.hset(corner.keys.totals, mapping={"gas": "much", b"\xff": "1"})
    assert await corner.views.totals() == msgspec.structs.replace(expected, gas=0)


async def test_unreadable(corner: Corner) -> None:
    """A saga that does not decode keeps no other from being taken; shown, it says what is wrong."""
    worker = corner.worker()
    broken, whole = [await corner.begin(worker, message(n=n)) for n in range(2)]
    await corner.client.hset(corner.keys.saga(broken.id), "deploy", "{")
    for saga in (broken, whole):
        await corner.lapse(saga)
    assert [saga.id for saga in await worker.take_due(10)] == [whole.id]
    with pytest.raises(TamperedError, match=broken.id):
        await corner.views.get(broken.id)
    assert await worker.states([broken.id, "none"]) == [State.RECEIVED, None]
    await corner.client.hset(corner.keys.saga(broken.id), "state", "OF A LATER RELEASE")
    assert await worker.states([broken.id, whole.id]) == [None, State.RECEIVED]
    assert (await corner.admit(worker, broken.message)).saga is None


async def test_unreadable_reopened(corner: Corner) -> None:
    """A dead letter delivered again whose saga does not decode stops nobody."""
    worker = corner.worker()
    dead = await corner.begin_in(worker, State.DEAD_LETTERED)
    await corner.client.hset(corner.keys.saga(dead.id), "deploy", "{")
    await corner.deliver(dead.message)
    assert (await corner.admit(worker, dead.message)).saga is None
    assert worker.outcome == b"REOPENED"


async def test_states(corner: Corner) -> None:
    """The states of many sagas come in the order asked for."""
    worker = corner.worker()
    skipped = await skip(worker, await corner.begin(worker, message(n=0)))
    there = await advance(worker, await corner.begin(worker, message(n=1)), State.VALIDATED)
    asked = [there.id, "none", skipped.id, there.id]
    assert await worker.states(asked) == [State.VALIDATED, None, State.SKIPPED, State.VALIDATED]
    assert await worker.states([]) == []


async def test_reading_changes_nothing(corner: Corner) -> None:
    """No view writes anything."""
    worker = corner.worker()
    saga = await worker.claim_model(await corner.begin(worker), "model_1", "c")
    other = await corner.begin(worker, message(n=1))
    before = await corner.contents()
    await corner.views.find("model_1")
    await corner.views.claimed(other, "model_1", "c")
    await corner.views.claimed(other, "model_9", "c")
    await corner.views.history(saga.id)
    await corner.views.counts()
    await corner.views.depths()
    await corner.views.totals()
    corner.views.letter_of(msgspec.structs.replace(saga, failed_in=State.RECEIVED))
    assert await corner.contents() == before
