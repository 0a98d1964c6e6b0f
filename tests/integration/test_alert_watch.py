"""What the alert watch finds on a real chain and a real Redis."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import NamedTuple

import pytest

from adapters.alert_watch import AlertWatch
from adapters.alerts import AlertSender
from adapters.chain_lane import ChainLane
from adapters.embedded import DEV_ACCOUNT, EmbeddedValkey, free_port
from adapters.metrics import Metrics
from adapters.purse import Purse
from adapters.redis_alerts import RedisAlerts
from adapters.redis_client import connect
from saga.alerting import Thresholds
from saga.fees import ETHER
from tests.integration.lua.store import Corner, opened
from tests.support.chain import Node, chain_side
from tests.support.webhook import Webhook, webhook

THRESHOLDS = Thresholds(queue_depth=1, stall_seconds=600, stuck_seconds=300)


class Watched(NamedTuple):
    node: Node
    corner: Corner
    purse: Purse
    lane: ChainLane
    sender: AlertSender
    hook: Webhook
    clock: list[float]

    def watch(self, store: RedisAlerts | None = None) -> AlertWatch:
        store = store or RedisAlerts(self.corner.client, self.corner.keys, seconds=3600)
        return AlertWatch(
            self.sender,
            store,
            self.purse,
            [self.lane],
            THRESHOLDS,
            monotonic=lambda: self.clock[0],
        )

    async def told(self, count: int) -> list[str]:
        """The events of all that was sent, once so many were."""
        await self.hook.until(count)
        return [each["event"] for each in self.hook.documents]


@pytest.fixture
async def watched(node: Node, valkey: EmbeddedValkey) -> AsyncIterator[Watched]:
    """One lane whose signer is to keep an ether."""
    with node.rolled_back():
        async with (
            opened(valkey.url) as corner,
            webhook() as hook,
            chain_side(node, watching=False) as side,
        ):
            purse = Purse(
                side.rpc,
                [DEV_ACCOUNT],
                Metrics(),
                least=ETHER,
                poll_seconds=1,
                busy=lambda: True,
            )
            lane = ChainLane(side.rpc, side.watcher, side.signer, purse, chain_id=node.chain_id)
            sender = AlertSender(
                url=hook.url,
                secret=None,
                worker="w1",
                network="localhost",
                repeat_seconds=3600,
                meter=Metrics().alert,
            )
            task = asyncio.create_task(sender.run())
            yield Watched(node, corner, purse, lane, sender, hook, [0.0])
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            await sender.close()


async def test_balance(watched: Watched) -> None:
    """A balance below what is to be kept is told once, and that it is filled, once."""
    watch = watched.watch()
    await watched.purse.look()
    await watch.look()
    watched.node.request("anvil_setBalance", DEV_ACCOUNT, "0x1")
    await watched.purse.look()
    await watch.look()
    await watch.look()
    assert await watched.told(1) == ["low_balance"]
    watched.node.request("anvil_setBalance", DEV_ACCOUNT, hex(2 * ETHER))
    await watched.purse.look()
    await watch.look()
    await watch.look()
    assert await watched.told(2) == ["low_balance", "balance_filled"]
    assert DEV_ACCOUNT in watched.hook.documents[0]["reason"]


async def test_lane(watched: Watched) -> None:
    """What a keeper, here or elsewhere, holds for long is told with its reason."""
    watch = watched.watch()
    watched.lane.kept_by("base fee above MAX_FEE_GWEI", "")
    await watch.look()
    watched.clock[0] = 300
    await watch.look()
    assert await watched.told(1) == ["lane_stuck"]
    assert watched.hook.documents[0]["reason"].endswith(": base fee above MAX_FEE_GWEI")


async def test_queue(watched: Watched) -> None:
    """A queue that is too deep is told, and that nobody takes from it, after a while."""
    watch = watched.watch()
    await watched.corner.client.lpush(watched.corner.keys.inbound, "a", "b")
    await watch.look()
    assert await watched.told(1) == ["queue_depth"]
    watched.clock[0] = 600
    await watch.look()
    assert await watched.told(2) == ["queue_depth", "no_progress"]


async def test_redis_away(watched: Watched) -> None:
    """A Redis that is away ends no watch: it is what is told."""
    client = connect(f"redis://127.0.0.1:{free_port()}/0", retries=0)
    watch = watched.watch(RedisAlerts(client, watched.corner.keys, seconds=3600))
    watched.clock[0] = 600
    await watch.look()
    assert await watched.told(1) == ["no_progress"]
    assert watched.hook.documents[0]["reason"].endswith("while Redis does not answer")
    await client.aclose()
