"""One replica: takes messages, runs sagas side by side, keeps their leases, drains on request.

Four loops share one set of running sagas: intake (new messages), due (sagas whose lease ran out or
whose time has come), heartbeat (leases of what runs here), sweep (messages that a crash left in the
processing list without a saga). All replicas are equal.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import msgspec
import structlog

from saga.engine import Engine
from saga.errors import LeaseLostError, StoreUnavailableError
from saga.intake import IntakeGate
from saga.messages import identify
from saga.model import Saga
from saga.ports import Journal, Queue
from saga.slots import Slots
from saga.telemetry import Telemetry

DUE_POLL_SECONDS = 0.5
STORE_PAUSE_SECONDS = 1.0
LOOPS_END_SECONDS = 3.0
"""Longer than a blocking pop and its round trip."""
RELEASE_SECONDS = 2.0
"""Of the grace period, kept for giving leases up and for the last spans."""
_log = structlog.get_logger("saga")


class Orchestrator:
    """Runs until `stop()`; then finishes or releases what it holds.

    `on_fenced` is told of each run that was dropped because its lease is another's: found by a
    refused `write`, by the `heartbeat`, or as the saga was `taken` anew.
    """

    def __init__(
        self,
        engine: Engine,
        journal: Journal,
        queue: Queue,
        telemetry: Telemetry,
        gate: IntakeGate,
        *,
        stopping: asyncio.Event,
        slots: Slots,
        lease_seconds: float,
        grace_seconds: float,
        on_fenced: Callable[[str], None] = lambda _found: None,
    ) -> None:
        self._engine = engine
        self._journal = journal
        self._queue = queue
        self._telemetry = telemetry
        self._gate = gate
        self._slots = slots
        self._on_fenced = on_fenced
        self._lease_seconds = lease_seconds
        self._grace_seconds = grace_seconds
        self._running: dict[str, tuple[asyncio.Task[None], Saga]] = {}
        self._away = False
        """Whether the store was away since leases were last seen to."""
        self._dropped: list[Saga] = []
        """Whose run ended while it was."""
        self._stopping = stopping

    def stop(self) -> None:
        """Take nothing new; `run` returns when what is in hand is finished or released."""
        self._stopping.set()

    @property
    def in_flight(self) -> int:
        return len(self._running)

    async def run(self) -> None:
        """Run until stopped. Raises whatever a loop dies of: the process must then end."""
        loops = [
            asyncio.create_task(self._forever(work), name=work.__name__)
            for work in (self._intake, self._due, self._sweep)
        ]
        heartbeat = asyncio.create_task(self._forever(self._heartbeat), name="heartbeat")
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            done, _ = await asyncio.wait(
                [*loops, heartbeat, stopping], return_when=asyncio.FIRST_COMPLETED
            )
            for task in done - {stopping}:
                task.result()
        finally:
            self._stopping.set()
            await self._drain(loops)
            heartbeat.cancel()
            stopping.cancel()
            await asyncio.gather(heartbeat, stopping, return_exceptions=True)

    async def _forever(self, work: Callable[[], Awaitable[None]]) -> None:
        """Repeat one loop's body until stopped; wait while Redis is away."""
        while not self._stopping.is_set() or work == self._heartbeat:
            try:
                await work()
            except StoreUnavailableError as error:
                self._gate.refused(error)
                self._away = True
                await self._pause(STORE_PAUSE_SECONDS)

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    async def _intake(self) -> None:
        """Take one message as soon as there is room for its saga and the gate is open."""
        if await self._has_room():
            raw = await self._queue.take()
            if raw is not None:
                await self._admit(raw)

    async def _has_room(self) -> bool:
        """Wait a little for room and an open gate; False while there is none, or when stopping."""
        with suppress(TimeoutError):
            async with asyncio.timeout(DUE_POLL_SECONDS):
                await self._gate.opened()
                await self._slots.room.wait()
        room = self._gate.is_open and self._slots.room.is_set()
        return room and not self._stopping.is_set()

    async def _admit(self, raw: bytes) -> None:
        identity = identify(raw)
        rooted = msgspec.structs.replace(
            identity, traceparent=self._telemetry.traceparent(identity)
        )
        admission = await self._journal.admit(raw, rooted)
        if admission.saga is not None:
            self._telemetry.admitted(admission.saga)
            self._start(admission.saga)
        elif admission.duplicate:
            self._telemetry.duplicate(identity.saga_id)

    async def _due(self) -> None:
        """Take what is due as soon as there is a slot for it."""
        if self._away:
            await self._come_back()
        with suppress(TimeoutError):
            async with asyncio.timeout(DUE_POLL_SECONDS):
                await self._slots.free.wait()
        space = self._slots.space
        taken = await self._journal.take_due(space) if space else []
        for saga in taken:
            self._start(saga)
        if len(taken) < space:
            await self._pause(DUE_POLL_SECONDS)

    async def _come_back(self) -> None:
        """After an outage of the store many leases have run out under workers that live: each gives
        up what it has dropped, prolongs the rest, and leaves the others time to do so too."""
        dropped, held = list(self._dropped), [saga for _, saga in self._running.values()]
        await self._journal.release(dropped)
        del self._dropped[: len(dropped)]
        await self._journal.renew(held)
        self._away = False
        await self._pause(self._lease_seconds / 2)

    async def _sweep(self) -> None:
        """Admit what a crash left in the processing list; what has a saga is left alone."""
        entries = await self._queue.unfinished()
        states = await self._journal.states([identify(raw).saga_id for raw in entries])
        for raw, state in zip(entries, states, strict=True):
            if state is None or state.terminal:
                while not await self._has_room():
                    if self._stopping.is_set():
                        return
                await self._admit(raw)
        await self._pause(self._lease_seconds)

    async def _heartbeat(self) -> None:
        """Renew the leases of what runs here, and stop what is another's by now."""
        await asyncio.sleep(self._lease_seconds / 3)
        held = dict(self._running)
        for saga_id in await self._journal.renew([saga for _, saga in held.values()]):
            # Meanwhile this replica may have taken the saga anew: that run has a lease of its own.
            if self._running.get(saga_id) is held[saga_id]:
                _log.warning("saga.lease_lost", saga_id=saga_id)
                self._on_fenced("heartbeat")
                held[saga_id][0].cancel()

    def _start(self, saga: Saga) -> None:
        previous = self._running.get(saga.id)
        if previous is not None:
            previous[0].cancel()  # its lease ran out: this very process has the next one
        task = asyncio.create_task(self._run(saga), name=f"saga-{saga.id}")
        self._running[saga.id] = (task, saga)
        self._slots.add(task)
        task.add_done_callback(lambda done: self._finished(saga.id, done))

    def _finished(self, saga_id: str, task: "asyncio.Task[None]") -> None:
        if saga_id in self._running and self._running[saga_id][0] is task:
            del self._running[saga_id]
        self._slots.remove(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # A bug of ours: the lease runs out and the saga is taken up again.
            _log.error("saga.crashed", saga_id=saga_id, exc_info=error)

    async def _run(self, saga: Saga) -> None:
        try:
            await self._slots.ready()
            await self._engine.run(saga)
        except LeaseLostError as error:
            _log.warning("saga.lease_lost", saga_id=saga.id, error=str(error))
            self._on_fenced("write")
        except StoreUnavailableError as error:
            _log.debug("saga.store_unavailable", saga_id=saga.id, error=str(error))
            self._gate.refused(error)
            self._dropped.append(saga)
            self._away = True

    async def _drain(self, loops: "list[asyncio.Task[None]]") -> None:
        """End the loops, let sagas finish within the grace period, release the others."""
        deadline = asyncio.get_running_loop().time() + self._grace_seconds - RELEASE_SECONDS
        await _ended(loops)
        tasks = [task for task, _ in self._running.values()]
        if tasks:
            remaining = deadline - asyncio.get_running_loop().time()
            await asyncio.wait(tasks, timeout=max(remaining, 0.0))
        left = list(self._running.values())
        for task, _ in left:
            task.cancel()
        await asyncio.gather(*(task for task, _ in left), return_exceptions=True)
        with suppress(StoreUnavailableError, TimeoutError):
            async with asyncio.timeout(RELEASE_SECONDS):
                await self._journal.release([saga for _, saga in left])
        _log.info("drained", released=len(left))


async def _ended(tasks: "list[asyncio.Task[None]]") -> None:
    """The loops look at the stop flag: a cancelled pop would strand its message until a sweep."""
    _, pending = await asyncio.wait(tasks, timeout=LOOPS_END_SECONDS)
    for task in pending:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
