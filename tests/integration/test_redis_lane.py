import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from eth_utils.address import to_checksum_address

from adapters.embedded import EmbeddedValkey
from adapters.redis_client import connect
from adapters.redis_keys import lane_name
from adapters.redis_lane import Glance, RedisLane
from adapters.redis_lanes import RedisLanes
from saga.errors import StoreUnavailableError
from saga.lane import Outstanding
from saga.model import AttemptKind, Saga, State, Step
from tests.integration.lua.store import (
    CHAIN_ID,
    COST_GAS,
    SENDER,
    Corner,
    attempt,
    confirm,
    intent,
    message,
    opened,
    pair,
    skip,
)

GOLDEN: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "golden" / "saga_hash.json").read_text("utf-8")
)


@pytest.fixture
async def corner(valkey: EmbeddedValkey) -> AsyncIterator[Corner]:
    """Keys of the test's own."""
    async with opened(valkey.url) as found:
        yield found


async def in_pair(corner: Corner) -> Saga:
    """A saga with the nonces 3 and 4 out."""
    worker = corner.worker()
    saga = await corner.begin_in(worker, State.VALIDATED)
    given = (await worker.propose(saga, *pair(3), spent=0, known=3)).saga
    assert given is not None
    return given


async def add(corner: Corner, nonce: int, number: int, kind: AttemptKind) -> None:
    lane = corner.lane()
    (out,) = await lane.read([nonce])
    assert await lane.add_attempt(out, attempt(number, kind), note="", worker="operator")


async def test_read(corner: Corner) -> None:
    """The record of a nonce says whose it is, for which step, at what gas, with which bytes."""
    saga = await in_pair(corner)
    at_ms = (await corner.read(saga)).updated_ms
    assert await corner.lane().read([4, 3]) == [
        Outstanding(
            nonce=each.nonce,
            saga_id=saga.id,
            step=each.step.value,
            cost_gas=COST_GAS,
            attempts=each.attempts,
            at_ms=at_ms,
        )
        for each in reversed(pair(3))
    ]


async def test_read_holes(corner: Corner) -> None:
    """A nonce without a record reads as a hole, whether it was done, never given, or lost."""
    saga = await in_pair(corner)
    await confirm(corner.worker(), saga)
    found = await corner.lane().read([2, 3, 4, 5])
    assert [out.nonce for out in found] == [2, 3, 4, 5]
    assert [bool(out.attempts) for out in found] == [False, False, True, False]
    assert [out for out in found if not out.attempts] == [Outstanding(nonce=n) for n in (2, 3, 5)]


async def test_nothing_asked(corner: Corner) -> None:
    """Asked for nothing, a lane answers nothing."""
    lane = corner.lane()
    assert await lane.read([]) == []
    assert await lane.glances([]) == []
    assert await lane.states([]) == []


async def test_glances(corner: Corner) -> None:
    """A glance tells how many attempts there are and how old the last is, or that there is none."""
    await in_pair(corner)
    await add(corner, 3, 100, AttemptKind.CALL)
    lane = corner.lane()
    read = await lane.read([3, 4])
    expected = [Glance(attempts=len(out.attempts), at_ms=out.at_ms) for out in read]
    assert [glance.attempts for glance in expected] == [2, 1]
    assert await lane.glances([3, 4, 5]) == [*expected, None]


async def test_attempts_of(corner: Corner) -> None:
    """Of an intent every transaction counts that was ever signed for it, a cancellation too."""
    saga = await in_pair(corner)
    assert saga.deploy is not None
    lane = corner.lane()
    assert await lane.attempts_of(saga.deploy) == saga.deploy.attempts
    await add(corner, 3, 100, AttemptKind.CALL)
    await add(corner, 3, 101, AttemptKind.CANCEL)
    expected = (attempt(3), attempt(100), attempt(101, AttemptKind.CANCEL))
    assert await lane.attempts_of(saga.deploy) == expected
    assert saga.register is not None
    assert await lane.attempts_of(saga.register) == saga.register.attempts


async def test_attempts_of_the_done(corner: Corner) -> None:
    """An intent whose record is gone has its own bytes at least."""
    saga = await in_pair(corner)
    await confirm(corner.worker(), saga)
    assert saga.deploy is not None
    assert await corner.lane().attempts_of(saga.deploy) == saga.deploy.attempts


async def test_attempts_of_another(corner: Corner) -> None:
    """A record that began with other bytes, of another saga or step, is none of the intent's."""
    await in_pair(corner)
    await add(corner, 3, 100, AttemptKind.CALL)
    other = intent(3, Step.REGISTER)
    attempts = (msgspec.structs.replace(other.attempts[0], hash="0x" + "ee" * 32),)
    other = msgspec.structs.replace(other, attempts=attempts)
    assert await corner.lane().attempts_of(other) == attempts
    unknown = intent(9)
    assert await corner.lane().attempts_of(unknown) == unknown.attempts


async def test_attempts_of_another_lane(corner: Corner) -> None:
    """An intent of another signer is asked for in that signer's lane."""
    saga = await in_pair(corner)
    await add(corner, 3, 100, AttemptKind.CALL)
    assert saga.deploy is not None
    elsewhere = corner.lane("0x" + "cd" * 20)
    assert await elsewhere.attempts_of(saga.deploy) == (attempt(3), attempt(100))


async def test_states(corner: Corner) -> None:
    """The state of each saga is told, and that there is none."""
    worker = corner.worker()
    first = await corner.begin_in(worker, State.VALIDATED)
    second = await skip(worker, await corner.begin(worker, message("model_2")))
    ids = [second.id, "gone", "", first.id]
    expected = [State.SKIPPED, None, None, State.VALIDATED]
    assert await corner.lane().states(ids) == expected


async def test_standing(corner: Corner) -> None:
    """How a lane stands can be asked by anybody, without asking for the lane."""
    lane = corner.lane()
    standing = await lane.standing()
    assert (standing.kept, standing.fence, standing.keeper) == (False, 0, "")
    assert (standing.next, standing.hold) == (None, "")
    await in_pair(corner)
    kept = await lane.keep("w1", lease_ms=60_000, hold="funds")
    before = await corner.contents()
    standing = await lane.standing()
    assert (standing.kept, standing.fence, standing.keeper) == (False, 1, "w1")
    assert (standing.next, standing.hold) == (5, "funds")
    assert kept.now_ms <= standing.now_ms <= await corner.now_ms()
    assert await corner.contents() == before


async def test_standing_without_a_keeper(corner: Corner) -> None:
    """A keeper whose lease is over, or who gave it up, is none."""
    lane = corner.lane()
    await lane.keep("w1", lease_ms=60_000, hold="")
    await corner.client.hset(corner.keys.lane(CHAIN_ID, SENDER), "keeper_until", 1)
    assert (await lane.standing()).keeper == ""
    await lane.keep("w2", lease_ms=60_000, hold="")
    assert (await lane.standing()).keeper == "w2"
    await lane.keep("w2", lease_ms=0, hold="")
    standing = await lane.standing()
    assert (standing.keeper, standing.fence) == ("", 2)


async def test_lanes_apart(corner: Corner) -> None:
    """Each signer on each chain has records of its own, however the address is spelled."""
    await in_pair(corner)
    lower = corner.lane(SENDER.lower())
    stranger = corner.lane("0x" + "cd" * 20)
    elsewhere = RedisLane(corner.client, corner.keys, chain_id=1, sender=SENDER)
    assert (await lower.read([3]))[0].attempts == (attempt(3),)
    for lane in (stranger, elsewhere):
        assert await lane.read([3]) == [Outstanding(nonce=3)]
        assert (await lane.standing()).next is None


async def test_all_lanes(corner: Corner) -> None:
    """Every lane that a replica ever looked after is listed, by chain and address; what is no lane
    is left out."""
    lanes = RedisLanes(corner.client, corner.keys)
    assert await lanes.all() == []
    other = "0x" + "cd" * 20
    for chain_id, sender in ((31337, SENDER), (31337, other), (1, SENDER), (31337, SENDER.lower())):
        await lanes.lane(chain_id, sender).keep("w1", lease_ms=1, hold="")
    await corner.client.sadd(corner.keys.lanes, "nothing", "1:0x12", b"\xff")
    assert [(lane.chain_id, lane.sender) for lane in await lanes.all()] == [
        (1, to_checksum_address(SENDER)),
        (31337, to_checksum_address(SENDER)),
        (31337, to_checksum_address(other)),
    ]


async def test_unlisted_lanes(corner: Corner) -> None:
    """The lanes of a release that kept no list are found by their hashes until they are listed
    once; records of nonces, and what is no lane, are none of them."""
    await in_pair(corner)
    lanes, keys, sender = RedisLanes(corner.client, corner.keys), corner.keys, "0x" + "cd" * 20
    await corner.client.hset(keys.lane(5, sender), "next", 7)
    await corner.client.set(keys.lane(6, sender), "no hash")
    await corner.client.hset(f"{keys.prefix}lane:7:nonsense", "next", 7)
    found = [(5, to_checksum_address(sender)), (CHAIN_ID, to_checksum_address(SENDER))]
    before = await corner.contents()
    assert [(lane.chain_id, lane.sender) for lane in await lanes.all()] == found
    assert await corner.contents() == before
    await lanes.remember()
    names = {lane_name(chain_id, each).encode() for chain_id, each in found}
    assert await corner.client.smembers(keys.lanes) == names
    await corner.client.hset(keys.lane(8, sender), "next", 7)
    await lanes.remember()
    assert [(lane.chain_id, lane.sender) for lane in await lanes.all()] == found


async def test_prefix_that_is_a_pattern(corner: Corner) -> None:
    """A prefix is no pattern, whatever its characters."""
    for prefix in ("[ab]*:", "a?\\:"):
        keys = msgspec.structs.replace(corner.keys, prefix=f"{corner.tag}{prefix}")
        await corner.client.hset(keys.lane(CHAIN_ID, SENDER), "next", 7)
        await corner.client.hset(f"{corner.tag}axx:lane:1:{SENDER.lower()}", "next", 7)
        (lane,) = await RedisLanes(corner.client, keys).all()
        assert lane.chain_id == CHAIN_ID


async def test_known_lanes(corner: Corner) -> None:
    """A key is known by a lane, by a mark, or by having been looked after once."""
    lanes = RedisLanes(corner.client, corner.keys)
    assert not await lanes.knows(CHAIN_ID, SENDER)
    await corner.lane().retire("drain", "0x" + "Cd" * 20)
    assert await lanes.knows(CHAIN_ID, SENDER.lower())
    assert not await lanes.knows(1, SENDER)
    await corner.client.sadd(corner.keys.lanes, lane_name(1, SENDER))
    assert await lanes.knows(1, SENDER)


async def test_history_without_a_saga(corner: Corner) -> None:
    """An attempt for a saga that is gone leaves no history of it behind."""
    saga = await in_pair(corner)
    history = corner.keys.history(saga.id)
    await corner.client.delete(corner.keys.saga(saga.id), history)
    await add(corner, 3, 100, AttemptKind.FILL)
    assert not await corner.client.exists(history)
    assert len((await corner.lane().read([3]))[0].attempts) == 2


async def test_keepers_in_turn(corner: Corner) -> None:
    """However often the lane changes hands, each attempt is stored once and none is lost."""
    await in_pair(corner)
    key = corner.keys.lane(CHAIN_ID, SENDER)
    for turn in range(12):
        lane = corner.lane()
        standing = await lane.keep(f"w{turn % 3}", lease_ms=60_000, hold="")
        (out,) = await lane.read([3])
        writes = [
            corner.lane().add_attempt(
                out,
                attempt(1000 * standing.fence + fence),
                note="",
                worker="w",
                keeper=f"w{turn % 3}",
                fence=fence,
            )
            for fence in (standing.fence - 1, standing.fence, standing.fence + 1)
        ]
        assert await asyncio.gather(*writes) == [False, True, False]
        await corner.client.hset(key, "keeper_until", 1)
    (out,) = await corner.lane().read([3])
    assert out.attempts == (attempt(3), *(attempt(1001 * fence) for fence in range(1, 13)))


async def test_golden(corner: Corner) -> None:
    """The golden lane and the golden record of a nonce read as they were meant."""
    await corner.client.hset(corner.keys.lane(CHAIN_ID, SENDER), mapping=GOLDEN["lane"])
    await corner.client.hset(corner.keys.nonce(CHAIN_ID, SENDER, 5), mapping=GOLDEN["nonce"])
    lane = corner.lane()
    standing = await lane.standing()
    assert (standing.next, standing.fence, standing.keeper) == (7, 3, "")
    assert standing.hold == ""  # what a keeper said whose lease has run out is not true any more
    assert standing.retired == GOLDEN["lane"]["retired"]
    assert standing.retired_by == GOLDEN["lane"]["retired_by"]
    assert (await lane.keep("w9", lease_ms=0, hold=GOLDEN["lane"]["hold"])).kept
    (out,) = await lane.read([5])
    assert (out.saga_id, out.step, out.cost_gas) == (GOLDEN["nonce"]["saga"], "deploy", 2_000_000)
    assert out.at_ms == 1_700_000_009_456
    assert [each.kind for each in out.attempts] == ["call", "cancel"]
    assert [each.hash[2:4] for each in out.attempts] == ["55", "77"]


async def test_golden_fields(corner: Corner) -> None:
    """Lane and record have the golden fields when all has happened to them, and no others."""
    await in_pair(corner)
    await corner.lane().keep("w1", lease_ms=60_000, hold="funds")
    await corner.lane().raise_to(9)
    await corner.lane().retire("drain", "0x" + "Cd" * 20, by="0011223344556677")
    await add(corner, 3, 100, AttemptKind.CANCEL)
    await add(corner, 8, 101, AttemptKind.FILL)
    lane, records = await corner.stored_lane(), await corner.records()
    assert {name.decode() for name in lane} == {*GOLDEN["lane"]}
    assert {name.decode() for name in records[3]} == {*GOLDEN["nonce"]}
    assert {name.decode() for name in records[8]} == {*GOLDEN["nonce"]} - {"a1"}
    assert records[8][b"step"] == b"fill"


async def test_store_away() -> None:
    """Without a server every call of a lane says that the store is unavailable."""
    with EmbeddedValkey() as server:
        url = server.url
    client = connect(url, retries=0)
    try:
        lane = Corner(client).lane()
        for call in (
            lane.keep("w1", lease_ms=1, hold=""),
            lane.standing(),
            lane.raise_to(1),
            lane.retire("lift"),
            RedisLanes(client, Corner(client).keys).all(),
            RedisLanes(client, Corner(client).keys).knows(1, SENDER),
            RedisLanes(client, Corner(client).keys).remember(),
            lane.glances([1]),
            lane.read([1]),
            lane.states(["x"]),
            lane.attempts_of(intent(1)),
            lane.add_attempt(Outstanding(nonce=1), attempt(1), note="", worker="w"),
        ):
            with pytest.raises(StoreUnavailableError):
                await call
    finally:
        await client.aclose()
