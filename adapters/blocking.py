"""Calls that block and cannot be stopped, in a few threads that nobody has to wait for.

The threads of `concurrent.futures` are waited for when the interpreter ends: one call that hangs
would keep a replica from ending. These are daemons.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")


class ClosedError(Exception):
    """The threads were given up while, or before, the call was made."""


class _Job(NamedTuple):
    call: Callable[[], Any]
    outcome: "Future[Any]"


class BlockingCalls:
    """At most `threads` calls at once; the others wait for their turn. For one event loop."""

    def __init__(self, name: str, *, threads: int = 4) -> None:
        self._name = name
        self._most = threads
        self._threads: list[threading.Thread] = []
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._open: set[Future[Any]] = set()
        self._mine = threading.local()
        self._closed = False

    async def run(self, call: Callable[[], T]) -> T:
        """What the call returns or raises. Raises ClosedError after `close`.

        When the caller is cancelled, a call that has not begun never does; one that has begun goes
        on by itself, with `given_up` true.
        """
        if self._closed:
            raise ClosedError("it is closed")
        outcome: Future[T] = Future()
        self._open.add(outcome)
        self._jobs.put(_Job(call, outcome))
        if len(self._threads) < self._most:
            thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._threads.append(thread)
            thread.start()
        try:
            return await asyncio.wrap_future(outcome)
        finally:
            self._open.discard(outcome)

    def given_up(self) -> bool:
        """Within a call: nobody waits for its outcome any more."""
        outcome: Future[Any] | None = getattr(self._mine, "outcome", None)
        return outcome is not None and outcome.done()

    def close(self) -> None:
        """End the threads; not waited for is one that hangs. Its caller gets ClosedError."""
        self._closed = True
        for outcome in self._open:
            with suppress(InvalidStateError):
                outcome.set_exception(ClosedError("it was closed"))
        for _ in self._threads:
            self._jobs.put(None)

    def _work(self) -> None:
        # Outcomes are never marked as running: so they can be cancelled while the call goes on.
        while (job := self._jobs.get()) is not None:
            if job.outcome.done():
                continue
            self._mine.outcome = job.outcome
            with suppress(InvalidStateError):
                try:
                    job.outcome.set_result(job.call())
                except InvalidStateError:
                    raise
                except BaseException as error:  # noqa: BLE001 - it is the caller's
                    job.outcome.set_exception(error)
