import asyncio

import msgspec
import pytest

from adapters.redis_lane import FILL_KEPT_MS
from saga.lane import Outstanding
from saga.model import Attempt, AttemptKind, Saga, State
from tests.integration.lua.store import (
    CHAIN_ID,
    COST_GAS,
    SENDER,
    Corner,
    Lane,
    attempt,
    confirm,
    intent,
    pair,
)

LEASE_MS = 60_000
NONCE = 5


async def out(corner: Corner) -> Saga:
    """A saga with nonce 5 out, and the lane kept by `w1` with the fence 1."""
    worker = corner.worker()
    saga = await corner.begin_in(worker, State.VALIDATED)
    given = (await worker.propose(saga, intent(NONCE), spent=0, known=NONCE)).saga
    assert given is not None
    await corner.lane().keep("w1", lease_ms=LEASE_MS, hold="")
    return given


async def seen(lane: Lane, nonce: int = NONCE) -> Outstanding:
    (found,) = await lane.read([nonce])
    return found


async def add(
    lane: Lane,
    found: Outstanding,
    number: int,
    kind: AttemptKind = AttemptKind.CALL,
    *,
    keeper: str = "w1",
    fence: int = 1,
) -> bool:
    """As the keeper does; the number tells the bytes."""
    return await lane.add_attempt(
        found,
        attempt(number, kind),
        note=f"{kind.value}, nonce {found.nonce}",
        worker="w1",
        keeper=keeper,
        fence=fence,
        state=State.VALIDATED if found.saga_id else None,
    )


async def test_stored(corner: Corner) -> None:
    """One more transaction is stored behind the others, with the server's time."""
    saga = await out(corner)
    lane = corner.lane()
    before = await corner.now_ms()
    assert await add(lane, await seen(lane), 100)
    after = await corner.now_ms()
    assert lane.outcome == b"OK"
    found = await seen(lane)
    assert found.attempts == (attempt(NONCE), attempt(100))
    assert (found.saga_id, found.step, found.cost_gas) == (saga.id, "deploy", COST_GAS)
    assert before <= found.at_ms <= after
    assert await corner.client.pttl(corner.keys.nonce(CHAIN_ID, SENDER, NONCE)) == -1


async def test_saga_untouched(corner: Corner) -> None:
    """The saga itself stays as it is: its worker's next write is not in conflict."""
    saga = await out(corner)
    lane = corner.lane()
    await add(lane, await seen(lane), 100)
    assert await corner.read(saga) == msgspec.structs.replace(
        saga, updated_ms=(await corner.read(saga)).updated_ms
    )
    assert await confirm(corner.worker(), saga)


async def test_history(corner: Corner) -> None:
    """The saga's history tells each attempt, who made it, and its hash."""
    saga = await out(corner)
    lane = corner.lane()
    await add(lane, await seen(lane), 100)
    entry = (await corner.views.history(saga.id))[-1]
    assert (entry.kind, entry.worker, entry.fence) == ("attempt", "w1", 1)
    assert (entry.state, entry.was) == (State.VALIDATED, None)
    assert (entry.note, entry.tx) == ("call, nonce 5", attempt(100).hash)
    assert entry.at_ms == (await seen(lane)).at_ms


async def test_earlier_attempts_stay(corner: Corner) -> None:
    """Earlier attempts stay as they were, byte for byte, however many come behind them."""
    await out(corner)
    lane = corner.lane()
    kept: dict[bytes, bytes] = {}
    for number in range(1, 12):
        record = (await corner.records())[NONCE]
        kept |= {b"a%d" % n: record[b"a%d" % n] for n in range(number)}
        assert await add(lane, await seen(lane), 100 + number)
        after = (await corner.records())[NONCE]
        assert kept.items() <= after.items()
        assert after[b"n"] == str(number + 1).encode()
    hashes = [each.hash for each in (await seen(lane)).attempts]
    assert hashes == [attempt(n).hash for n in (NONCE, *range(101, 112))]


async def test_retried(corner: Corner) -> None:
    """An attempt whose reply was lost is stored once, however often it is repeated."""
    await out(corner)
    lane = corner.lane()
    found = await seen(lane)
    await add(lane, found, 100)
    before = await corner.contents()
    assert [await lane.scripts.again() for _ in range(3)] == [b"DUPLICATE"] * 3
    assert await add(lane, found, 100)
    assert await corner.contents() == before


async def test_retried_after_the_lease(corner: Corner) -> None:
    """A repeated write is known for its own when the lease is another's by now."""
    await out(corner)
    lane = corner.lane()
    await add(lane, await seen(lane), 100)
    await corner.lane().keep("w1", lease_ms=0, hold="")
    await corner.lane().keep("w2", lease_ms=LEASE_MS, hold="")
    before = await corner.contents()
    assert await lane.scripts.again() == b"DUPLICATE"
    assert await corner.contents() == before


@pytest.mark.parametrize(
    ("keeper", "fence"), [("w2", 1), ("w1", 0), ("w1", 2)], ids=["stranger", "stale", "ahead"]
)
async def test_fenced(corner: Corner, keeper: str, fence: int) -> None:
    """Who does not keep the lane, or with another fence than the lane's, stores nothing."""
    await out(corner)
    lane = corner.lane()
    found = await seen(lane)
    before = await corner.contents()
    assert not await add(lane, found, 100, keeper=keeper, fence=fence)
    assert lane.outcome == b"FENCED"
    assert await corner.contents() == before


async def test_fenced_former(corner: Corner) -> None:
    """A former keeper stores nothing, nor does one that came back with its old fence."""
    await out(corner)
    lane = corner.lane()
    found = await seen(lane)
    await lane.keep("w1", lease_ms=0, hold="")
    assert (await lane.keep("w2", lease_ms=LEASE_MS, hold="")).fence == 2
    before = await corner.contents()
    assert not await add(lane, found, 100)
    assert lane.outcome == b"FENCED"
    assert await corner.contents() == before
    await lane.keep("w2", lease_ms=0, hold="")
    assert (await lane.keep("w1", lease_ms=LEASE_MS, hold="")).fence == 3
    assert not await add(lane, found, 100, fence=1)
    assert await add(lane, found, 100, fence=3)


async def test_fenced_expired(corner: Corner) -> None:
    """A keeper whose lease ran out stores nothing, also when nobody has taken it yet."""
    await out(corner)
    lane = corner.lane()
    found = await seen(lane)
    await corner.client.hset(corner.keys.lane(CHAIN_ID, SENDER), "keeper_until", 1)
    before = await corner.contents()
    assert not await add(lane, found, 100)
    assert lane.outcome == b"FENCED"
    assert await corner.contents() == before


async def test_fenced_flushed(corner: Corner) -> None:
    """After FLUSHALL a keeper stores nothing, and neither does an operator."""
    await out(corner)
    lane = corner.lane()
    found = await seen(lane)
    await corner.client.flushall()
    assert not await add(lane, found, 100)
    assert lane.outcome == b"FENCED"
    assert not await add(lane, found, 100, keeper="")
    assert lane.outcome == b"STALE"
    assert await corner.contents() == {}


async def test_stale(corner: Corner) -> None:
    """An attempt is refused when another was stored since the record was read."""
    await out(corner)
    lane = corner.lane()
    found = await seen(lane)
    assert await add(lane, found, 100)
    before = await corner.contents()
    for keeper in ("w1", ""):
        assert not await add(lane, found, 101, keeper=keeper)
        assert lane.outcome == b"STALE"
    assert await corner.contents() == before


async def test_stale_late_retry(corner: Corner) -> None:
    """An attempt that is sent again after a later one was stored is refused, not stored twice."""
    await out(corner)
    lane, other = corner.lane(), corner.lane()
    await add(lane, await seen(lane), 100)
    last = lane.scripts.last
    await add(other, await seen(other), 101)
    before = await corner.contents()
    assert await lane.scripts.call(*last) == b"STALE"
    assert await corner.contents() == before


async def test_stale_done(corner: Corner) -> None:
    """A nonce whose step is done takes no attempt of who has read its record before."""
    saga = await out(corner)
    lane = corner.lane()
    found = await seen(lane)
    await confirm(corner.worker(), saga)
    before = await corner.contents()
    assert not await add(lane, found, 100)
    assert lane.outcome == b"STALE"
    assert await corner.contents() == before


@pytest.mark.parametrize("nonce", [NONCE + 1, NONCE + 9])
@pytest.mark.parametrize("keeper", ["w1", ""])
async def test_never_given(corner: Corner, nonce: int, keeper: str) -> None:
    """A nonce that the lane never gave takes nothing: a saga would get it next."""
    await out(corner)
    lane = corner.lane()
    before = await corner.contents()
    hole = Outstanding(nonce=nonce)
    assert not await add(lane, hole, 100, AttemptKind.FILL, keeper=keeper)
    assert lane.outcome == b"STALE"
    assert await corner.contents() == before


async def test_empty_lane(corner: Corner) -> None:
    """A lane that never gave a nonce takes no attempt at all."""
    lane = corner.lane()
    await lane.keep("w1", lease_ms=LEASE_MS, hold="")
    assert not await add(lane, Outstanding(nonce=0), 100, AttemptKind.FILL)
    assert lane.outcome == b"STALE"


async def test_hole(corner: Corner) -> None:
    """A hole gets a record of nobody's, which goes away by itself; no history is written."""
    await out(corner)
    lane = corner.lane()
    await lane.raise_to(20)
    before = await corner.contents()
    assert await add(lane, await seen(lane, 12), 100, AttemptKind.FILL)
    key = corner.keys.nonce(CHAIN_ID, SENDER, 12)
    found = await seen(lane, 12)
    assert (found.saga_id, found.step, found.cost_gas) == ("", "fill", 0)
    assert found.attempts == (attempt(100, AttemptKind.FILL),)
    assert FILL_KEPT_MS - 60_000 < await corner.client.pttl(key) <= FILL_KEPT_MS
    after = await corner.contents()
    del after[key.encode()]
    assert after == before


async def test_hole_bumped(corner: Corner) -> None:
    """A fill that is priced again keeps its first bytes, and is kept for as long again."""
    await out(corner)
    lane = corner.lane()
    await lane.raise_to(20)
    await add(lane, await seen(lane, 12), 100, AttemptKind.FILL)
    key = corner.keys.nonce(CHAIN_ID, SENDER, 12)
    await corner.client.pexpire(key, 90_000)
    assert await add(lane, await seen(lane, 12), 101, AttemptKind.FILL)
    assert FILL_KEPT_MS - 60_000 < await corner.client.pttl(key) <= FILL_KEPT_MS
    expected = tuple(attempt(number, AttemptKind.FILL) for number in (100, 101))
    assert (await seen(lane, 12)).attempts == expected


async def test_hole_of_two(corner: Corner) -> None:
    """Of two who fill a hole at once, one does."""
    await out(corner)
    lanes = [corner.lane() for _ in range(8)]
    await lanes[0].raise_to(20)
    hole = await seen(lanes[0], 12)
    stored = await asyncio.gather(
        *(add(lane, hole, 100 + n, AttemptKind.FILL) for n, lane in enumerate(lanes))
    )
    assert stored.count(True) == 1
    found = await seen(lanes[0], 12)
    assert found.attempts == (attempt(100 + stored.index(True), AttemptKind.FILL),)


async def test_operator(corner: Corner) -> None:
    """An operator's attempt needs no lease, and is held to what it has read alone."""
    saga = await out(corner)
    lane = corner.lane()
    found = await seen(lane)
    for lapsed in (False, True):
        if lapsed:
            await corner.client.hset(corner.keys.lane(CHAIN_ID, SENDER), "keeper_until", 1)
        number = 101 if lapsed else 100
        assert await add(lane, found, number, AttemptKind.CANCEL, keeper="", fence=0)
        assert not await add(lane, found, 200, AttemptKind.CANCEL, keeper="", fence=0)
        assert lane.outcome == b"STALE"
        found = await seen(lane)
    assert [each.kind for each in found.attempts] == ["call", "cancel", "cancel"]
    entry = (await corner.views.history(saga.id))[-1]
    assert (entry.kind, entry.fence, entry.tx) == ("attempt", 0, attempt(101).hash)


async def test_operator_and_keeper(corner: Corner) -> None:
    """Of an operator and a keeper who have read the same, one stores its bytes."""
    await out(corner)
    lanes = [corner.lane() for _ in range(8)]
    found = await seen(lanes[0])
    stored = await asyncio.gather(
        *(
            add(lane, found, 100 + n, keeper="w1" if n % 2 else "", fence=n % 2)
            for n, lane in enumerate(lanes)
        )
    )
    assert stored.count(True) == 1
    assert len((await seen(lanes[0])).attempts) == 2


async def test_filled_over(corner: Corner) -> None:
    """A fill over a saga's bytes leaves them where they are, and the saga's name on the nonce."""
    saga = await out(corner)
    lane = corner.lane()
    assert await add(lane, await seen(lane), 100, AttemptKind.FILL)
    found = await seen(lane)
    assert (found.saga_id, found.step) == (saga.id, "deploy")
    assert found.attempts == (attempt(NONCE), attempt(100, AttemptKind.FILL))


async def test_pair_apart(corner: Corner) -> None:
    """An attempt of one step leaves the other step's record alone."""
    worker = corner.worker()
    saga = await corner.begin_in(worker, State.VALIDATED)
    await worker.propose(saga, *pair(NONCE), spent=0, known=NONCE)
    lane = corner.lane()
    await lane.keep("w1", lease_ms=LEASE_MS, hold="")
    record = (await corner.records())[NONCE + 1]
    assert await add(lane, await seen(lane), 100)
    assert (await corner.records())[NONCE + 1] == record


async def test_stored_as_written(corner: Corner) -> None:
    """What is stored of an attempt is what the saga's intent would hold of it."""
    await out(corner)
    lane = corner.lane()
    await add(lane, await seen(lane), 100, AttemptKind.CANCEL)
    raw = (await corner.records())[NONCE][b"a1"]
    assert msgspec.json.decode(raw, type=Attempt) == attempt(100, AttemptKind.CANCEL)
