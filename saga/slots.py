"""Slots: how many sagas of one process work at once, and how many it holds in all.

A saga that waits for the chain, for room in a lane or for its turn needs no slot: new work gets it.
Afterwards it needs one again, and gets it in the order in which the waits ended.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

WAITING_FACTOR = 16
"""So many times the slots is the most that one process holds: each saga takes some kilobytes and a
line of each heartbeat, so that what waits must be bounded too. New messages fill half of that: the
other half is for what comes back from `due`, and for what a dead replica leaves."""


class Slots:
    """One for a process. A task that was never added may call `waiting`: it has nothing to give."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._limit = size * WAITING_FACTOR
        self._all: set[asyncio.Task[Any]] = set()
        self._working: set[asyncio.Task[Any]] = set()
        self._queue: dict[asyncio.Task[Any], asyncio.Future[None]] = {}
        """Who needs a slot, the first that came first."""
        self.free = asyncio.Event()
        """Set while there is a slot for a saga that is due."""
        self.room = asyncio.Event()
        """Set while there is one for a new message as well."""
        self._settle()

    @property
    def space(self) -> int:
        """How many sagas that are due can be added, and work at once."""
        unused = self._size - len(self._working) - len(self._queue)
        return max(0, min(unused, self._limit - len(self._all)))

    @property
    def working(self) -> int:
        return len(self._working)

    def add(self, task: "asyncio.Task[Any]") -> None:
        """A saga's run begins: it has a slot, or is in the queue for one (see `ready`)."""
        self._all.add(task)
        self._ask(task)

    def remove(self, task: "asyncio.Task[Any]") -> None:
        """The run is over, in whatever way."""
        self._all.discard(task)
        self._working.discard(task)
        self._queue.pop(task, None)
        self._settle()

    async def ready(self) -> None:
        """Return when the calling task has its slot."""
        waiter = self._queue.get(_current())
        if waiter is not None:
            await waiter

    @asynccontextmanager
    async def waiting(self) -> AsyncIterator[None]:
        """Without a slot inside, with it again afterwards. A cancelled task does nothing more."""
        task = _current()
        held = task in self._working
        self._working.discard(task)
        self._settle()
        try:
            yield
        except asyncio.CancelledError:
            held = False
            raise
        finally:
            if held:
                self._ask(task)
                await self.ready()

    def _ask(self, task: "asyncio.Task[Any]") -> None:
        self._queue[task] = asyncio.get_running_loop().create_future()
        self._settle()

    def _settle(self) -> None:
        """Give what is free to those that are first, and say whether there is more."""
        while self._queue and len(self._working) < self._size:
            task = next(iter(self._queue))
            waiter = self._queue.pop(task)
            self._working.add(task)
            if not waiter.done():  # cancelled: its end gives the slot on
                waiter.set_result(None)
        _show(self.free, self.space > 0)
        _show(self.room, self.space > 0 and len(self._all) < self._limit // 2)


def _show(event: asyncio.Event, state: bool) -> None:  # noqa: FBT001 - what it is to show
    if state:
        event.set()
    else:
        event.clear()


def _current() -> "asyncio.Task[Any]":
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - called from coroutines alone
    return task
