"""What the `saga chain` commands work with: Redis, nodes, key and lane, without a replica."""

import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec
from redis.asyncio import Redis

from adapters.fee_oracle import FeeOracle
from adapters.log_setup import configure_logging
from adapters.redis_lane import RedisLane
from adapters.redis_lanes import RedisLanes
from adapters.redis_views import RedisViews
from adapters.rpc_pool import RpcPool
from adapters.signer import Signer
from saga.chain_parts import check_settings, price_feed
from saga.cli.run import RECURSION_LIMIT
from saga.config import Settings
from saga.errors import ConfigError
from saga.events import network_name
from saga.fees import Budget, Limits
from saga.signers import open_signers
from saga.store import open_store, redis_keys

_NODE_PROBLEM = ("WEB3_PROVIDER_URL: ", "CHAIN_ID is ")


class Desk(msgspec.Struct, frozen=True, kw_only=True):
    """The lane of a configured key on the chain of the configured nodes."""

    views: RedisViews
    lanes: RedisLanes
    lane: RedisLane
    rpc: RpcPool
    oracle: FeeOracle
    signer: Signer
    limits: Limits
    """With the native token's price as it was when the desk was opened."""
    chain_id: int
    network: str
    problems: Sequence[str]
    """What keeps `saga run` from starting here, a line each."""
    keys: Mapping[str, tuple[Signer, RedisLane]]
    """Address → what is used of each configured key, the first one's `signer` and `lane` too."""

    def of(self, sender: str) -> "Desk | None":
        """The same for another of the configured keys; None when it is none of them."""
        if sender not in self.keys:
            return None
        signer, lane = self.keys[sender]
        return msgspec.structs.replace(self, signer=signer, lane=lane)

    def each(self) -> Iterator["Desk"]:
        """One for every configured key."""
        for signer, lane in self.keys.values():
            yield msgspec.structs.replace(self, signer=signer, lane=lane)


@asynccontextmanager
async def open_desk(settings: Settings) -> AsyncIterator[Desk]:
    """Raises ConfigError when no node answers. That contracts, roles or funds are missing is no
    reason to know nothing of the lane.

    SIDE EFFECTS: asks for the native token's price once, where the settings say whom, and keeps it
    in Redis as a replica does; sets the process's limit of recursion.
    """
    configure_logging("ERROR", settings.LOG_FORMAT)
    async with AsyncExitStack() as stack:
        signers = await stack.enter_async_context(open_signers(settings))
        rpc = RpcPool(settings.rpc_urls, expected_chain=settings.CHAIN_ID)
        stack.push_async_callback(rpc.close)
        chain_id, found = await check_settings(settings, rpc, signers)
        problems = [str(line) for line in found]  # a command does not wait for what is absent
        if of_nodes := [line for line in problems if line.startswith(_NODE_PROBLEM)]:
            raise ConfigError(of_nodes)
        views, _ = await stack.enter_async_context(open_store(settings))
        lanes = RedisLanes(views.client, redis_keys(settings), durability=settings.REDIS_DURABILITY)
        keys = {each.address: (each, lanes.lane(chain_id, each.address)) for each in signers}
        signer, lane = next(iter(keys.values()))
        yield Desk(
            views=views,
            lanes=lanes,
            lane=lane,
            rpc=rpc,
            oracle=FeeOracle(
                rpc,
                percentile=settings.FEE_PERCENTILE,
                tip_floor=settings.tip_floor(chain_id),
            ),
            signer=signer,
            limits=await _limits(settings, views.client, chain_id),
            chain_id=chain_id,
            network=network_name(chain_id, settings.NETWORK_NAME),
            problems=problems,
            keys=keys,
        )


async def _limits(settings: Settings, client: "Redis", chain_id: int) -> Limits:
    """As a replica would have them now."""
    # Libraries of signers raise it, to where an answer that nests deep ends the process.
    sys.setrecursionlimit(RECURSION_LIMIT)
    feed = price_feed(settings, client)
    try:
        await feed.look()
        return Budget(settings.limits(chain_id), lambda: feed.usd).limits
    finally:
        await feed.close()
