"""Puts the parts together: the only place, with the commands, that knows states and adapters."""

import asyncio
import random
import secrets
import signal
import socket
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from typing import Any

import structlog

from adapters.chain_lane import ChainLane
from adapters.former_keys import abandon, check_former_keys
from adapters.http_server import HttpServer, Readiness
from adapters.metrics import Metrics
from adapters.otel import build_telemetry
from adapters.preflight import check_pending, check_redis
from adapters.redis_client import connect
from adapters.redis_journal import RedisJournal
from adapters.redis_lanes import RedisLanes
from adapters.redis_queue import RedisQueue
from adapters.redis_turns import RedisTurns
from saga.chain_parts import ChainParts, keepers_of, open_chain
from saga.config import Settings
from saga.dispatch import Dispatcher
from saga.engine import Engine
from saga.errors import ConfigError
from saga.orchestrator import Orchestrator
from saga.store import redis_keys
from saga.throttle import Throttle
from states.table import TABLE

RESIGN_SECONDS = 1.0
"""At the end, for giving the lane up; else its lease runs out."""
_log = structlog.get_logger("saga")


def worker_name() -> str:
    """Names this process in histories, and makes its leases unlike any other's."""
    return f"{socket.gethostname()}-{secrets.token_hex(4)}"


async def run(
    settings: Settings, *, adopt_pending: bool = False, abandoned: Sequence[str] = ()
) -> None:
    """Run one replica until SIGTERM or SIGINT. Raises ConfigError before the first message.

    `abandoned`: addresses of former keys that are lost.
    """
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
        keys = redis_keys(settings)
        for store in parts.stores:
            problems += await check_pending(parts.rpc, store, settings.source, adopt=adopt_pending)
        lanes = RedisLanes(client, keys)
        problems += await check_former_keys(
            parts.rpc,
            lanes,
            parts.chain_id,
            [lane.address for lane in parts.lanes],
            settings.source,
            abandoned=abandoned,
        )
        if problems:
            raise ConfigError(problems)
        parts.chain.is_abandoned = lanes.is_retired
        queue = RedisQueue(url, client, keys)
        stack.push_async_callback(queue.close)
        telemetry = build_telemetry(
            inbound_queue=settings.INBOUND_QUEUE, worker=worker, on_hold=metrics.held
        )
        stack.push_async_callback(telemetry.shutdown, 2.0)
        http = HttpServer(settings.HTTP_PORT, metrics.exposition, lambda: readiness(parts.lanes))
        await _serve(http, settings.HTTP_PORT)
        stack.push_async_callback(http.close)
        # Nothing is wrong any more: now, what a refused start must not change.
        await lanes.remember()
        await abandon(lanes, parts.chain_id, abandoned, parts.lanes[0].address)
        journal = RedisJournal(
            client,
            keys,
            worker=worker,
            lease_seconds=settings.LEASE_SECONDS,
            retention_seconds=settings.SAGA_RETENTION,
            max_in_flight=settings.MAX_IN_FLIGHT,
            deployments_per_hour=settings.DEPLOYMENTS_PER_HOUR,
            on_written=metrics.written,
        )
        throttle = None
        if settings.pause_seconds:
            turns = RedisTurns(client, keys, pause_seconds=settings.pause_seconds)
            throttle = Throttle(turns)
        engine = Engine(
            TABLE,
            journal,
            parts.chain,
            telemetry,
            settings.policy(parts.network),
            Dispatcher(journal, parts.chain, throttle=throttle),
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
        await parts.purse.look()
        signers = [f"{lane.signer.kind} of {lane.address}" for lane in parts.lanes]
        _log.info(
            "started",
            worker=worker,
            network=parts.network,
            chain_id=parts.chain_id,
            signers=signers,
        )
        keepers = keepers_of(settings, parts, metrics, worker)
        around = [parts.watcher.run, parts.rpc.run, parts.purse.run, parts.feed.run]
        try:
            await _beside([*around, *(keeper.run for keeper in keepers)], orchestrator)
        finally:
            with suppress(TimeoutError):  # a Redis that hangs must not keep the process
                async with asyncio.timeout(RESIGN_SECONDS):
                    await asyncio.gather(*(keeper.resign() for keeper in keepers))


def readiness(lanes: Sequence[ChainLane]) -> Readiness:
    """One lane that can send is enough; the others' reasons are told all the same."""
    holds = [lane.trouble for lane in lanes]
    reasons = [f"{hold.hold}: {hold}" for hold in holds if hold is not None]
    return Readiness(ready=len(reasons) < len(holds), reasons=reasons)


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
