"""`saga dlq list` and `saga dlq show`."""

import asyncio
import itertools
import sys
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from typing import Any

import msgspec

from adapters.letter_codec import readable
from adapters.log_setup import configure_logging
from adapters.redis_dlq import Entry, RedisDeadLetters
from adapters.redis_views import RedisViews
from saga.cli.dlq_choice import Choice, names
from saga.cli.dlq_plan import Forecaster, Outlook, forecaster
from saga.cli.render import document, history_documents, print_json, safe
from saga.config import Settings, StoreSettings, load
from saga.errors import TamperedError, UsageError
from saga.model import Saga
from saga.store import open_store, redis_keys

_TAIL = 20
"""Entries of the saga's history that are shown."""
_WIDEST = 40
"""Columns that a field but the last one is cut to, for people."""

_HEADER = ("no", "id", "model", "class", "failed in", "failed at", "saga", "tries", "reason")


def list_letters(choice: Choice, limit: int | None, *, as_json: bool) -> None:
    asyncio.run(_list(choice, limit, as_json=as_json))


async def _list(choice: Choice, limit: int | None, *, as_json: bool) -> None:
    settings = load(StoreSettings)
    configure_logging(settings.LOG_LEVEL, settings.LOG_FORMAT)
    rows = []
    async with open_store(settings) as (views, _):
        letters = RedisDeadLetters(views.client, redis_keys(settings))
        now, count = await letters.now_seconds(), 0
        async for entry in letters.entries():
            if not choice.takes(entry, now):
                continue
            count += 1
            if as_json:
                print_json(entry_document(entry))
            else:
                rows.append(_row(entry))
            if count == limit:
                break
    if not as_json:
        write_rows(_HEADER, rows)


def entry_document(entry: Entry) -> dict[str, Any]:
    """A dead letter as JSON shows it in a list."""
    letter = entry.letter
    found = {
        "number": letter.index,
        "id": letter.id,
        "entry": entry.kind,
        "saga_id": letter.saga_id,
        "saga_state": entry.state,
        "model_id": entry.model_id,
        "error_class": letter.error_class,
        "error": letter.error,
        "failed_in": letter.failed_in,
        "failed_at": letter.failed_at,
        "tries": entry.tries,
        "original_queue": letter.original_queue,
        "discarded": entry.discarded,
        "bytes": len(letter.raw),
    }
    return {name: value for name, value in found.items() if value is not None}


def _row(entry: Entry) -> tuple[str, ...]:
    letter = entry.letter
    reason = letter.error
    if reason is None:
        reason = letter.raw[:200].decode("utf-8", "replace")
    return (
        str(letter.index),
        letter.id,
        entry.model_id or "",
        letter.error_class,
        letter.failed_in or "",
        letter.failed_at or "",
        entry.state or ("gone" if letter.ours else "none"),
        "" if entry.tries is None else str(entry.tries),
        reason if entry.kind in ("ours", "foreign") else f"[{entry.kind}] {reason}",
    )


def show_letter(name: str, *, ask: bool, as_json: bool) -> None:
    """Raises UsageError when there is none."""
    asyncio.run(_show(name, ask=ask, as_json=as_json))


async def _show(name: str, *, ask: bool, as_json: bool) -> None:
    settings = load(Settings) if ask else load(StoreSettings)
    configure_logging(settings.LOG_LEVEL, settings.LOG_FORMAT)
    async with AsyncExitStack() as stack:
        views, _ = await stack.enter_async_context(open_store(settings))
        entry = await _found(RedisDeadLetters(views.client, redis_keys(settings)), name)
        saga, problem = await _saga(views, entry)
        history = [] if entry.state is None else await views.history(entry.letter.saga_id)
        asked = Forecaster(views)
        if isinstance(settings, Settings):
            asked = await stack.enter_async_context(forecaster(settings, views))
        replay: Outlook = await asked.of(entry, saga)
    shown = entry_document(entry) | {
        "message": readable(entry.letter.message),
        "raw_entry": readable(entry.letter.raw),
        "saga": None if saga is None else document(saga),
        "saga_problem": problem,
        "history": history_documents(history[-_TAIL:]),
        "replay": replay,
    }
    if as_json:
        print_json(shown)
    else:
        _print(shown)


async def _saga(views: RedisViews, entry: Entry) -> tuple[Saga | None, str | None]:
    """The saga that belongs to a letter, or why it cannot be read: the letter is shown anyhow."""
    try:
        return await views.get(entry.letter.saga_id), None
    except TamperedError as error:
        return None, f"cannot be read: {error}"


async def _found(letters: RedisDeadLetters, name: str) -> Entry:
    """By id or model id, the newest; else by its number. Raises UsageError."""
    numbered = None
    async for entry in letters.entries():
        if name in names(entry):
            return entry
        if name == str(entry.letter.index):
            numbered = entry
    if numbered is None:
        raise UsageError(
            f"no dead letter of '{safe(name)}'; `saga dlq list` shows all that there are"
        )
    return numbered


def _print(shown: dict[str, Any]) -> None:
    """Fields a line each, then what is nested, as indented JSON."""
    nested = {"message", "raw_entry", "saga", "history", "replay"}
    for label, value in shown.items():
        if label not in nested and value is not None:
            sys.stdout.write(f"{label:<15} {plain(str(value))}\n")
    replay: Outlook = shown["replay"]
    sys.stdout.write(f"{'replay':<15} {plain(replay.what)}\n")
    for label in ("message", "raw_entry", "saga", "history"):
        if shown[label]:
            pretty = msgspec.json.format(msgspec.json.encode(shown[label]), indent=2).decode()
            sys.stdout.write(f"{label}\n{plain(pretty, keep=chr(10))}\n")


def plain(text: str, *, keep: str = "") -> str:
    """Foreign text for a terminal: no control characters but those to keep."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else f"\\x{ord(c):02x}" for c in text)


def write_rows(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Aligned columns, ten thousand rows in no time; the last one is as long as it is."""
    table = [tuple(plain(field) for field in row) for row in itertools.chain([header], rows)]
    widths = [min(_WIDEST, max(map(len, column))) for column in zip(*table, strict=True)]
    for row in table:
        *fields, last = row
        cut = [
            field.ljust(width) if len(field) <= width else f"{field[: width - 1]}…"
            for field, width in zip(fields, widths, strict=False)
        ]
        sys.stdout.write("  ".join([*cut, last]).rstrip() + "\n")
