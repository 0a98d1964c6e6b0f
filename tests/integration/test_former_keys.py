"""Laws of keys that signed here before and have something out: nobody begins beside them."""

from collections.abc import Collection, Iterator, Sequence

import pytest

from adapters.embedded import DEV_ACCOUNT, EmbeddedValkey, free_port
from adapters.former_keys import abandon, check_former_keys
from adapters.redis_lanes import RedisLanes
from adapters.rpc_pool import RpcPool
from saga.model import Step
from tests.support.chain import STRANGER, Node
from tests.support.lane import LaneSide, lane_side

THIRD = "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC"


@pytest.fixture(autouse=True)
def _undone(node: Node) -> Iterator[None]:
    with node.rolled_back():
        node.hold_blocks()
        yield


def lanes_of(lane: LaneSide) -> RedisLanes:
    return RedisLanes(lane.corner.client, lane.corner.keys)


async def refusals(
    lane: LaneSide,
    *senders: str,
    abandoned: Collection[str] = (),
    rpc: RpcPool | None = None,
    chain_id: int | None = None,
) -> Sequence[str]:
    """What a start with these keys is told."""
    return await check_former_keys(
        lane.side.rpc if rpc is None else rpc,
        lanes_of(lane),
        lane.node.chain_id if chain_id is None else chain_id,
        senders or (STRANGER,),
        "DEPLOYER_KEYSTORE",
        abandoned=abandoned,
    )


async def left_out(lane: LaneSide, *models: str) -> int:
    """A lane of the development key, once kept, with a nonce out for each model; the first."""
    await lane.lane.keep("w1", lease_ms=1, hold="")
    for model in models:
        saga = await lane.intended(model)
        await lane.side.chain.send(saga, Step.DEPLOY)
    return lane.node.nonce()


async def test_nothing_before(node: Node, valkey: EmbeddedValkey) -> None:
    """Where no other key ever signed, nothing is said."""
    async with lane_side(node, valkey.url) as lane:
        assert await refusals(lane) == []
        await left_out(lane, "own")
        assert await refusals(lane, DEV_ACCOUNT) == []
        assert await refusals(lane, DEV_ACCOUNT.lower()) == []


async def test_what_is_out_refuses(node: Node, valkey: EmbeddedValkey) -> None:
    """A former key with nonces out is one line: which key, which nonces, and both ways on."""
    async with lane_side(node, valkey.url) as lane:
        first = await left_out(lane, "one")
        (line,) = await refusals(lane)
        assert line.startswith(f"DEPLOYER_KEYSTORE: the former key {DEV_ACCOUNT} has nonce {first}")
        await left_out(lane, "two")
        (line,) = await refusals(lane)
        assert f"has nonces {first} to {first + 1} out: " in line
        assert f"`saga keys rotate --from {DEV_ACCOUNT} --to {STRANGER}`" in line
        assert f"`saga run --abandon-key {DEV_ACCOUNT}`" in line
        # Beside the former key there is nothing to refuse.
        assert await refusals(lane, STRANGER, DEV_ACCOUNT) == []


async def test_what_was_never_sent_refuses(node: Node, valkey: EmbeddedValkey) -> None:
    """A nonce whose bytes no node has is out as well: the next start would send them."""
    async with lane_side(node, valkey.url) as lane:
        await lane.lane.keep("w1", lease_ms=1, hold="")
        await lane.intended("unsent")
        assert lane.in_pool == 0
        assert len(await refusals(lane)) == 1


async def test_what_is_spent_refuses_nothing(node: Node, valkey: EmbeddedValkey) -> None:
    """A lane without anything out never refuses, whoever spent its nonces."""
    async with lane_side(node, valkey.url) as lane:
        await left_out(lane, "mined")
        node.mine()
        assert await refusals(lane) == []
        node.request("eth_sendTransaction", {"from": DEV_ACCOUNT, "to": STRANGER})
        node.mine()
        assert await refusals(lane) == []


async def test_keys_of_releases_before(node: Node, valkey: EmbeddedValkey) -> None:
    """A lane of a release that kept no list of lanes is found, and after the first start without
    looking through Redis."""
    async with lane_side(node, valkey.url) as lane:
        await lane.intended("old")
        client, keys, lanes = lane.corner.client, lane.corner.keys, lanes_of(lane)
        assert await client.smembers(keys.lanes) == set()
        for _ in range(2):
            (line,) = await refusals(lane)
            assert f"the former key {DEV_ACCOUNT} has nonce " in line
            assert (await client.exists(keys.lanes_listed)) == 0
        await lanes.remember()
        (line,) = await refusals(lane)
        assert f"the former key {DEV_ACCOUNT} has nonce " in line


async def test_each_has_its_line(node: Node, valkey: EmbeddedValkey) -> None:
    """Of several former keys each is named; of other chains none."""
    async with lane_side(node, valkey.url) as lane:
        await left_out(lane, "first")
        for chain_id, sender in ((node.chain_id, THIRD), (1, STRANGER)):
            other = lanes_of(lane).lane(chain_id, sender)
            await other.keep("w1", lease_ms=1, hold="")
            await other.raise_to(3)
        lines = await refusals(lane)
        assert {key for key in (DEV_ACCOUNT, THIRD) if key in "".join(lines)} == {
            DEV_ACCOUNT,
            THIRD,
        }
        assert len(lines) == 2
        assert await refusals(lane, STRANGER, chain_id=5) == []


async def test_a_drain_is_waited_for(node: Node, valkey: EmbeddedValkey) -> None:
    """A former key that is being drained refuses until it is, and its own replicas may start."""
    async with lane_side(node, valkey.url) as lane:
        await left_out(lane, "draining")
        await lane.lane.retire("drain", STRANGER)
        (line,) = await refusals(lane)
        assert "out and is being drained: " in line
        assert await refusals(lane, DEV_ACCOUNT) == []
        node.mine()
        assert await refusals(lane) == []


async def test_a_retired_key_refuses(node: Node, valkey: EmbeddedValkey) -> None:
    """A key that was handed over does not start again by itself: the line says to whom, and how
    it is handed back."""
    async with lane_side(node, valkey.url) as lane:
        await lane.lane.retire("drain", STRANGER)
        await lane.lane.retire("finish", STRANGER)
        (line,) = await refusals(lane, DEV_ACCOUNT)
        assert line.startswith(f"DEPLOYER_KEYSTORE: {DEV_ACCOUNT} is retired")
        assert f"its work went to {STRANGER}" in line
        assert f"`saga keys rotate --from {STRANGER} --to {DEV_ACCOUNT}`" in line
        # That fails where the new address was mistyped.
        assert f"`saga keys rotate --to {DEV_ACCOUNT}`, run with these settings, lifts" in line
        (line,) = await refusals(lane, DEV_ACCOUNT, THIRD)
        assert f"`saga keys rotate --to {DEV_ACCOUNT} --from {DEV_ACCOUNT}`, run with" in line
        assert await refusals(lane) == []
        await lane.lane.retire("lift")
        assert await refusals(lane, DEV_ACCOUNT) == []


async def test_a_lost_key_is_abandoned(node: Node, valkey: EmbeddedValkey) -> None:
    """A lost key is no obstacle once it is named, and no other key is let through with it. Only
    when nothing else stands in the way it is given up: the starts after that need not name it."""
    async with lane_side(node, valkey.url) as lane:
        await left_out(lane, "lost")
        other = lanes_of(lane).lane(node.chain_id, THIRD)
        await other.keep("w1", lease_ms=1, hold="")
        await other.raise_to(3)
        before = await lane.corner.contents()
        (line,) = await refusals(lane, abandoned=[DEV_ACCOUNT.lower()])
        assert THIRD in line
        assert await lane.corner.contents() == before
        lanes = lanes_of(lane)
        await abandon(lanes, node.chain_id, [DEV_ACCOUNT.lower()], STRANGER)
        assert (await lane.lane.standing()).retired == f"retired:{STRANGER}"
        assert (await lane.lane.standing()).retired_by == "abandon"
        assert await lanes.is_retired(node.chain_id, DEV_ACCOUNT)
        assert (await other.standing()).retired == ""
        (line,) = await refusals(lane)
        assert THIRD in line


async def test_a_handed_over_key_is_not_abandoned(node: Node, valkey: EmbeddedValkey) -> None:
    """A lane that has another owner keeps it, whoever names it as lost."""
    async with lane_side(node, valkey.url) as lane:
        await lane.lane.retire("drain", THIRD)
        await lane.lane.retire("finish", THIRD)
        assert await refusals(lane, abandoned=[DEV_ACCOUNT]) == []
        await abandon(lanes_of(lane), node.chain_id, [DEV_ACCOUNT], STRANGER)
        standing = await lane.lane.standing()
        assert (standing.retired, standing.retired_by) == (f"retired:{THIRD}", "")


async def test_an_own_key_is_not_abandoned(node: Node, valkey: EmbeddedValkey) -> None:
    """A key that signs here is no lost one, nor is an address that never did."""
    async with lane_side(node, valkey.url) as lane:
        (line,) = await refusals(lane, DEV_ACCOUNT, abandoned=[DEV_ACCOUNT])
        assert line.startswith(f"--abandon-key: {DEV_ACCOUNT} is a key that signs here")
        await lane.lane.keep("w1", lease_ms=1, hold="")
        (line,) = await refusals(lane, abandoned=[DEV_ACCOUNT, THIRD])
        assert line.startswith(f"--abandon-key: {THIRD} never signed here on chain ")


async def test_no_node(node: Node, valkey: EmbeddedValkey) -> None:
    """Without a node nothing is let through: one line, without the URL's path."""
    async with lane_side(node, valkey.url) as lane:
        await left_out(lane, "unseen")
        rpc = RpcPool([f"http://127.0.0.1:{free_port()}/v3/topsecret"])
        try:
            (line,) = await refusals(lane, rpc=rpc)
        finally:
            await rpc.close()
        assert line.startswith("WEB3_PROVIDER_URL: http://127.0.0.1:")
        assert "topsecret" not in line
