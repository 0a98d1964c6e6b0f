"""Laws of transactions of our key that wait on the node and that Redis does not know."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from adapters import preflight
from adapters.embedded import DEV_ACCOUNT, EmbeddedValkey
from adapters.preflight import check_pending
from saga.errors import HeldError
from saga.model import Step
from tests.support.chain import STRANGER, Node, chain_side
from tests.support.fleet import Fleet, message
from tests.support.lane import lane_side


@pytest.fixture(autouse=True)
def _undone(node: Node, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(preflight, "PENDING_LOOK_SECONDS", 0.0)
    with node.rolled_back():
        node.hold_blocks()
        yield


def send_as_a_stranger(node: Node) -> None:
    """A transaction of our key that this service has not made."""
    node.request("eth_sendTransaction", {"from": DEV_ACCOUNT, "to": STRANGER})


async def test_nothing_waits(node: Node, valkey: EmbeddedValkey) -> None:
    """Where nothing waits, or only what Redis knows, nothing is said."""
    async with lane_side(node, valkey.url) as lane:
        assert (
            await check_pending(lane.side.rpc, lane.lane, "DEPLOYER_PRIVATE_KEY", adopt=False) == []
        )
        saga = await lane.intended("known")
        await lane.side.chain.send(saga, Step.DEPLOY)
        assert lane.in_pool == 1
        assert (
            await check_pending(lane.side.rpc, lane.lane, "DEPLOYER_PRIVATE_KEY", adopt=False) == []
        )


async def test_unknown_ones_are_named(node: Node, valkey: EmbeddedValkey) -> None:
    """Unknown ones are one line: how many, which nonces, whose, and the two ways out."""
    async with lane_side(node, valkey.url) as lane:
        send_as_a_stranger(node)
        send_as_a_stranger(node)
        (line,) = await check_pending(lane.side.rpc, lane.lane, "DEPLOYER_PRIVATE_KEY", adopt=False)
    first = node.nonce()
    assert f"2 transaction(s) of {DEV_ACCOUNT}" in line
    assert f"nonces {first} to {first + 1}" in line
    assert "--adopt-pending" in line


async def test_adopted_ones_are_passed_over(node: Node, valkey: EmbeddedValkey) -> None:
    """With --adopt-pending the lane begins behind them, and both kinds are mined."""
    async with lane_side(node, valkey.url) as lane:
        send_as_a_stranger(node)
        assert (
            await check_pending(lane.side.rpc, lane.lane, "DEPLOYER_PRIVATE_KEY", adopt=True) == []
        )
        saga = await lane.intended("behind")
        assert saga.deploy is not None
        assert saga.deploy.nonce == node.nonce() + 1
        await lane.side.chain.send(saga, Step.DEPLOY)
        node.mine()
        assert node.nonce() == saga.deploy.nonce + 1


async def test_a_lost_lane_waits(node: Node, valkey: EmbeddedValkey) -> None:
    """A lane that Redis has lost is begun again only when nothing unknown waits on the node."""
    async with (
        lane_side(node, valkey.url) as lane,
        chain_side(node, watching=False, adopt_pending=False) as strict,
    ):
        saga = await lane.intended("lost")
        await lane.side.chain.send(saga, Step.DEPLOY)
        with pytest.raises(HeldError, match="unknown to Redis") as held:
            await strict.lane.known_nonces()
        assert held.value.hold == "unknown_pending"
        node.mine()
        assert await strict.lane.known_nonces() == node.nonce()


def test_run_refuses(node: Node, valkey: EmbeddedValkey, tmp_path: Path) -> None:
    """`saga run` ends with status 2 and that line; nothing has been taken."""
    with Redis.from_url(valkey.url) as client:
        client.flushall()
    send_as_a_stranger(node)
    with Fleet(valkey.url, node.url, node.contracts, tmp_path) as fleet:
        fleet.send([message("waits")])
        assert fleet.start().wait(60) == 2
        with fleet.redis as client:
            assert client.llen(fleet.settings.INBOUND_QUEUE) == 1
    (line,) = (tmp_path / "replica-0.log").read_text("utf-8").splitlines()
    assert line.startswith("saga: DEPLOYER_PRIVATE_KEY: 1 transaction(s)")
