"""Puts the parts together: the only place, with the commands, that knows states and adapters."""

import asyncio
import random
import secrets
import signal
import socket
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any

import structlog

from adapters.metrics import Metrics
from adapters.otel import build_telemetry
from adapters.redis_client import connect
from adapters.redis_intake import RedisIntake
from adapters.redis_journal import RedisJournal
from adapters.redis_queue import RedisQueue
from adapters.redis_turns import RedisTurns
from saga.alert_parts import open_alerts
from saga.chain_parts import keepers_of
from saga.config import Settings
from saga.dispatch import Dispatcher
from saga.engine import Engine
from saga.intake import IntakeGate
from saga.orchestrator import Orchestrator
from saga.outage import Outages
from saga.slots import Slots
from saga.start import Standing, Start, until_there
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
    settings: Settings,
    *,
    adopt_pending: bool = False,
    abandoned: Sequence[str] = (),
    wait: bool = True,
) -> None:
    """Run one replica until SIGTERM or SIGINT. Raises ConfigError before the first message.

    `abandoned`: addresses of former keys that are lost. `wait`: for a Redis or nodes that are away
    at the start; else that is a ConfigError too.
    """
    worker = worker_name()
    metrics, standing, stopping = Metrics(), Standing(), asyncio.Event()
    _stop_on_signals(stopping)
    async with AsyncExitStack() as stack:
        client = connect(settings.redis)
        stack.push_async_callback(client.aclose)
        keys = redis_keys(settings)
        start = Start(
            settings, client, metrics, stack, adopt_pending=adopt_pending, abandoned=abandoned
        )
        await start.serve(standing)
        parts = await until_there(start.attempt, standing, stopping, wait=wait)
        if parts is None:
            _log.info("stopped_before_start")
            return
        outages = Outages()
        gate = IntakeGate(
            RedisIntake(client, keys),
            outages,
            most=settings.OUTBOUND_MAX_DEPTH,
            on_change=metrics.intake,
        )
        queue = RedisQueue(settings.redis, client, keys)
        stack.push_async_callback(queue.close)
        telemetry = build_telemetry(
            inbound_queue=settings.INBOUND_QUEUE, worker=worker, on_hold=metrics.held
        )
        stack.push_async_callback(telemetry.shutdown, 2.0)
        alerts = open_alerts(settings, client, parts, metrics, worker)
        stack.push_async_callback(alerts.close)
        journal = RedisJournal(
            client,
            keys,
            worker=worker,
            lease_seconds=settings.LEASE_SECONDS,
            retention_seconds=settings.SAGA_RETENTION,
            event_retention_seconds=settings.EVENT_RETENTION,
            max_in_flight=settings.MAX_IN_FLIGHT,
            deployments_per_hour=settings.DEPLOYMENTS_PER_HOUR,
            durability=settings.REDIS_DURABILITY,
            network=parts.network,
            on_written=metrics.written,
            on_failed=alerts.on_failed,
        )
        slots = Slots(settings.WORKER_POOL_SIZE)
        throttle = None
        if settings.pause_seconds:
            turns = RedisTurns(client, keys, pause_seconds=settings.pause_seconds)
            throttle = Throttle(turns, slots=slots)
        engine = Engine(
            TABLE,
            journal,
            parts.chain,
            telemetry,
            settings.policy(parts.network),
            Dispatcher(journal, parts.chain, throttle=throttle, slots=slots),
            step_timeout_seconds=settings.DEPLOYMENT_TIMEOUT,
            rng=random.Random(),  # noqa: S311 - jitter
            slots=slots,
        )
        orchestrator = Orchestrator(
            engine,
            journal,
            queue,
            telemetry,
            gate,
            stopping=stopping,
            slots=slots,
            lease_seconds=settings.LEASE_SECONDS,
            grace_seconds=settings.SHUTDOWN_GRACE_SECONDS,
            on_fenced=metrics.fenced,
        )
        await gate.look()
        standing.started(parts.lanes, gate)
        signers = [f"{lane.signer.kind} of {lane.address}" for lane in parts.lanes]
        _log.info(
            "started",
            worker=worker,
            network=parts.network,
            chain_id=parts.chain_id,
            signers=signers,
        )
        keepers = keepers_of(settings, parts, metrics, worker)
        parts.watcher.outages = outages
        for keeper in keepers:
            keeper.outages = outages
        around = [gate.run, parts.watcher.run, parts.rpc.run, parts.purse.run, parts.feed.run]
        try:
            tasks = [*around, *alerts.tasks, *(keeper.run for keeper in keepers)]
            await _beside(tasks, orchestrator)
        finally:
            with suppress(TimeoutError):  # a Redis that hangs must not keep the process
                async with asyncio.timeout(RESIGN_SECONDS):
                    await asyncio.gather(*(keeper.resign() for keeper in keepers))


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


def _stop_on_signals(stopping: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
