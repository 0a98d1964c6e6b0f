"""`saga republish`: events of ACKED sagas once more, for a consumer that has lost what it had."""

import asyncio
import re
import secrets
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime

import msgspec
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from adapters.log_setup import configure_logging
from adapters.redis_events import RedisEvents
from saga.cli.actor import operator
from saga.cli.render import console, print_json, safe
from saga.cli.republish_plan import Chosen, RepublishSettings, chosen
from saga.config import load
from saga.errors import StoreUnavailableError, UsageError
from saga.store import open_store, redis_keys

SHOWN = 50
"""Events that are listed for people one by one; more are counted."""
TRIES = 5
"""Of one event while Redis is away; the script knows its own retry."""
RETRY_SECONDS = 0.3
LEFT = "left alone: "
_RATE = re.compile(r"([0-9]+(?:\.[0-9]+)?)(?:/s)?")


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """What was, or would be, done with one event."""

    saga_id: str
    model_id: str | None
    published_at: str
    """First publication, ISO 8601; for a rebuilt one when its saga ended."""
    bytes: int
    rebuilt: bool
    result: str
    done: bool


def republish(
    names: Sequence[str],
    *,
    since: str | None,
    all_: bool,
    rate: str,
    execute: bool,
    as_json: bool,
) -> None:
    """Raises UsageError when nothing, or nothing sensible, was chosen, and after the lines when
    something that was to be published was not."""
    if sum((bool(names), since is not None, all_)) != 1:
        raise UsageError("name sagas or models, or give --model, or --since, or --all: one of them")
    pace = _pace(rate)
    settings = load(RepublishSettings)
    configure_logging(settings.LOG_LEVEL, settings.LOG_FORMAT)  # to stderr, never into the output
    asyncio.run(_run(settings, names, since, pace, execute=execute, as_json=as_json))


def _pace(rate: str) -> float:
    """Events a second. Raises UsageError."""
    found = _RATE.fullmatch(rate)
    if found is None or not 0 < (pace := float(found[1])) < 1e6:
        raise UsageError(f"--rate '{safe(rate)}': events a second are needed, as 50/s or 0.5/s")
    return pace


async def _run(
    settings: RepublishSettings,
    names: Sequence[str],
    since: str | None,
    pace: float,
    *,
    execute: bool,
    as_json: bool,
) -> None:
    async with open_store(settings) as (views, _):
        events = RedisEvents(views.client, redis_keys(settings))
        found = await chosen(settings, views, events, names, since)
        if execute:
            await _Run(events, found, pace, named=bool(names), as_json=as_json).carry_out()
            return
    report = _Report(as_json=as_json)
    for each in found:
        report.line(_line(each, "would be published again"))
    report.end("would be published again", f"at {pace:g}/s; give --execute to do it")


class _Report:
    """Lines as they come for machines; a table of the first ones, and a count, for people."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._rows: list[Line] = []
        self._count = {"good": 0, "rebuilt": 0, "bad": 0}

    @property
    def bad(self) -> int:
        return self._count["bad"]

    def line(self, line: Line) -> None:
        good = not line.result.startswith(LEFT)
        self._count["good" if good else "bad"] += 1
        self._count["rebuilt"] += good and line.rebuilt
        if self._as_json:
            print_json(line)
        elif len(self._rows) < SHOWN:
            self._rows.append(line)

    def end(self, what: str, how: str) -> None:
        if self._as_json:
            return
        out, count = console(), self._count
        if self._rows:
            out.print(_table(self._rows))
        total = count["good"] + count["bad"]
        if total > len(self._rows):
            out.print(f"and {total - len(self._rows)} more")
        rebuilt = f", {count['rebuilt']} of them rebuilt" if count["rebuilt"] else ""
        left = f", {count['bad']} left alone" if count["bad"] else ""
        out.print(f"{count['good']} event(s) {what}{rebuilt}{left}; {how}")


class _Run:
    """One event after the other, in order, at a pace."""

    def __init__(
        self,
        events: RedisEvents,
        found: Sequence[Chosen],
        pace: float,
        *,
        named: bool,
        as_json: bool,
    ) -> None:
        self._events = events
        self._found = found
        self._pause = 1 / pace
        self._named = named
        self._id = secrets.token_hex(8)
        self._actor = operator()
        self._report = _Report(as_json=as_json)
        self._sent = 0
        self._place = 0
        """How many of them are through, those left alone included."""
        self._stop = asyncio.Event()

    async def carry_out(self) -> None:
        """Raises UsageError when something was left alone or a signal came, StoreUnavailableError
        when Redis is away for longer than a moment; what was sent is said before.

        SIDE EFFECTS: the outbound list, histories, the audit list; handlers of SIGINT and SIGTERM,
        as an event that is under way must not be cancelled.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop.set)
        bar = Progress(
            *(TextColumn("events published"), BarColumn(), MofNCompleteColumn()),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
        )
        try:
            with bar:
                await self._each(bar, bar.add_task("", total=len(self._found)))
        except StoreUnavailableError:
            sys.stderr.write(f"saga: {self._stopped()}\n")
            raise
        finally:
            self._report.end("published again", f"run {self._id} in the audit list")
        if self._place < len(self._found):
            raise UsageError(self._stopped())
        if self._report.bad:
            raise UsageError("not everything was published again; the lines above say why")

    async def _each(self, bar: Progress, task: TaskID) -> None:
        """Until all are through, or a signal has come."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        for each in self._found:
            if each.problem is None:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), due - loop.time())
                due = max(due, loop.time()) + self._pause  # no burst after a wait
            if self._stop.is_set():
                return
            self._report.line(await self._one(self._place + 1, each))
            self._place += 1
            bar.advance(task)

    def _stopped(self) -> str:
        """How far it has come, and how to go on."""
        following = self._found[self._place]
        on = f"saga {following.saga_id}" if self._named else f"--since {iso_us(following.at_us)}"
        return f"stopped after {self._sent} of {len(self._found)} events; go on with {on}"

    async def _one(self, place: int, each: Chosen) -> Line:
        if each.problem is not None:
            return _line(each, "")
        answer = await self._answered(place, each)
        if answer in ("OK", "DUPLICATE"):
            self._sent += 1
            return _line(each, "published again", done=True)
        why = {"GONE": "its event is no longer kept", "CONFLICT": "its saga has just moved"}
        return _line(each, LEFT + why[answer])

    async def _answered(self, place: int, each: Chosen) -> str:
        """The same place again while Redis does not answer: a lost reply is no second event."""
        for tries in range(TRIES):
            try:
                return await self._events.republish(
                    each.saga_id,
                    run=self._id,
                    place=place,
                    actor=self._actor,
                    model_id=each.model_id,
                    rebuilt=each.rebuilt,
                )
            except StoreUnavailableError:
                if tries == TRIES - 1:
                    raise
                await asyncio.sleep(RETRY_SECONDS * 2**tries)
        raise AssertionError("unreachable")


def _line(each: Chosen, result: str, *, done: bool = False) -> Line:
    if each.problem is not None:
        result = LEFT + each.problem
    return Line(
        saga_id=each.saga_id,
        model_id=each.model_id,
        published_at=iso_us(each.at_us),
        bytes=each.size,
        rebuilt=bool(each.rebuilt),
        result=result,
        done=done,
    )


def iso_us(at_us: int) -> str:
    """With its microseconds, so that --since begins at this very event."""
    at = datetime.fromtimestamp(at_us // 1_000_000, UTC).replace(microsecond=at_us % 1_000_000)
    return at.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _table(lines: Sequence[Line]) -> Table:
    table = Table("saga", "model", "first published", "bytes", "result")
    for line in lines:
        result = f"{line.result} (rebuilt)" if line.rebuilt else line.result
        table.add_row(
            *(line.saga_id, safe(line.model_id or ""), line.published_at, str(line.bytes)),
            safe(result),
        )
    return table
