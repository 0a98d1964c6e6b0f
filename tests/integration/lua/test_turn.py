"""Laws of `turn.lua`: turns under the throttle, in order, for all replicas."""

from adapters.redis_turns import TURN_KEPT_MS, RedisTurns
from saga.model import Saga, State
from tests.integration.lua.store import Corner, Worker, fail, intent, message

HOURLY = 36.0
PAUSE_SECONDS = 3600 / HOURLY


def turns_of(corner: Corner) -> RedisTurns:
    return RedisTurns(corner.client, corner.keys, pause_seconds=PAUSE_SECONDS)


async def validated(corner: Corner, worker: Worker, n: int) -> Saga:
    """A saga of a model of its own, about to deploy."""
    return await corner.begin_in(worker, State.VALIDATED, message(f"model_{n}"))


async def test_turns(corner: Corner) -> None:
    """Those who wait have turns one pause apart, in the order of their asking, whichever replica
    they ask; asked again it is the same one."""
    worker = corner.worker(deployments_per_hour=HOURLY)
    here, elsewhere = turns_of(corner), turns_of(corner)
    sagas = [await validated(corner, worker, n) for n in range(4)]
    found = [await (here, elsewhere)[n % 2].turn(saga.id) for n, saga in enumerate(sagas)]
    assert found[0] == 0
    assert [round(turn) for turn in found] == [0, 100, 200, 300]
    answer = await worker.propose(sagas[0], intent(0), spent=0, known=0)
    assert answer.saga is not None
    again = [await elsewhere.turn(saga.id) for saga in reversed(sagas[1:])]
    assert [round(turn, -1) for turn in again] == [300, 200, 100]
    assert await corner.client.zcard(corner.keys.turns) == 3, "who has deployed waits no more"


async def test_late(corner: Corner) -> None:
    """Who is late takes the token that is there; who never came is forgotten."""
    worker, turns = corner.worker(deployments_per_hour=HOURLY), turns_of(corner)
    first, second, third = [await validated(corner, worker, n) for n in range(3)]
    for saga in (first, second):
        await turns.turn(saga.id)
    long_ago = (await corner.now_ms()) - TURN_KEPT_MS - 1
    await corner.client.zadd(corner.keys.turns, {first.id: long_ago, second.id: long_ago + 2000})
    assert await turns.turn(second.id) == 0
    assert 0 < await turns.turn(third.id) <= PAUSE_SECONDS
    assert first.id.encode() not in await corner.client.zrange(corner.keys.turns, 0, -1)


async def test_a_free_slot_in_front(corner: Corner) -> None:
    """Who comes while a token is there, and the next turn is far off, does not wait behind it; a
    saga that has ended leaves its turn."""
    worker, turns = corner.worker(deployments_per_hour=HOURLY), turns_of(corner)
    first, second = [await validated(corner, worker, n) for n in range(2)]
    assert await turns.turn(first.id) == 0
    await corner.client.zadd(corner.keys.turns, {first.id: await corner.now_ms() + 500_000})
    assert await turns.turn(second.id) == 0
    await fail(worker, first)
    assert await corner.client.zrange(corner.keys.turns, 0, -1) == [second.id.encode()]
