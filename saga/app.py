"""Puts the parts together: the only place, with the commands, that knows states and adapters."""

import asyncio
import random
import secrets
import signal
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import msgspec
import structlog
from redis.asyncio import Redis

from adapters.chain import EvmChain
from adapters.chain_history import ChainHistory
from adapters.fee_oracle import FeeOracle
from adapters.gas import GasBook
from adapters.http_server import HttpServer
from adapters.keeper import Keeper
from adapters.lookup import Lookup
from adapters.metrics import Metrics
from adapters.otel import build_telemetry
from adapters.preflight import check_chain, check_pending, check_redis
from adapters.redis_client import connect
from adapters.redis_journal import RedisJournal
from adapters.redis_lane import RedisLane
from adapters.redis_queue import RedisQueue
from adapters.rpc_pool import RpcPool
from adapters.signer import Signer
from adapters.strategies import Create2Strategy, ManagerStrategy, Strategy
from adapters.watcher import BlockWatcher
from saga.config import Settings
from saga.engine import Engine
from saga.errors import ConfigError
from saga.events import network_name
from saga.fees import Limits
from saga.orchestrator import Orchestrator
from saga.signers import open_signers
from saga.store import redis_keys
from states.table import TABLE

RESIGN_SECONDS = 1.0
"""At the end, for giving the lane up; else its lease runs out."""
_log = structlog.get_logger("saga")


class ChainParts(msgspec.Struct, frozen=True):
    """The chain side of one process."""

    chain: EvmChain
    watcher: BlockWatcher
    rpc: RpcPool
    oracle: FeeOracle
    signer: Signer
    lane: RedisLane
    limits: Limits
    chain_id: int
    network: str


@asynccontextmanager
async def open_chain(
    settings: Settings, client: "Redis", *, metrics: Metrics, adopt_pending: bool = False
) -> AsyncIterator[ChainParts]:
    """Connect to the nodes. Raises ConfigError, a line for each problem."""
    async with AsyncExitStack() as stack:
        (signer,) = await stack.enter_async_context(open_signers(settings))
        rpc = RpcPool(settings.rpc_urls, expected_chain=settings.CHAIN_ID, meter=metrics.rpc)
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
        if problems:
            raise ConfigError(problems)
        metrics.watch_endpoints(rpc.health)
        yield _chain_parts(settings, client, rpc, signer, chain_id, adopt_pending=adopt_pending)


def _chain_parts(
    settings: Settings,
    client: "Redis",
    rpc: RpcPool,
    signer: Signer,
    chain_id: int,
    *,
    adopt_pending: bool,
) -> ChainParts:
    lane = RedisLane(client, redis_keys(settings), chain_id=chain_id, sender=signer.address)
    watcher = BlockWatcher(
        rpc,
        signer.address,
        confirmations=settings.CONFIRMATIONS,
        poll_seconds=settings.POLL_SECONDS,
        attempts_of=lane.attempts_of,
    )
    watcher.pushing = lambda: rpc.pushing
    rpc.on_head = watcher.pushed
    gas = GasBook(rpc, signer.address)
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
    limits = settings.limits(chain_id)
    chain = EvmChain(
        rpc,
        watcher,
        lookup,
        gas,
        oracle,
        limits,
        signer,
        chain_id=chain_id,
        adopt_pending=adopt_pending,
    )
    return ChainParts(
        chain=chain,
        watcher=watcher,
        rpc=rpc,
        oracle=oracle,
        signer=signer,
        lane=lane,
        limits=limits,
        chain_id=chain_id,
        network=network_name(chain_id, settings.NETWORK_NAME),
    )


def _strategy(settings: Settings, chain_id: int) -> Strategy:
    if settings.DEPLOY_STRATEGY == "manager":
        return ManagerStrategy(settings.TOKEN_MANAGER_ADDRESS)
    return Create2Strategy(
        registry=settings.MODEL_REGISTRY_ADDRESS,
        manager=settings.TOKEN_MANAGER_ADDRESS,
        owner=settings.TOKEN_OWNER_ADDRESS or settings.TOKEN_MANAGER_ADDRESS,
        chain_id=chain_id,
    )


def worker_name() -> str:
    """Names this process in histories, and makes its leases unlike any other's."""
    return f"{socket.gethostname()}-{secrets.token_hex(4)}"


async def run(settings: Settings, *, adopt_pending: bool = False) -> None:
    """Run one replica until SIGTERM or SIGINT. Raises ConfigError before the first message."""
    worker = worker_name()
    metrics = Metrics()
    async with AsyncExitStack() as stack:
        url = settings.REDIS_URL.get_secret_value()
        client = connect(url)
        stack.push_async_callback(client.aclose)
        opening = open_chain(settings, client, metrics=metrics, adopt_pending=adopt_pending)
        parts, problems = await _open_parts(opening, stack, await check_redis(client))
        if parts is None:
            raise ConfigError(problems)
        if problems := await check_pending(parts.rpc, parts.lane, adopt=adopt_pending):
            raise ConfigError(problems)
        keys = redis_keys(settings)
        queue = RedisQueue(url, client, keys)
        stack.push_async_callback(queue.close)
        telemetry = build_telemetry(
            inbound_queue=settings.INBOUND_QUEUE, worker=worker, on_hold=metrics.held
        )
        stack.push_async_callback(telemetry.shutdown, 2.0)
        http = HttpServer(settings.HTTP_PORT, metrics.exposition)
        await _serve(http, settings.HTTP_PORT)
        stack.push_async_callback(http.close)
        journal = RedisJournal(
            client,
            keys,
            worker=worker,
            lease_seconds=settings.LEASE_SECONDS,
            retention_seconds=settings.SAGA_RETENTION,
            max_in_flight=settings.MAX_IN_FLIGHT,
        )
        engine = Engine(
            TABLE,
            journal,
            parts.chain,
            telemetry,
            settings.policy(parts.network),
            step_timeout_seconds=settings.DEPLOYMENT_TIMEOUT,
            rng=random.Random(),  # noqa: S311 - jitter
        )
        orchestrator = Orchestrator(
            engine,
            journal,
            queue,
            telemetry,
            pool_size=settings.WORKER_POOL_SIZE,
            lease_seconds=settings.LEASE_SECONDS,
            grace_seconds=settings.SHUTDOWN_GRACE_SECONDS,
        )
        _stop_on_signals(orchestrator)
        await parts.watcher.poll()
        _log.info("started", worker=worker, network=parts.network, chain_id=parts.chain_id)
        keeper = keeper_of(settings, parts, metrics, worker)
        try:
            await _beside([parts.watcher.run, parts.rpc.run, keeper.run], orchestrator)
        finally:
            with suppress(TimeoutError):  # a Redis that hangs must not keep the process
                async with asyncio.timeout(RESIGN_SECONDS):
                    await keeper.resign()


def keeper_of(settings: Settings, parts: ChainParts, metrics: Metrics, worker: str) -> Keeper:
    """The keeper of this process's lane; what it holds, the chain's waits say."""

    def on_hold(hold: str) -> None:
        parts.chain.hold = hold

    return Keeper(
        parts.lane,
        parts.rpc,
        parts.signer,
        parts.oracle,
        parts.limits,
        settings.pace,
        metrics,
        worker=worker,
        chain_id=parts.chain_id,
        lease_seconds=settings.LEASE_SECONDS,
        on_hold=on_hold,
    )


async def _beside(
    tasks: Sequence[Callable[[], Coroutine[Any, Any, None]]], orchestrator: Orchestrator
) -> None:
    """Run the orchestrator with what it needs around it; a bug that ends one of these ends all."""
    running = [asyncio.create_task(work(), name=work.__qualname__) for work in tasks]
    for task in running:
        task.add_done_callback(lambda _: orchestrator.stop())
    try:
        await orchestrator.run()
    finally:
        dead = [task for task in running if task.done()]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    for task in dead:
        task.result()


async def _open_parts(
    opening: AbstractAsyncContextManager[ChainParts], stack: AsyncExitStack, problems: list[str]
) -> tuple[ChainParts | None, list[str]]:
    """Connect to the chain too, so that one start names what is wrong on both sides."""
    try:
        parts = await stack.enter_async_context(opening)
    except ConfigError as error:
        return None, problems + error.problems
    return (None if problems else parts), problems


async def _serve(http: HttpServer, port: int) -> None:
    try:
        await http.start()
    except OSError as error:
        raise ConfigError([f"HTTP_PORT: {port} cannot be opened ({error.strerror})"]) from error


def _stop_on_signals(orchestrator: Orchestrator) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, orchestrator.stop)
