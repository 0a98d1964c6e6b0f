"""Laws of blocking calls: they never hold up the loop, and nobody waits for one that hangs."""

import asyncio
import threading
from collections.abc import Iterator

import pytest

from adapters.blocking import BlockingCalls, ClosedError

SECONDS = 10.0
"""For what comes at once, unless a law is broken."""


@pytest.fixture
def calls() -> Iterator[BlockingCalls]:
    made = BlockingCalls("test", threads=2)
    yield made
    made.close()
    for thread in made._threads:
        thread.join(SECONDS)
        assert not thread.is_alive()


async def begun(event: threading.Event) -> None:
    assert await asyncio.to_thread(event.wait, SECONDS)


async def test_result(calls: BlockingCalls) -> None:
    """The caller gets what the call returns, and what it raises, from a thread of that name."""

    def fail() -> int:
        raise KeyError("mine")

    assert await calls.run(lambda: threading.current_thread().name) == "test"
    with pytest.raises(KeyError, match="mine"):
        await calls.run(fail)
    assert await calls.run(lambda: 5) == 5
    assert all(thread.daemon for thread in calls._threads)


async def test_at_once(calls: BlockingCalls) -> None:
    """As many calls as threads go on at once, and never more."""
    together = threading.Barrier(2)
    running, most, lock = 0, 0, threading.Lock()

    def call() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        together.wait(SECONDS)
        with lock:
            running -= 1

    await asyncio.gather(*(calls.run(call) for _ in range(8)))
    assert most == 2
    assert len(calls._threads) == 2


async def test_given_up(calls: BlockingCalls) -> None:
    """A call whose caller was cancelled is told so; its outcome goes nowhere, and the thread does
    the next one."""
    started, go = threading.Event(), threading.Event()
    told: list[bool] = []

    def call() -> None:
        told.append(calls.given_up())
        started.set()
        go.wait(SECONDS)
        told.append(calls.given_up())

    task = asyncio.create_task(calls.run(call))
    await begun(started)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go.set()
    assert await calls.run(calls.given_up) is False
    calls.close()
    for thread in calls._threads:
        await asyncio.to_thread(thread.join, SECONDS)
    assert told == [False, True]
    assert not calls.given_up()


async def test_never_begun(calls: BlockingCalls) -> None:
    """A call that waits for its turn, and whose caller goes, is never made."""
    go, done = threading.Event(), list[str]()
    ahead = [asyncio.create_task(calls.run(lambda: go.wait(SECONDS))) for _ in range(2)]
    behind = asyncio.create_task(calls.run(lambda: done.append("behind")))
    last = asyncio.create_task(calls.run(lambda: done.append("last")))
    await asyncio.sleep(0)
    behind.cancel()
    await asyncio.gather(behind, return_exceptions=True)
    go.set()
    await asyncio.gather(*ahead, last)
    assert done == ["last"]


async def test_closed(calls: BlockingCalls) -> None:
    """Closing waits for nobody: callers get ClosedError, before and afterwards."""
    go, started = threading.Event(), threading.Event()

    def call() -> None:
        started.set()
        go.wait(SECONDS)

    hanging = asyncio.create_task(calls.run(call))
    await begun(started)
    calls.close()
    with pytest.raises(ClosedError):
        await hanging
    with pytest.raises(ClosedError):
        await calls.run(lambda: 5)
    calls.close()
    go.set()
