"""Which dead letters a `saga dlq` command is about."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import msgspec

from adapters.redis_dlq import Entry, RedisDeadLetters
from saga.cli.render import safe
from saga.errors import UsageError
from saga.model import State

_AGE = re.compile(r"([0-9]{1,9})([smhdw])")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """Ids, or what is left of all by the filters."""

    ids: Sequence[str] = ()
    error_class: str | None = None
    model: str | None = None
    state: State | None = None
    older_than: int | None = None
    """Seconds since it failed."""

    @classmethod
    def of(
        cls,
        ids: Sequence[str] | None = None,
        *,
        error_class: str | None,
        model: str | None,
        older_than: str | None,
        state: State | None,
        all_: bool,
    ) -> "Choice":
        """Raises UsageError when nothing, or nothing sensible, was chosen."""
        filtered = any(value is not None for value in (error_class, model, older_than, state))
        if ids and (all_ or filtered):
            raise UsageError("give either ids, or --all and filters, not both")
        if not (ids or all_ or filtered):
            raise UsageError("name dead letters, or give --all or a filter; see `saga dlq list`")
        return cls(
            ids=tuple(ids or ()),
            error_class=error_class,
            model=model,
            state=state,
            older_than=None if older_than is None else _seconds(older_than),
        )

    def takes(self, entry: Entry, now_seconds: int) -> bool:
        if self.ids:
            return not names(entry).isdisjoint(self.ids)
        letter = entry.letter
        if self.older_than is not None:
            age = _age(letter.failed_at, now_seconds)
            if age is None or age < self.older_than:
                return False
        return (
            self.error_class in (None, letter.error_class)
            and self.model in (None, entry.model_id)
            and self.state in (None, letter.failed_in)
        )


def names(entry: Entry) -> set[str]:
    """What an operator may call it by."""
    letter = entry.letter
    found = {letter.id} if entry.model_id is None else {letter.id, entry.model_id}
    return found if letter.ours else found | {letter.saga_id}


async def chosen(letters: RedisDeadLetters, choice: Choice) -> list[Entry]:
    """Oldest first. Raises UsageError for an id that no letter has."""
    now = await letters.now_seconds()
    found = [entry async for entry in letters.entries() if choice.takes(entry, now)]
    known = {name for entry in found for name in names(entry)} if choice.ids else set()
    for name in choice.ids:
        if name not in known:
            raise UsageError(
                f"no dead letter of '{safe(name)}'; `saga dlq list` shows all that there are, "
                "`saga resume` resumes sagas without one"
            )
    return found[::-1]


def _seconds(text: str) -> int:
    match = _AGE.fullmatch(text)
    if match is None:
        raise UsageError(f"--older-than: '{safe(text)}' is no age; for example 90m, 1h or 2d")
    return int(match[1]) * _UNITS[match[2]]


def _age(failed_at: str | None, now_seconds: int) -> float | None:
    """Seconds since then; None when the text is no time. One without zone is UTC."""
    try:
        then = datetime.fromisoformat(failed_at or "")
    except ValueError:
        return None
    if then.tzinfo is None:
        then = then.replace(tzinfo=UTC)
    return (datetime.fromtimestamp(now_seconds, UTC) - then) / timedelta(seconds=1)
