import asyncio

import pytest

from adapters.redis_keys import lane_name
from saga.model import State
from tests.integration.lua.store import CHAIN_ID, SENDER, Corner, intent

LEASE_MS = 60_000


async def lapse(corner: Corner) -> None:
    """The keeper's lease is over."""
    await corner.client.hset(corner.keys.lane(CHAIN_ID, SENDER), "keeper_until", 1)


async def until(corner: Corner) -> int:
    return int((await corner.stored_lane())[b"keeper_until"])


async def test_first(corner: Corner) -> None:
    """Who asks first keeps the lane, from the server's now on for the lease."""
    lane = corner.lane()
    before = await corner.now_ms()
    standing = await lane.keep("w1", lease_ms=LEASE_MS, hold="")
    after = await corner.now_ms()
    assert lane.outcome == b"KEPT"
    assert (standing.kept, standing.fence, standing.keeper) == (True, 1, "w1")
    assert (standing.next, standing.hold) == (None, "")
    assert before <= standing.now_ms <= after
    assert await corner.stored_lane() == {
        b"keeper": b"w1",
        b"keeper_fence": b"1",
        b"keeper_until": str(standing.now_ms + LEASE_MS).encode(),
    }


async def test_next(corner: Corner) -> None:
    """A keeper learns the lane's next nonce with its lease."""
    worker = corner.worker()
    saga = await corner.begin_in(worker, State.VALIDATED)
    await worker.propose(saga, intent(7), spent=0, known=7)
    lane = corner.lane()
    assert (await lane.keep("w1", lease_ms=LEASE_MS, hold="")).next == 8
    assert (await lane.keep("w2", lease_ms=LEASE_MS, hold="")).next == 8
    assert (await corner.stored_lane())[b"next"] == b"8"


async def test_registered(corner: Corner) -> None:
    """Whoever asks, keeper or not, the set of all lanes has the lane once."""
    for worker in ("w1", "w2", "w1"):
        await corner.lane().keep(worker, lease_ms=LEASE_MS, hold="")
    names = await corner.client.smembers(corner.keys.lanes)
    assert names == {lane_name(CHAIN_ID, SENDER).encode()}


async def test_mark(corner: Corner) -> None:
    """Keeper and others learn that the lane is handed over, and that it is not any more."""
    lane = corner.lane()
    assert (await lane.keep("w1", lease_ms=LEASE_MS, hold="")).retired == ""
    await lane.retire("drain", "0xB")
    for worker in ("w1", "w2"):
        standing = await lane.keep(worker, lease_ms=LEASE_MS, hold="")
        assert standing.retired == "draining:0xB"
    await lane.retire("lift")
    assert (await lane.keep("w2", lease_ms=LEASE_MS, hold="")).retired == ""


async def test_other(corner: Corner) -> None:
    """While a lease runs nobody else gets the lane, and asking for it changes nothing."""
    lane = corner.lane()
    await lane.keep("w1", lease_ms=LEASE_MS, hold="")
    before = await corner.contents()
    for lease_ms in (LEASE_MS, 0):
        standing = await lane.keep("w2", lease_ms=lease_ms, hold="mine")
        assert lane.outcome == b"OTHER"
        assert (standing.kept, standing.fence, standing.keeper) == (False, 1, "w1")
    assert await corner.contents() == before


async def test_renewed(corner: Corner) -> None:
    """A renewal prolongs the lease from now on, and is no change of hands: the fence stays."""
    lane = corner.lane()
    await lane.keep("w1", lease_ms=LEASE_MS, hold="")
    for lease_ms in (LEASE_MS, 90_000):
        standing = await lane.keep("w1", lease_ms=lease_ms, hold="")
        assert (standing.kept, standing.fence) == (True, 1)
        assert await until(corner) == standing.now_ms + lease_ms


async def test_renewed_late(corner: Corner) -> None:
    """A keeper whose lease ran out, while nobody took it, goes on with its fence."""
    lane = corner.lane()
    await lane.keep("w1", lease_ms=LEASE_MS, hold="")
    await lapse(corner)
    standing = await lane.keep("w1", lease_ms=LEASE_MS, hold="")
    assert (standing.kept, standing.fence) == (True, 1)


async def test_handed_over(corner: Corner) -> None:
    """Once a lease ran out another gets the lane, with a higher fence; the former stands by."""
    lane = corner.lane()
    await lane.keep("w1", lease_ms=LEASE_MS, hold="")
    await lapse(corner)
    standing = await lane.keep("w2", lease_ms=LEASE_MS, hold="")
    assert (standing.kept, standing.fence, standing.keeper) == (True, 2, "w2")
    standing = await lane.keep("w1", lease_ms=LEASE_MS, hold="")
    assert (standing.kept, standing.fence, standing.keeper) == (False, 2, "w2")


async def test_fence_counts_hands(corner: Corner) -> None:
    """The fence grows by one with each change of hands, also on the way back, and never else."""
    lane = corner.lane()
    fences = []
    for owner in ("w1", "w2", "w1", "w3"):
        fences += [(await lane.keep(owner, lease_ms=LEASE_MS, hold="")).fence for _ in range(3)]
        await lapse(corner)
    assert fences == [1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]


async def test_given_up(corner: Corner) -> None:
    """A lease of nothing gives the lane up: the next who asks gets it at once."""
    lane = corner.lane()
    await lane.keep("w1", lease_ms=LEASE_MS, hold="")
    assert (await lane.keep("w1", lease_ms=0, hold="")).fence == 1
    standing = await lane.keep("w2", lease_ms=LEASE_MS, hold="")
    assert (standing.kept, standing.fence, standing.keeper) == (True, 2, "w2")


@pytest.mark.parametrize("remaining", [-1, 60_000])
async def test_server_time(corner: Corner, remaining: int) -> None:
    """Whether a lease runs is judged by the server's clock alone."""
    lane = corner.lane()
    standing = await lane.keep("w1", lease_ms=LEASE_MS, hold="")
    key = corner.keys.lane(CHAIN_ID, SENDER)
    await corner.client.hset(key, "keeper_until", standing.now_ms + remaining)
    assert (await lane.keep("w2", lease_ms=LEASE_MS, hold="")).kept == (remaining < 0)


async def test_hold(corner: Corner) -> None:
    """Why the keeper holds is shown to all others, until it says that it does not."""
    lane = corner.lane()
    why = "base fee 130 gwei is above MAX_FEE_GWEI 100 — waiting"
    assert (await lane.keep("w1", lease_ms=LEASE_MS, hold=why)).hold == why
    assert (await lane.keep("w2", lease_ms=LEASE_MS, hold="")).hold == why
    assert (await lane.standing()).hold == why
    assert (await lane.keep("w1", lease_ms=LEASE_MS, hold="")).hold == ""
    assert b"hold" not in await corner.stored_lane()
    assert (await lane.keep("w2", lease_ms=LEASE_MS, hold="")).hold == ""


async def test_hold_of_the_former(corner: Corner) -> None:
    """A new keeper's word takes the place of the former's."""
    lane = corner.lane()
    await lane.keep("w1", lease_ms=LEASE_MS, hold="funds")
    await lapse(corner)
    assert (await lane.keep("w2", lease_ms=LEASE_MS, hold="")).hold == ""
    assert (await lane.standing()).hold == ""


async def test_lanes_apart(corner: Corner) -> None:
    """Each signer's lane has a keeper of its own, however the address is spelled."""
    await corner.lane().keep("w1", lease_ms=LEASE_MS, hold="")
    assert (await corner.lane("0x" + "cd" * 20).keep("w2", lease_ms=LEASE_MS, hold="")).kept
    assert not (await corner.lane(SENDER.lower()).keep("w2", lease_ms=LEASE_MS, hold="")).kept


async def test_one_of_many(corner: Corner) -> None:
    """Of many who ask at once, one keeps the lane, and all are told who."""
    lanes = [corner.lane() for _ in range(20)]
    standings = await asyncio.gather(
        *(lane.keep(f"w{n}", lease_ms=LEASE_MS, hold="") for n, lane in enumerate(lanes))
    )
    (keeper,) = {standing.keeper for standing in standings}
    assert [standing.keeper for standing in standings if standing.kept] == [keeper]
    assert {standing.fence for standing in standings} == {1}


async def test_retried(corner: Corner) -> None:
    """A lease whose reply was lost is a renewal when asked again: the fence stays."""
    lane = corner.lane()
    await lane.keep("w1", lease_ms=LEASE_MS, hold="")
    again = await lane.scripts.again()
    assert isinstance(again, list)
    assert again[:2] == [b"KEPT", b"1"]


async def test_flushed(corner: Corner) -> None:
    """After FLUSHALL the lane is anybody's, and a former keeper's fence is worth what it says."""
    lane = corner.lane()
    await lane.keep("w1", lease_ms=LEASE_MS, hold="")
    await corner.client.flushall()
    assert (await lane.keep("w2", lease_ms=LEASE_MS, hold="")).fence == 1
    assert not (await lane.keep("w1", lease_ms=LEASE_MS, hold="")).kept
