"""Laws of `move.lua` when something else is under a key of ours: all is written, or nothing."""

import pytest

from adapters.redis_keys import RedisKeys
from saga.errors import StoreUnavailableError
from saga.model import Saga, State
from saga.ports import Change
from tests.integration.lua.store import EVENT, Corner, Worker, fail, walk

ROLES = {
    "outbound list is no list": "outbound",
    "event of the saga is no string": "event",
    "set of events is no zset": "events",
    "processing list is no list": "processing",
    "dead-letter list is no list": "dead_letters",
    "list of failure events is no list": "failures",
    "history is no list": "history",
    "set of active sagas is no zset": "due",
    "index of the state left is no zset": "from",
    "index of the state entered is no zset": "to",
}


def key_of(keys: RedisKeys, what: str, saga: Saga, to: State) -> str:
    match what:
        case "event":
            return keys.event(saga.id)
        case "history":
            return keys.history(saga.id)
        case "from":
            return keys.index(saga.state)
        case "to":
            return keys.index(to)
    return str(getattr(keys, what))


async def move(worker: Worker, saga: Saga, to: State) -> Saga:
    match to:
        case State.PUBLISHED:
            return await worker.move(saga, to, Change(saga=saga, event=EVENT))
        case State.DEAD_LETTERED:
            return await fail(worker, saga)
    return await walk(worker, saga, to)


CASES = [
    *((State.REGISTERED, State.PUBLISHED, role) for role in ROLES if "processing" not in role),
    *((State.PUBLISHED, State.ACKED, role) for role in ROLES),
    *((State.REGISTERED, State.DEAD_LETTERED, role) for role in ROLES),
]
UNUSED = {
    State.PUBLISHED: {"dead_letters", "failures"},
    State.ACKED: {"dead_letters", "failures", "outbound", "event"},
    State.DEAD_LETTERED: {"outbound", "event", "events"},
}


@pytest.mark.parametrize(
    ("begins", "to", "role"),
    [case for case in CASES if ROLES[case[2]] not in UNUSED[case[1]]],
)
async def test_wrong_type(corner: Corner, begins: State, to: State, role: str) -> None:
    """A key of another type than its role's stops a write before it begins: nothing is changed, it
    is said which, and the same write is taken once that is mended."""
    worker = corner.worker(event_retention_seconds=60)
    saga = await corner.begin_in(worker, begins)
    key = key_of(corner.keys, ROLES[role], saga, to)
    aside = await corner.client.dump(key)
    await corner.client.delete(key)
    await corner.client.hset(key, "not", "ours")
    before = await corner.contents()
    with pytest.raises(StoreUnavailableError, match=f"{role}: a hash") as raised:
        await move(worker, saga, to)
    assert raised.value.cause == "bad_type"
    assert await corner.contents() == before
    await corner.client.delete(key)
    if aside is not None:
        await corner.client.restore(key, 0, aside)
    assert (await move(worker, saga, to)).state is to


async def test_unused_keys_do_not_matter(corner: Corner) -> None:
    """What a write does not touch may be as it likes: only those stop that would fail."""
    worker = corner.worker()
    saga = await corner.begin_in(worker, State.REGISTERED)
    for key in (corner.keys.dead_letters, corner.keys.failures):
        await corner.client.set(key, "not ours")
    assert (await walk(worker, saga, State.ACKED)).state is State.ACKED


async def test_full_memory(corner: Corner) -> None:
    """Memory that is full refuses the write as a whole."""
    worker = corner.worker()
    saga = await corner.begin_in(worker, State.REGISTERED)
    before = await corner.contents()
    await corner.client.config_set("maxmemory", "1")
    try:
        with pytest.raises(StoreUnavailableError) as raised:
            await move(worker, saga, State.PUBLISHED)
    finally:
        await corner.client.config_set("maxmemory", "0")
    assert raised.value.cause == "oom"
    assert await corner.contents() == before
    assert (await move(worker, saga, State.PUBLISHED)).state is State.PUBLISHED
