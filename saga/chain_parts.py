"""The chain side of one process: nodes, signers, their lanes and keepers."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec
from redis.asyncio import Redis

from adapters.chain import EvmChain
from adapters.chain_history import ChainHistory
from adapters.chain_lane import ChainLane
from adapters.fee_oracle import FeeOracle
from adapters.gas import GasBook
from adapters.keeper import Keeper
from adapters.lookup import Lookup
from adapters.metrics import Metrics
from adapters.preflight import check_chain
from adapters.price_feed import PriceFeed
from adapters.purse import Purse
from adapters.redis_lane import RedisLane
from adapters.redis_price import RedisPrice
from adapters.rpc_pool import RpcPool
from adapters.signer import Signer
from adapters.strategies import Create2Strategy, ManagerStrategy, Strategy
from adapters.watcher import BlockWatcher
from saga.config import Settings
from saga.errors import ConfigError, SignerError
from saga.events import network_name
from saga.fees import Budget
from saga.signers import open_signers
from saga.store import redis_keys


class ChainParts(msgspec.Struct, frozen=True):
    """The chain side of one process. `lanes` and `stores` are in the same order."""

    chain: EvmChain
    watcher: BlockWatcher
    rpc: RpcPool
    oracle: FeeOracle
    purse: Purse
    budget: Budget
    feed: PriceFeed
    lanes: Sequence[ChainLane]
    stores: Sequence[RedisLane]
    """Of each lane, its part in Redis."""
    chain_id: int
    network: str


@asynccontextmanager
async def open_chain(
    settings: Settings,
    client: "Redis",
    *,
    metrics: Metrics,
    adopt_pending: bool = False,
    signers: Sequence[Signer] | None = None,
) -> AsyncIterator[ChainParts]:
    """Connect to the nodes, and find every key usable. Raises ConfigError, a line a problem.

    `signers`: those of the settings, where the caller has opened them: it can be done only once.
    """
    async with AsyncExitStack() as stack:
        if signers is None:
            signers = await stack.enter_async_context(open_signers(settings))
        rpc = RpcPool(settings.rpc_urls, expected_chain=settings.CHAIN_ID, meter=metrics.rpc)
        stack.push_async_callback(rpc.close)
        chain_id, problems = await check_settings(settings, rpc, signers)
        if not problems:
            problems = [line for each in signers if (line := await _unusable(each, chain_id))]
        if problems:
            raise ConfigError(problems)
        metrics.watch_endpoints(rpc.health)
        feed = price_feed(settings, client)
        stack.push_async_callback(feed.close)
        await feed.look()
        metrics.watch_price(feed)
        yield _parts(
            settings, client, rpc, signers, feed, chain_id, metrics, adopt_pending=adopt_pending
        )


def price_feed(settings: Settings, client: "Redis") -> PriceFeed:
    """The native token's price: given, asked for, or never known."""
    url = settings.NATIVE_TOKEN_USD_URL
    asked = None if url is None else url.get_secret_value()
    path, memory = settings.NATIVE_TOKEN_USD_PATH, None
    if asked is not None:
        memory = RedisPrice(client, redis_keys(settings), url=asked, path=path)
    return PriceFeed(fixed=settings.NATIVE_TOKEN_USD, url=asked, path=path, memory=memory)


async def check_settings(
    settings: Settings, rpc: RpcPool, signers: Sequence[Signer]
) -> tuple[int, list[str]]:
    """The chain id, and what is wrong with nodes, contracts, roles and balances."""
    return await check_chain(
        rpc,
        expected_chain=settings.CHAIN_ID,
        senders=[signer.address for signer in signers],
        source=settings.source,
        registry=settings.MODEL_REGISTRY_ADDRESS,
        manager=settings.TOKEN_MANAGER_ADDRESS,
        create2=settings.DEPLOY_STRATEGY == "create2",
        finality=settings.CONFIRMATIONS is None,
    )


async def _unusable(signer: Signer, chain_id: int) -> str | None:
    """Why a key cannot sign now; what is disabled or denied is better known before a message."""
    try:
        await signer.prove(chain_id)
    except SignerError as error:
        return f"{signer.kind} of {signer.address}: {error}"
    return None


def _parts(
    settings: Settings,
    client: "Redis",
    rpc: RpcPool,
    signers: Sequence[Signer],
    feed: PriceFeed,
    chain_id: int,
    metrics: Metrics,
    *,
    adopt_pending: bool,
) -> ChainParts:
    senders = [signer.address for signer in signers]
    stores = [
        RedisLane(
            client,
            redis_keys(settings),
            chain_id=chain_id,
            sender=sender,
            durability=settings.REDIS_DURABILITY,
        )
        for sender in senders
    ]
    watcher = BlockWatcher(
        rpc,
        senders,
        confirmations=settings.CONFIRMATIONS,
        poll_seconds=settings.POLL_SECONDS,
        attempts_of=stores[0].attempts_of,
    )
    watcher.pushing = lambda: rpc.pushing
    watcher.native_usd = lambda: feed.usd
    rpc.on_head = watcher.pushed
    purse = Purse(
        rpc,
        senders,
        metrics,
        least=settings.MIN_BALANCE_WEI,
        poll_seconds=settings.POLL_SECONDS,
        busy=lambda: watcher.busy,
    )
    lanes = [
        ChainLane(rpc, watcher, signer, purse, chain_id=chain_id, adopt_pending=adopt_pending)
        for signer in signers
    ]
    gas = GasBook(rpc, _sender(lanes))
    lookup = Lookup(
        rpc,
        ChainHistory(rpc, watcher, from_block=settings.CONTRACTS_FROM_BLOCK),
        gas,
        _strategy(settings, chain_id),
        registry=settings.MODEL_REGISTRY_ADDRESS,
        stand_in=settings.TOKEN_MANAGER_ADDRESS,
        # A pair needs room for two.
        pipelined=settings.PIPELINE_REGISTRATION and settings.MAX_IN_FLIGHT != 1,
    )
    oracle = FeeOracle(
        rpc, percentile=settings.FEE_PERCENTILE, tip_floor=settings.tip_floor(chain_id)
    )
    budget = Budget(settings.limits(chain_id), lambda: feed.usd)
    chain = EvmChain(rpc, watcher, lookup, gas, oracle, budget, lanes)
    purse.on_look = chain.balance_seen
    return ChainParts(
        chain=chain,
        watcher=watcher,
        rpc=rpc,
        oracle=oracle,
        purse=purse,
        budget=budget,
        feed=feed,
        lanes=lanes,
        stores=stores,
        chain_id=chain_id,
        network=network_name(chain_id, settings.NETWORK_NAME),
    )


def _sender(lanes: Sequence[ChainLane]) -> Callable[[], str]:
    """In whose name calls are simulated: one that can pay, where any can."""
    return lambda: next((each for each in lanes if each.hold(0) is None), lanes[0]).address


def _strategy(settings: Settings, chain_id: int) -> Strategy:
    if settings.DEPLOY_STRATEGY == "manager":
        return ManagerStrategy(settings.TOKEN_MANAGER_ADDRESS)
    return Create2Strategy(
        registry=settings.MODEL_REGISTRY_ADDRESS,
        manager=settings.TOKEN_MANAGER_ADDRESS,
        owner=settings.TOKEN_OWNER_ADDRESS or settings.TOKEN_MANAGER_ADDRESS,
        chain_id=chain_id,
    )


def keepers_of(
    settings: Settings, parts: ChainParts, metrics: Metrics, worker: str
) -> list[Keeper]:
    """A keeper for each lane; what it holds, the chain's waits say."""
    return [
        Keeper(
            store,
            parts.rpc,
            lane.signer,
            parts.oracle,
            parts.budget,
            settings.pace,
            metrics.lane(lane.address),
            worker=worker,
            chain_id=parts.chain_id,
            lease_seconds=settings.LEASE_SECONDS,
            on_hold=lane.kept_by,
        )
        for lane, store in zip(parts.lanes, parts.stores, strict=True)
    ]
