"""`saga dlq replay` and `saga dlq discard`."""

import asyncio
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from adapters.log_setup import configure_logging
from adapters.redis_dlq import Entry, RedisDeadLetters
from adapters.redis_views import RedisViews
from saga.cli.actor import operator
from saga.cli.dlq_choice import Choice, chosen
from saga.cli.dlq_plan import COMPLETE, MOVED, Forecaster, forecaster, refusal
from saga.cli.dlq_report import plain, write_rows
from saga.cli.render import print_json
from saga.config import Settings, StoreSettings, load
from saga.errors import ChainUnavailableError, SagaError, StoreUnavailableError, UsageError
from saga.machine import Guard
from saga.model import Saga, State
from saga.store import open_store, redis_keys
from states.table import TABLE

_BATCH = 100
_MANY = 20
"""Letters from which on a progress bar is worth its place."""
_ASKED_AT_ONCE = 8
_ANSWERS = {
    "LEASED": "left alone: a worker is on it",
    "CONFLICT": MOVED,
    "GONE": "left alone: its saga is gone",
    "COMPLETE": COMPLETE,
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


Lines = list[Line]
Act = Callable[[Entry, Saga | None], Awaitable[Line]]


def replay_letters(choice: Choice, *, execute: bool, as_json: bool) -> None:
    """Raises UsageError for an id without a dead letter; then nothing was replayed."""
    work = _replay if execute else _forecast
    _carry_out(lambda lines: work(choice, lines), as_json=as_json)


def discard_letters(choice: Choice, reason: str, *, execute: bool, as_json: bool) -> None:
    """The same, and raises UsageError for an empty reason."""
    if not reason.strip():
        raise UsageError("--reason: say why; it is kept in the saga's history")
    _carry_out(lambda lines: _discard(choice, reason, lines, execute=execute), as_json=as_json)


def _carry_out(work: Callable[[Lines], Coroutine[None, None, None]], *, as_json: bool) -> None:
    """Also of work that is broken off it is said what was done."""
    lines: Lines = []
    try:
        asyncio.run(work(lines))
    except (SagaError, KeyboardInterrupt):
        if lines:
            _report(lines, as_json=as_json)
        raise
    _report(lines, as_json=as_json)


async def _forecast(choice: Choice, lines: Lines) -> None:
    settings = load(Settings)
    configure_logging(settings.LOG_LEVEL, settings.LOG_FORMAT)
    async with AsyncExitStack() as stack:
        views, _ = await stack.enter_async_context(open_store(settings))
        letters = RedisDeadLetters(views.client, redis_keys(settings))
        entries = await chosen(letters, choice)
        asked = await stack.enter_async_context(forecaster(settings, views))
        await _each(entries, views, "asking", _forecast_one(asked), lines, _ASKED_AT_ONCE)


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


async def _replay(choice: Choice, lines: Lines) -> None:
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

        await _each(await chosen(letters, choice), views, "replaying", act, lines)


async def _resume(
    views: RedisViews, guard: Guard, entry: Entry, saga: Saga | None, actor: str
) -> Line:
    if (why := refusal(entry, saga)) is not None or saga is None:
        return _line(entry, "", why or "")
    to = await views.resume_target(saga, guard)
    assert to is not None  # noqa: S101 - a dead-lettered saga has one
    letter = entry.letter
    answer = await views.resume(
        saga, to, actor=actor, letter=letter.raw, failed_at=letter.failed_at
    )
    return msgspec.structs.replace(_line(entry, answer, "resumed"), resumes_to=to)


async def _discard(choice: Choice, reason: str, lines: Lines, *, execute: bool) -> None:
    settings = _store_settings()
    async with open_store(settings) as (views, _):
        letters = RedisDeadLetters(views.client, redis_keys(settings))
        actor = operator()

        async def act(entry: Entry, saga: Saga | None) -> Line:
            why = refusal(entry, saga) if entry.kind == "ours" else None
            if why is not None or not execute:
                return _line(entry, "", why or _would_discard(entry))
            if entry.kind != "ours":
                answer = await letters.drop(entry, reason=reason, actor=actor)
                return _line(entry, answer, "entry taken out")
            assert saga is not None  # noqa: S101 - or it would have been refused
            answer = await letters.discard(saga, entry.letter, reason=reason, actor=actor)
            return _line(entry, answer, "discarded")

        await _each(await chosen(letters, choice), views, "discarding", act, lines)


def _would_discard(entry: Entry) -> str:
    match entry.kind:
        case "ours":
            return "would be discarded: its saga stays DEAD_LETTERED"
        case "stale":
            return f"would be taken out: its saga is {entry.state}"
        case _:
            return "would be taken out for good: no saga has its message"


def _line(entry: Entry, answer: str, done: str) -> Line:
    """`answer`: of a script, or '' where none was called."""
    return Line(
        id=entry.letter.id,
        model_id=entry.model_id,
        entry=entry.kind,
        result=_ANSWERS.get(answer, done),
        done=answer in ("OK", "COMPLETE"),
    )


def _store_settings() -> StoreSettings:
    settings = load(StoreSettings)
    configure_logging(settings.LOG_LEVEL, settings.LOG_FORMAT)
    return settings


async def _each(
    entries: Sequence[Entry],
    views: RedisViews,
    doing: str,
    act: Act,
    lines: Lines,
    at_once: int = 1,
) -> None:
    """In the order given, which is oldest first: an entry is looked for from that end of the list,
    so each is found after those only that were left in it.

    SIDE EFFECTS: what was done with each is added to `lines`.
    """
    try:
        with _progress(doing, len(entries)) as advance:
            for batch in _batches(entries, _BATCH):
                sagas = await views.several([entry.letter.saga_id for entry in batch])
                for group in _batches(batch, at_once):
                    acts = (_alone(act, entry, sagas.get(entry.letter.saga_id)) for entry in group)
                    lines += await asyncio.gather(*acts)
                    advance(len(group))
    except StoreUnavailableError as error:
        done = f"after {len(lines)} of {len(entries)}; the same command goes on with the others"
        raise StoreUnavailableError(f"{error}: {done}", cause=error.cause) from error


async def _alone(act: Act, entry: Entry, saga: Saga | None) -> Line:
    """What is wrong with one saga stops no other; where nobody answers, all stop."""
    try:
        return await act(entry, saga)
    except (StoreUnavailableError, ChainUnavailableError):
        raise
    except SagaError as error:
        return _line(entry, "", f"left alone: {error}")


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
