"""Who works, who waits, and in which order slots are given."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from saga.slots import WAITING_FACTOR, Slots


class Runs:
    """Sagas' runs in some slots: each works until it is told to wait, and waits until told."""

    def __init__(self, size: int) -> None:
        self.slots = Slots(size)
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.gates: dict[str, asyncio.Event] = {}
        self.done: list[str] = []

    def add(self, name: str, *, waits: bool = True) -> None:
        self.gates[name] = asyncio.Event()
        task = asyncio.create_task(self._run(name, waits))
        self.tasks[name] = task
        self.slots.add(task)
        task.add_done_callback(self.slots.remove)

    async def _run(self, name: str, waits: bool) -> None:
        await self.slots.ready()
        if waits:
            async with self.slots.waiting():
                await self.gates[name].wait()
        else:
            await self.gates[name].wait()
        self.done.append(name)

    async def settle(self) -> None:
        """Until everything has run as far as it gets."""
        for _ in range(10):
            await asyncio.sleep(0)


@asynccontextmanager
async def runs(size: int) -> AsyncIterator[Runs]:
    made = Runs(size)
    yield made
    for task in made.tasks.values():
        task.cancel()
    await asyncio.gather(*made.tasks.values(), return_exceptions=True)
    await made.settle()
    assert (made.slots.working, made.slots.space) == (0, size)


async def test_those_that_work_fill_the_slots() -> None:
    """No more work at once than there are slots; the next one begins when one has ended."""
    async with runs(2) as made:
        for name in "abc":
            made.add(name, waits=False)
        await made.settle()
        assert (made.slots.working, made.slots.space) == (2, 0)
        assert not made.slots.room.is_set()
        for gate in made.gates.values():
            gate.set()
        await made.settle()
        assert made.done == ["a", "b", "c"]
        assert made.slots.room.is_set()


async def test_those_that_wait_leave_room() -> None:
    """A saga that waits needs no slot: all are free for new work."""
    async with runs(2) as made:
        for number in range(10):
            made.add(str(number))
        await made.settle()
        assert (made.slots.working, made.slots.space) == (0, 2)


async def test_after_a_wait_the_first_comes_first() -> None:
    """Slots are given back in the order in which the waits ended, and before new work begins."""
    async with runs(1) as made:
        for name in "abc":
            made.add(name)
        await made.settle()
        made.add("busy", waits=False)
        for name in "cab":
            made.gates[name].set()
            await made.settle()
        made.add("new", waits=False)
        made.gates["new"].set()
        await made.settle()
        assert made.done == []
        made.gates["busy"].set()
        await made.settle()
        assert made.done == ["busy", "c", "a", "b", "new"]


async def test_bounded() -> None:
    """However many wait, a process holds no more than so many times its slots, and new messages
    fill half of that."""
    async with runs(2) as made:
        for number in range(2 * WAITING_FACTOR):
            assert made.slots.room.is_set() == (number < WAITING_FACTOR)
            assert made.slots.free.is_set()
            made.add(str(number))
            await made.settle()
        assert (made.slots.working, made.slots.space) == (0, 0)
        assert not made.slots.free.is_set()
        made.gates["0"].set()
        await made.settle()
        assert made.slots.space == 1
        assert made.slots.free.is_set()


async def test_a_cancelled_one_passes_its_slot_on() -> None:
    """A saga that is dropped while it works, waits or stands in the queue holds nobody up."""
    async with runs(1) as made:
        made.add("waits")
        await made.settle()
        made.add("works", waits=False)
        made.add("queued", waits=False)
        made.add("last", waits=False)
        await made.settle()
        for name in ("queued", "works", "waits"):
            made.tasks[name].cancel()
        made.gates["last"].set()
        await made.settle()
        assert made.done == ["last"]


async def test_an_error_of_the_wait_comes_with_a_slot() -> None:
    """What a wait raises is dealt with by a run that has its slot again."""
    slots = Slots(1)

    async def run() -> int:
        await slots.ready()
        with pytest.raises(KeyError):
            async with slots.waiting():
                raise KeyError
        return slots.working

    task = asyncio.create_task(run())
    slots.add(task)
    assert await task == 1


async def test_who_has_none_gets_none() -> None:
    """Parts that are used without an orchestrator wait as they are."""
    slots = Slots(1)
    await slots.ready()
    async with slots.waiting():
        assert slots.working == 0
    assert (slots.working, slots.space) == (0, 1)
