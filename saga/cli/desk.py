"""What the `saga chain` commands work with: Redis, nodes, key and lane, without a replica."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec

from adapters.fee_oracle import FeeOracle
from adapters.log_setup import configure_logging
from adapters.preflight import check_chain
from adapters.redis_lane import RedisLane
from adapters.redis_views import RedisViews
from adapters.rpc_pool import RpcPool
from adapters.signer import Signer
from saga.config import Settings
from saga.errors import ConfigError
from saga.events import network_name
from saga.fees import Limits
from saga.signers import open_signers
from saga.store import open_store, redis_keys

ETHER = 10**18
_NODE_PROBLEM = ("WEB3_PROVIDER_URL: ", "CHAIN_ID is ")


class Desk(msgspec.Struct, frozen=True, kw_only=True):
    """The lane of the configured key on the chain of the configured nodes."""

    views: RedisViews
    lane: RedisLane
    rpc: RpcPool
    oracle: FeeOracle
    signer: Signer
    limits: Limits
    chain_id: int
    network: str
    problems: Sequence[str]
    """What keeps `saga run` from starting here, a line each."""


@asynccontextmanager
async def open_desk(settings: Settings) -> AsyncIterator[Desk]:
    """Raises ConfigError when no node answers. That contracts, roles or funds are missing is no
    reason to know nothing of the lane."""
    configure_logging("ERROR", settings.LOG_FORMAT)
    async with AsyncExitStack() as stack:
        (signer,) = await stack.enter_async_context(open_signers(settings))
        rpc = RpcPool(settings.rpc_urls, expected_chain=settings.CHAIN_ID)
        stack.push_async_callback(rpc.close)
        chain_id, problems = await check_chain(
            rpc,
            expected_chain=settings.CHAIN_ID,
            sender=signer.address,
            registry=settings.MODEL_REGISTRY_ADDRESS,
            manager=settings.TOKEN_MANAGER_ADDRESS,
            create2=settings.DEPLOY_STRATEGY == "create2",
            finality=settings.CONFIRMATIONS is None,
        )
        if of_nodes := [line for line in problems if line.startswith(_NODE_PROBLEM)]:
            raise ConfigError(of_nodes)
        views, _ = await stack.enter_async_context(open_store(settings))
        yield Desk(
            views=views,
            lane=RedisLane(
                views.client, redis_keys(settings), chain_id=chain_id, sender=signer.address
            ),
            rpc=rpc,
            oracle=FeeOracle(
                rpc,
                percentile=settings.FEE_PERCENTILE,
                tip_floor=settings.tip_floor(chain_id),
            ),
            signer=signer,
            limits=settings.limits(chain_id),
            chain_id=chain_id,
            network=network_name(chain_id, settings.NETWORK_NAME),
            problems=problems,
        )


def ether(wei: int) -> str:
    """Exact, without trailing zeros: 1500000000000000000 → "1.5"."""
    whole, rest = divmod(wei, ETHER)
    return f"{whole}.{rest:018}".rstrip("0").rstrip(".")
