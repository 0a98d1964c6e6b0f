import asyncio
from itertools import pairwise

import msgspec
import pytest

from saga.errors import LeaseLostError
from saga.model import Attempt, Saga, State, Step
from saga.ports import IntentAnswer
from tests.integration.lua.store import (
    CHAIN_ID,
    COST_GAS,
    LOSSES,
    SENDER,
    Corner,
    Worker,
    advance,
    confirm,
    fail,
    intent,
    message,
    pair,
)


async def validated(corner: Corner, worker: Worker, n: int = 0) -> Saga:
    """A saga of a model of its own, about to deploy."""
    return await corner.begin_in(worker, State.VALIDATED, message(f"model_{n}"))


async def obtain(
    worker: Worker, saga: Saga, *, known: int = 0, step: Step = Step.DEPLOY, both: bool = False
) -> Saga:
    """As the engine does: sign with a guess, then with the nonce that the lane names."""
    nonce, asked = 0, None
    while True:
        intents = pair(nonce) if both else (intent(nonce, step),)
        answer = await worker.propose(saga, *intents, spent=0, known=asked)
        if answer.saga is not None:
            return answer.saga
        if answer.nonce_unknown:
            asked = known
        else:
            assert answer.next_nonce is not None
            nonce = answer.next_nonce


async def owners(corner: Corner) -> dict[int, tuple[str, str]]:
    """Whose each nonce with a record is, and for which step."""
    return {
        nonce: (record[b"saga"].decode(), record[b"step"].decode())
        for nonce, record in (await corner.records()).items()
    }


async def test_stored(corner: Corner) -> None:
    """Nonce, signed bytes, their record and claim are taken in one write."""
    worker = corner.worker(lease_seconds=60)
    saga = await validated(corner, worker)
    answer = await worker.propose(saga, intent(5), spent=0, known=5)
    stored = await corner.read(saga)
    assert worker.scripts.answer == [b"OK"]
    assert answer.saga is not None
    assert (stored.deploy, stored.version) == (intent(5), saga.version + 1)
    assert (answer.saga.deploy, answer.saga.version) == (stored.deploy, stored.version)
    assert await corner.stored_lane() == {b"next": b"6"}
    (record,) = (await corner.records()).items()
    assert record == (
        5,
        {
            b"saga": saga.id.encode(),
            b"step": b"deploy",
            b"cost_gas": str(COST_GAS).encode(),
            b"n": b"1",
            b"at_ms": str(stored.updated_ms).encode(),
            b"a0": msgspec.json.encode(intent(5).attempts[0]),
        },
    )
    assert await corner.client.get(corner.keys.claim("model_0")) == saga.id.encode()
    assert await corner.views.due_ms(saga.id) == stored.updated_ms + 60_000
    entry = (await corner.views.history(saga.id))[-1]
    assert (entry.kind, entry.tx) == ("intent", intent(5).attempts[0].hash)
    assert entry.note is not None
    assert entry.note.startswith("nonce 5, token 0x22")


async def test_unknown(corner: Corner) -> None:
    """An empty lane asks for the node's count first, and then takes it."""
    worker = corner.worker()
    saga = await validated(corner, worker)
    before = await corner.contents()
    answer = await worker.propose(saga, intent(0), spent=3, known=None)
    assert (worker.outcome, answer) == (b"UNKNOWN", IntentAnswer(nonce_unknown=True))
    assert await corner.contents() == before
    answer = await worker.propose(saga, intent(0), spent=3, known=4)
    assert (worker.outcome, answer) == (b"NONCE", IntentAnswer(next_nonce=4))
    answer = await worker.propose(saga, intent(4), spent=3, known=None)
    assert answer.saga is not None
    assert await corner.stored_lane() == {b"next": b"5"}


async def test_wrong_guess(corner: Corner) -> None:
    """A nonce that is not the lane's next is not taken, whether above or below it."""
    worker = corner.worker()
    await obtain(worker, await validated(corner, worker), known=7)
    saga = await validated(corner, worker, 1)
    before = await corner.contents()
    for guess in (0, 7, 9, 10**9):
        answer = await worker.propose(saga, intent(guess), spent=0, known=None)
        assert answer == IntentAnswer(next_nonce=8)
    assert await corner.contents() == before


async def test_lane_moves_up(corner: Corner) -> None:
    """A lane moves up to what the chain has spent, and never down."""
    worker = corner.worker()
    await obtain(worker, await validated(corner, worker))
    saga = await validated(corner, worker, 1)
    answer = await worker.propose(saga, intent(1), spent=20, known=None)
    assert answer == IntentAnswer(next_nonce=20)
    answer = await worker.propose(saga, intent(1), spent=0, known=0)
    assert answer == IntentAnswer(next_nonce=20)
    answer = await worker.propose(saga, intent(20), spent=2, known=None)
    assert answer.saga is not None
    assert await corner.stored_lane() == {b"next": b"21"}


async def test_known_below_spent(corner: Corner) -> None:
    """A node that knows less than the chain has spent is not believed."""
    worker = corner.worker()
    saga = await validated(corner, worker)
    assert (await worker.propose(saga, intent(3), spent=9, known=3)).next_nonce == 9


async def test_full(corner: Corner) -> None:
    """A full lane takes no further nonce until the chain has spent one."""
    worker = corner.worker(max_in_flight=2)
    for n in range(2):
        await obtain(worker, await validated(corner, worker, n))
    saga = await validated(corner, worker, 2)
    before = await corner.contents()
    for guess in (2, 0):
        answer = await worker.propose(saga, intent(guess), spent=0, known=None)
        assert (worker.outcome, answer) == (b"FULL", IntentAnswer(lane_full=True))
    assert await corner.contents() == before
    assert (await worker.propose(saga, intent(2), spent=1, known=None)).saga is not None


async def test_full_for_a_pair(corner: Corner) -> None:
    """A pair needs room for both: a limit of one is full for it, a limit of two is not."""
    narrow, wide = corner.worker(max_in_flight=1), corner.worker("w2", max_in_flight=2)
    first = await validated(corner, narrow)
    before = await corner.contents()
    answer = await narrow.propose(first, *pair(0), spent=0, known=0)
    assert (narrow.outcome, answer) == (b"FULL", IntentAnswer(lane_full=True))
    assert await corner.contents() == before
    second = await validated(corner, wide, 1)
    assert (await wide.propose(second, *pair(0), spent=0, known=0)).saga is not None
    third = await validated(corner, wide, 2)
    for spent, intents in ((0, (intent(2),)), (1, pair(2))):
        assert (await wide.propose(third, *intents, spent=spent, known=None)).lane_full
    assert (await wide.propose(third, *pair(2), spent=2, known=None)).saga is not None


async def test_foreign_spending_frees(corner: Corner) -> None:
    """What is in flight is what was given and not spent: past nonces of others take no room."""
    worker = corner.worker(max_in_flight=1)
    await obtain(worker, await validated(corner, worker))
    saga = await validated(corner, worker, 1)
    assert (await worker.propose(saga, intent(1), spent=0, known=None)).lane_full
    assert (await worker.propose(saga, intent(1), spent=40, known=None)).next_nonce == 40
    assert (await worker.propose(saga, intent(40), spent=40, known=None)).saga is not None


async def test_no_limit(corner: Corner) -> None:
    """A limit of 0 is none."""
    worker = corner.worker(max_in_flight=0)
    for n in range(30):
        await obtain(worker, await validated(corner, worker, n))
    assert list(await corner.records()) == [*range(30)]


async def test_has(corner: Corner) -> None:
    """A step that has an intent keeps it: the stored bytes are given, no nonce is taken."""
    worker = corner.worker()
    saga = await obtain(worker, await validated(corner, worker))
    before = await corner.contents()
    answer = await worker.propose(saga, intent(1), spent=0, known=None)
    assert worker.outcome == b"HAS"
    assert answer.saga is not None
    assert (answer.saga.deploy, answer.saga.version) == (intent(0), saga.version)
    assert await corner.contents() == before


async def test_retried(corner: Corner) -> None:
    """An intent whose reply was lost takes one nonce, however often it is repeated."""
    worker = corner.worker()
    await obtain(worker, await validated(corner, worker))
    before = await corner.contents()
    assert [await worker.scripts.again() for _ in range(3)] == [[b"DUPLICATE"]] * 3
    assert await corner.contents() == before


async def test_pair(corner: Corner) -> None:
    """A deployment and its registration take two nonces that follow each other, in one write."""
    worker = corner.worker(lease_seconds=60)
    saga = await validated(corner, worker)
    answer = await worker.propose(saga, *pair(5), spent=0, known=5)
    stored = await corner.read(saga)
    assert worker.scripts.answer == [b"OK"]
    assert answer.saga is not None
    assert (stored.deploy, stored.register) == pair(5)
    assert (answer.saga.deploy, answer.saga.register) == pair(5)
    assert answer.saga.version == stored.version == saga.version + 1
    assert await corner.stored_lane() == {b"next": b"7"}
    assert await owners(corner) == {5: (saga.id, "deploy"), 6: (saga.id, "register")}
    for signed in pair(5):
        record = (await corner.records())[signed.nonce]
        kept = msgspec.json.decode(record[b"a0"], type=Attempt)
        assert (kept, record[b"n"], record[b"cost_gas"]) == (
            signed.attempts[0],
            b"1",
            str(COST_GAS).encode(),
        )
        assert record[b"at_ms"] == str(stored.updated_ms).encode()
    entries = (await corner.views.history(saga.id))[-2:]
    assert [entry.kind for entry in entries] == ["intent", "intent"]
    assert [entry.tx for entry in entries] == [each.attempts[0].hash for each in pair(5)]


async def test_pair_guessed_wrong(corner: Corner) -> None:
    """A pair whose first nonce is not the lane's next takes neither."""
    worker = corner.worker()
    await obtain(worker, await validated(corner, worker), known=7)
    saga = await validated(corner, worker, 1)
    before = await corner.contents()
    for guess in (6, 7, 9):
        answer = await worker.propose(saga, *pair(guess), spent=0, known=None)
        assert answer == IntentAnswer(next_nonce=8)
    assert await corner.contents() == before


async def test_pair_retried(corner: Corner) -> None:
    """A pair whose reply was lost takes its two nonces once, however often it is repeated."""
    worker = corner.worker()
    saga = await validated(corner, worker)
    given = (await worker.propose(saga, *pair(0), spent=0, known=0)).saga
    before = await corner.contents()
    assert [await worker.scripts.again() for _ in range(3)] == [[b"DUPLICATE"]] * 3
    again = await worker.propose(saga, *pair(0), spent=0, known=0)
    assert (worker.outcome, again.saga) == (b"DUPLICATE", given)
    assert await corner.contents() == before


async def test_stale_record_replaced(corner: Corner) -> None:
    """A record that an earlier life of the lane has left is no part of the new one."""
    worker = corner.worker()
    saga = await validated(corner, worker)
    stale = {"saga": "gone", "step": "fill", "n": 3, "a0": "x", "a1": "y", "a2": "z", "op": "0x"}
    for nonce in (0, 1):
        await corner.client.hset(corner.keys.nonce(CHAIN_ID, SENDER, nonce), mapping=stale)
        await corner.client.pexpire(corner.keys.nonce(CHAIN_ID, SENDER, nonce), 900_000)
    await worker.propose(saga, *pair(0), spent=0, known=0)
    records = await corner.records()
    names = {b"saga", b"step", b"cost_gas", b"n", b"at_ms", b"a0"}
    assert [set(record) for record in records.values()] == [names] * 2
    assert await owners(corner) == {0: (saga.id, "deploy"), 1: (saga.id, "register")}
    for nonce in records:
        assert await corner.client.pttl(corner.keys.nonce(CHAIN_ID, SENDER, nonce)) == -1


async def test_two_steps(corner: Corner) -> None:
    """A saga's two steps have a nonce each, in the order in which they asked."""
    worker = corner.worker()
    saga = await obtain(worker, await validated(corner, worker))
    saga = await confirm(worker, saga)
    saga = await obtain(worker, saga, step=Step.REGISTER)
    stored = await corner.read(saga)
    assert stored.deploy is not None
    assert stored.register is not None
    assert (stored.deploy.nonce, stored.register.nonce) == (0, 1)
    assert await owners(corner) == {1: (saga.id, "register")}


async def test_lanes_apart(corner: Corner) -> None:
    """Each signer has a lane of its own, however its address is written."""
    worker = corner.worker()
    await obtain(worker, await validated(corner, worker))
    other = await validated(corner, worker, 1)
    elsewhere = intent(40, sender="0x" + "cd" * 20)
    assert (await worker.propose(other, elsewhere, spent=0, known=40)).saga is not None
    lower = intent(1, sender=SENDER.lower())
    third = await validated(corner, worker, 2)
    assert (await worker.propose(third, lower, spent=0, known=None)).saga is not None
    assert await corner.stored_lane() == {b"next": b"2"}


async def test_abandoned(corner: Corner) -> None:
    """A step whose intent was given up takes a new nonce, and has one record."""
    worker = corner.worker()
    saga = await obtain(worker, await validated(corner, worker))
    saga = await worker.abandon(saga, [Step.DEPLOY], attempts=1, note="reverted")
    saga = await obtain(worker, saga)
    assert saga.deploy == intent(1)
    assert await owners(corner) == {1: (saga.id, "deploy")}


async def test_claimed(corner: Corner) -> None:
    """A saga that lost its model meanwhile deploys nothing."""
    worker = corner.worker()
    saga = await validated(corner, worker)
    await corner.client.set(corner.keys.claim("model_0"), "other")
    before = await corner.contents()
    answer = await worker.propose(saga, intent(0), spent=0, known=0)
    assert (worker.outcome, answer) == (b"CLAIMED", IntentAnswer(claim_holder="other"))
    assert await corner.contents() == before


async def test_claim_taken_while_dead(corner: Corner) -> None:
    """A resumed saga whose model passed to another deploys nothing."""
    worker = corner.worker()
    first = await corner.begin(worker, message("m", n=1))
    first = await worker.claim_model(first, "m", "c")
    first = await advance(worker, first, State.VALIDATED, model_id="m")
    await fail(worker, first)
    second = await corner.begin(worker, message("m", n=2))
    second = await worker.claim_model(second, "m", "d")
    assert second.claim == second.id
    dead = await corner.read(first)
    assert await corner.views.resume(dead, State.VALIDATED, actor="operator") == "OK"
    (again,) = await worker.take_due(1)
    answer = await worker.propose(again, intent(0), spent=0, known=0)
    assert answer == IntentAnswer(claim_holder=second.id)


async def test_registering_needs_no_claim(corner: Corner) -> None:
    """The claim is asked for before a deployment alone."""
    worker = corner.worker()
    saga = await corner.begin_in(worker, State.TOKEN_DEPLOYED)
    await corner.client.set(corner.keys.claim("model_1"), "other")
    saga = await obtain(worker, saga, step=Step.REGISTER)
    assert saga.register == intent(0, Step.REGISTER)
    assert await corner.client.get(corner.keys.claim("model_1")) == b"other"


@pytest.mark.parametrize("loss", LOSSES)
async def test_refused(corner: Corner, loss: str) -> None:
    """Who lost the lease takes no nonce and stores no bytes."""
    lose, word = LOSSES[loss]
    worker = corner.worker()
    await obtain(worker, await validated(corner, worker))
    saga = await validated(corner, worker, 1)
    await corner.lapse(saga)
    (saga,) = await worker.take_due(1)
    await lose(corner, saga)
    before = await corner.contents()
    with pytest.raises(LeaseLostError, match=word.decode()):
        await worker.propose(saga, intent(1), spent=0, known=0)
    assert worker.scripts.answer == [word]
    assert await corner.contents() == before


async def test_no_hole_no_double(corner: Corner) -> None:
    """Forty sagas over three replicas, half of them in pairs, get the nonces 0 to 59 once each."""
    workers = [corner.worker(f"w{n}") for n in range(3)]
    begun = [await validated(corner, workers[n % 3], n) for n in range(40)]
    sagas = await asyncio.gather(
        *(obtain(workers[n % 3], saga, both=n % 2 == 0) for n, saga in enumerate(begun))
    )
    assert [await corner.read(saga) for saga in sagas] == [
        msgspec.structs.replace(saga, updated_ms=(await corner.read(saga)).updated_ms)
        for saga in sagas
    ]
    taken = {
        each.nonce: (saga.id, each.step.value)
        for saga in sagas
        for each in (saga.deploy, saga.register)
        if each is not None
    }
    assert sorted(taken) == [*range(60)]
    assert await owners(corner) == taken
    assert await corner.stored_lane() == {b"next": b"60"}
    for saga in sagas:
        if saga.deploy is not None and saga.register is not None:
            assert saga.register.nonce == saga.deploy.nonce + 1


async def test_throttled(corner: Corner) -> None:
    """A deployment before its time takes nothing, whichever replica asks; it is told how long."""
    first, second = (corner.worker(f"w{n}", deployments_per_hour=1.0) for n in range(2))
    await obtain(first, await validated(corner, first))
    saga = await validated(corner, second, 1)
    before = await corner.contents()
    answer = await second.propose(saga, intent(1), spent=0, known=0)
    assert second.outcome == b"THROTTLED"
    assert answer.throttled_seconds is not None
    assert 3590 < answer.throttled_seconds <= 3600
    assert await corner.contents() == before
    assert await corner.client.pttl(corner.keys.throttle) > 0


async def test_throttle_frees(corner: Corner) -> None:
    """When its time has come a deployment goes through, and the next one waits anew."""
    worker = corner.worker(deployments_per_hour=1.0)
    await obtain(worker, await validated(corner, worker))
    await corner.client.delete(corner.keys.throttle)  # as it goes away by itself
    await obtain(worker, await validated(corner, worker, 1))
    assert await corner.client.exists(corner.keys.throttle)


async def test_registrations_are_not_throttled(corner: Corner) -> None:
    """A registration neither waits for a turn nor takes one: its token is there already."""
    worker = corner.worker(deployments_per_hour=1.0)
    registering = await corner.begin_in(worker, State.TOKEN_DEPLOYED, message("deployed"))
    await obtain(worker, registering, step=Step.REGISTER)
    assert not await corner.client.exists(corner.keys.throttle)
    await obtain(worker, await validated(corner, worker, 1), both=True)
    assert await corner.client.exists(corner.keys.throttle)


async def test_throttle_spacing(corner: Corner) -> None:
    """However many replicas ask at once, no two deployments are closer together than the pause."""
    workers = [corner.worker(f"w{n}", deployments_per_hour=36_000.0) for n in range(3)]
    begun = [await validated(corner, workers[n % 3], n) for n in range(12)]

    async def deployed(worker: Worker, saga: Saga) -> int:
        nonce, known = 0, None
        while True:
            answer = await worker.propose(saga, intent(nonce), spent=0, known=known)
            if answer.saga is not None:
                return (await corner.read(saga)).updated_ms
            known = 0 if answer.nonce_unknown else known
            nonce = nonce if answer.next_nonce is None else answer.next_nonce
            await asyncio.sleep(answer.throttled_seconds or 0)

    taken = sorted(
        await asyncio.gather(*(deployed(workers[n % 3], saga) for n, saga in enumerate(begun)))
    )
    assert min(b - a for a, b in pairwise(taken)) >= 100
    assert sorted(await owners(corner)) == [*range(12)]


@pytest.mark.parametrize("mark", ["draining:0xNew", "retired:0xNew"])
async def test_retired(corner: Corner, mark: str) -> None:
    """A lane that is handed over gives no nonce, and says to whom it goes."""
    worker = corner.worker()
    saga = await validated(corner, worker)
    await corner.client.hset(corner.keys.lane(CHAIN_ID, SENDER), "retired", mark)
    before = await corner.contents()
    answer = await worker.propose(saga, intent(0), spent=0, known=0)
    assert answer.retired is not None
    assert answer.retired.endswith("0xNew")
    assert SENDER in answer.retired
    assert await corner.contents() == before
