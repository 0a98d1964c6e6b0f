"""Puts the parts together: the only place, with the commands, that knows states and adapters."""

import asyncio
import random
import secrets
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec
import structlog

from adapters.chain import EvmChain
from adapters.chain_history import ChainHistory
from adapters.http_server import HttpServer
from adapters.otel import build_telemetry
from adapters.preflight import check_chain, check_redis
from adapters.redis_client import connect
from adapters.redis_journal import RedisJournal
from adapters.redis_queue import RedisQueue
from adapters.rpc import RpcClient
from adapters.signer import LocalSigner
from adapters.strategies import Create2Strategy, ManagerStrategy, Strategy
from adapters.watcher import BlockWatcher
from saga.config import Settings
from saga.engine import Engine
from saga.errors import ConfigError
from saga.events import network_name
from saga.orchestrator import Orchestrator
from saga.store import redis_keys
from states.table import TABLE

_log = structlog.get_logger("saga")


class ChainParts(msgspec.Struct, frozen=True):
    """The chain side of one process."""

    chain: EvmChain
    watcher: BlockWatcher
    chain_id: int
    network: str


@asynccontextmanager
async def open_chain(settings: Settings) -> AsyncIterator[ChainParts]:
    """Connect to the node. Raises ConfigError, a line for each problem."""
    try:
        signer = LocalSigner(settings.DEPLOYER_PRIVATE_KEY.get_secret_value())
    except ValueError as error:
        raise ConfigError([str(error)]) from None
    rpc = RpcClient(settings.WEB3_PROVIDER_URL.get_secret_value())
    try:
        chain_id, problems = await check_chain(
            rpc,
            expected_chain=settings.CHAIN_ID,
            sender=signer.address,
            registry=settings.MODEL_REGISTRY_ADDRESS,
            manager=settings.TOKEN_MANAGER_ADDRESS,
            create2=settings.DEPLOY_STRATEGY == "create2",
        )
        if problems:
            raise ConfigError(problems)
        watcher = BlockWatcher(
            rpc,
            signer.address,
            confirmations=settings.CONFIRMATIONS,
            poll_seconds=settings.POLL_SECONDS,
        )
        chain = EvmChain(
            rpc,
            watcher,
            ChainHistory(rpc, watcher, from_block=settings.CONTRACTS_FROM_BLOCK),
            signer,
            _strategy(settings, chain_id),
            chain_id=chain_id,
            registry=settings.MODEL_REGISTRY_ADDRESS,
        )
        yield ChainParts(chain, watcher, chain_id, network_name(chain_id, settings.NETWORK_NAME))
    finally:
        await rpc.close()


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


async def run(settings: Settings) -> None:
    """Run one replica until SIGTERM or SIGINT. Raises ConfigError before the first message."""
    worker = worker_name()
    async with AsyncExitStack() as stack:
        url = settings.REDIS_URL.get_secret_value()
        client = connect(url)
        stack.push_async_callback(client.aclose)
        parts, problems = await _open_parts(settings, stack, await check_redis(client))
        if parts is None:
            raise ConfigError(problems)
        keys = redis_keys(settings)
        queue = RedisQueue(url, client, keys)
        stack.push_async_callback(queue.close)
        telemetry = build_telemetry(inbound_queue=settings.INBOUND_QUEUE, worker=worker)
        stack.push_async_callback(telemetry.shutdown, 2.0)
        http = HttpServer(settings.HTTP_PORT)
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
        watching = asyncio.create_task(parts.watcher.run(), name="watcher")
        _log.info("started", worker=worker, network=parts.network, chain_id=parts.chain_id)
        watching.add_done_callback(lambda _: orchestrator.stop())
        try:
            await orchestrator.run()
        finally:
            if watching.done():
                watching.result()  # a bug of ours: end with it
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)


async def _open_parts(
    settings: Settings, stack: AsyncExitStack, problems: list[str]
) -> tuple[ChainParts | None, list[str]]:
    """All problems at once, those of Redis first."""
    try:
        parts = await stack.enter_async_context(open_chain(settings))
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
