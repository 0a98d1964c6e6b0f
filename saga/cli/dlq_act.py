"""`saga dlq replay` and `saga dlq discard`."""

import asyncio
import getpass
import socket
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from adapters.log_setup import configure_logging
from adapters.redis_dlq import Entry, RedisDeadLetters
from adapters.redis_views import RedisViews
from saga.cli.dlq_choice import Choice, chosen
from saga.cli.dlq_plan import Forecaster, forecaster
from saga.cli.dlq_report import plain, write_rows
from saga.cli.render import print_json
from saga.config import Settings, StoreSettings, load
from saga.errors import StoreUnavailableError, UsageError
from saga.machine import Guard
from saga.model import Saga, State
from saga.store import open_store, redis_keys
from states.table import TABLE

_BATCH = 100
_MANY = 20
"""Letters from which on a progress bar is worth its place."""
_ASKED_AT_ONCE = 8
_MOVED = "left alone: it has just moved"
_ANSWERS = {
    "LEASED": "left alone: a worker is on it",
    "CONFLICT": _MOVED,
    "GONE": "left alone: its saga is gone, or cannot be read",
    "MISSING": "gone already: replayed or discarded by somebody else",
}


class Line(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was, or would be, done with one dead letter."""

    id: str
    model_id: str | None
    entry: str
    result: str
    done: bool
    """Whether anything was changed."""
    resumes_to: State | None = None
    would_send: bool | None = None
    complete: bool | None = None
    """Whether the chain holds all its work already; None where it was not asked."""


Act = Callable[[Entry, Saga | None], Awaitable[Line]]


def replay_letters(choice: Choice, *, execute: bool, as_json: bool) -> None:
    """Raises UsageError for an id without a dead letter; then nothing was replayed."""
    _report(asyncio.run(_replay(choice) if execute else _forecast(choice)), as_json=as_json)


def discard_letters(choice: Choice, reason: str, *, execute: bool, as_json: bool) -> None:
    """The same, and raises UsageError for an empty reason."""
    if not reason.strip():
        raise UsageError("--reason: say why; it is kept in the saga's history")
    _report(asyncio.run(_discard(choice, reason, execute=execute)), as_json=as_json)


def operator() -> str:
    """Who is at the keyboard, for histories."""
    return f"{getpass.getuser()}@{socket.gethostname()}"


async def _forecast(choice: Choice) -> list[Line]:
    settings = load(Settings)
    configure_logging(settings.LOG_LEVEL, settings.LOG_FORMAT)
    async with AsyncExitStack() as stack:
        views, _ = await stack.enter_async_context(open_store(settings))
        letters = RedisDeadLetters(views.client, redis_keys(settings))
        entries = await chosen(letters, choice)
        asked = await stack.enter_async_context(forecaster(settings, views))
        return await _each(entries, views, "asking", _forecast_one(asked), _ASKED_AT_ONCE)


def _forecast_one(asked: Forecaster) -> Act:
    async def act(entry: Entry, saga: Saga | None) -> Line:
        found = await asked.of(entry, saga)
        return Line(
            id=entry.letter.id,
            model_id=entry.model_id,
            entry=entry.kind,
            result=found.what,
            done=False,
            resumes_to=found.resumes_to,
            would_send=found.sends,
            complete=found.complete,
        )

    return act


async def _replay(choice: Choice) -> list[Line]:
    settings = _store_settings()
    async with open_store(settings) as (views, _):
        letters = RedisDeadLetters(views.client, redis_keys(settings))
        guard, actor = Guard(TABLE), operator()

        async def act(entry: Entry, saga: Saga | None) -> Line:
            if entry.kind == "ours":
                return await _resume(views, guard, entry, saga, actor)
            if entry.kind == "stale":
                reason = "its saga has another fate"
                answer = await letters.drop(entry, reason=reason, actor=actor)
                return _line(entry, answer, "entry taken out")
            answer = await letters.replay(entry, actor=actor)
            return _line(entry, answer, "message put on the inbound list")

        return await _each(await chosen(letters, choice), views, "replaying", act)


async def _resume(
    views: RedisViews, guard: Guard, entry: Entry, saga: Saga | None, actor: str
) -> Line:
    if saga is None or saga.state is not State.DEAD_LETTERED or saga.discarded is not None:
        return _line(entry, "GONE" if saga is None else "CONFLICT", "")
    to = await views.resume_target(saga, guard)
    assert to is not None  # noqa: S101 - a dead-lettered saga has one
    answer = await views.resume(saga, to, actor=actor, letter=entry.letter.raw)
    return msgspec.structs.replace(_line(entry, answer, "resumed"), resumes_to=to)


async def _discard(choice: Choice, reason: str, *, execute: bool) -> list[Line]:
    settings = _store_settings()
    async with open_store(settings) as (views, _):
        letters = RedisDeadLetters(views.client, redis_keys(settings))
        actor = operator()

        async def act(entry: Entry, saga: Saga | None) -> Line:
            if not execute:
                return _line(entry, "", _would_discard(entry))
            if entry.kind != "ours":
                answer = await letters.drop(entry, reason=reason, actor=actor)
                return _line(entry, answer, "entry taken out")
            if saga is None or saga.state is not State.DEAD_LETTERED:
                return _line(entry, "GONE" if saga is None else "CONFLICT", "")
            answer = await letters.discard(saga, entry.letter, reason=reason, actor=actor)
            return _line(entry, answer, "discarded")

        return await _each(await chosen(letters, choice), views, "discarding", act)


def _would_discard(entry: Entry) -> str:
    match entry.kind:
        case "ours":
            return "would be discarded: its saga stays DEAD_LETTERED"
        case "stale":
            return f"would be taken out: its saga is {entry.state}"
        case _:
            return "would be taken out for good: no saga has its message"


def _line(entry: Entry, answer: str, done: str) -> Line:
    """`answer`: of a script, or '' for a dry run."""
    return Line(
        id=entry.letter.id,
        model_id=entry.model_id,
        entry=entry.kind,
        result=_ANSWERS.get(answer, done),
        done=answer == "OK",
    )


def _store_settings() -> StoreSettings:
    settings = load(StoreSettings)
    configure_logging(settings.LOG_LEVEL, settings.LOG_FORMAT)
    return settings


async def _each(
    entries: Sequence[Entry], views: RedisViews, doing: str, act: Act, at_once: int = 1
) -> list[Line]:
    """In the order given, which is oldest first: an entry is looked for from that end of the list,
    so each is found after those only that were left in it."""
    lines: list[Line] = []
    try:
        with _progress(doing, len(entries)) as advance:
            for batch in _batches(entries, _BATCH):
                sagas = await views.several([entry.letter.saga_id for entry in batch])
                for group in _batches(batch, at_once):
                    acts = (act(entry, sagas.get(entry.letter.saga_id)) for entry in group)
                    lines += await asyncio.gather(*acts)
                    advance(len(group))
    except StoreUnavailableError as error:
        done = f"after {len(lines)} of {len(entries)}; the same command goes on with the others"
        raise StoreUnavailableError(f"{error}: {done}") from error
    return lines


def _batches(entries: Sequence[Entry], size: int) -> Iterator[Sequence[Entry]]:
    for start in range(0, len(entries), size):
        yield entries[start : start + size]


@contextmanager
def _progress(doing: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on stderr, where that is a terminal and it takes a while."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    hidden = total < _MANY or not sys.stderr.isatty()
    with Progress(*columns, console=Console(stderr=True), disable=hidden) as progress:
        task = progress.add_task(doing, total=total)
        yield lambda count: progress.advance(task, count)


def _report(lines: Sequence[Line], *, as_json: bool) -> None:
    if as_json:
        for line in lines:
            print_json(line)
        return
    if not lines:
        sys.stdout.write("no dead letter\n")
        return
    rows = [(line.id, line.model_id or "", line.entry, line.result) for line in lines]
    write_rows(("id", "model", "entry", "result"), rows)
    counts = Counter(line.result for line in lines if line.done)
    if counts:
        summary = ", ".join(f"{count} {result}" for result, count in counts.items())
        left = len(lines) - counts.total()
        sys.stdout.write(plain(f"{summary}; {left} left\n", keep="\n"))
    else:
        sys.stdout.write("nothing was changed; --execute does it\n")
