"""What a replay of a dead letter would do, and what the chain says to it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from adapters.redis_dlq import Entry
from adapters.redis_views import RedisViews
from saga.config import Settings
from saga.machine import Guard
from saga.model import Lease, Saga, State
from saga.plan import Plan, outlook
from saga.policy import Policy
from saga.ports import Chain
from states.table import TABLE

MOVED = "left alone: it has just moved"
AGAIN = "left alone: it has failed again since"
UNREADABLE = "left alone: its saga cannot be read"
COMPLETE = "already complete: its event was published"


def refusal(entry: Entry, saga: Saga | None) -> str | None:
    """Why a letter of ours is left alone; None when its saga waits with it. `saga` is None for one
    that does not decode: the entry has met it."""
    if saga is None:
        return UNREADABLE
    if saga.state is not State.DEAD_LETTERED or saga.discarded is not None:
        return MOVED
    return None if saga.failed_at == entry.letter.failed_at else AGAIN


class Outlook(msgspec.Struct, frozen=True, kw_only=True):
    """What would become of one letter. The last two are None where the chain was not asked."""

    what: str
    resumes_to: State | None = None
    sends: bool | None = None
    complete: bool | None = None


class Forecaster:
    """Says what replays would do. Without a chain it says what it can."""

    def __init__(
        self, views: RedisViews, chain: Chain | None = None, policy: Policy | None = None
    ) -> None:
        self._views = views
        self._chain = chain
        self._policy = policy
        self._guard = Guard(TABLE)

    async def of(self, entry: Entry, saga: Saga | None) -> Outlook:
        """`saga`: the one that belongs to the letter, as it is now."""
        if entry.kind == "stale":
            return Outlook(what=f"would only take the entry out: {_fate(entry)}", sends=False)
        if entry.kind == "ours" and (why := refusal(entry, saga)) is not None:
            return Outlook(what=why, sends=False)
        if saga is None:
            return await self._message(entry)
        if entry.kind == "foreign" and (
            saga.discarded is not None or saga.state is not State.DEAD_LETTERED
        ):
            return _repeated(saga)
        return await self._resumed(saga, entry)

    async def _resumed(self, saga: Saga, entry: Entry) -> Outlook:
        to = await self._views.resume_target(saga, self._guard)
        if to is None:
            return Outlook(what="would only take the entry out: its saga is finished", sends=False)
        claim = None if to is State.RECEIVED else saga.claim
        resumed = msgspec.structs.replace(saga, state=to, claim=claim)
        how = "" if entry.kind == "ours" else "its message is delivered again; "
        return await self._asked(resumed, f"{how}its saga goes on in {to}", to)

    async def _message(self, entry: Entry) -> Outlook:
        """A message without saga: what a new one would do."""
        back = "its message goes back to the inbound list"
        if entry.state is not None:
            return Outlook(what=f"{back}; its saga cannot be read")
        if await self._views.has_event(entry.letter.saga_id):
            return Outlook(
                what=f"would only take the entry out: {COMPLETE}", sends=False, complete=True
            )
        saga = Saga(
            id=entry.letter.saga_id,
            state=State.RECEIVED,
            version=1,
            lease=Lease(owner="", fence=1),
            message=entry.letter.message,
            created_ms=0,
            updated_ms=0,
        )
        return await self._asked(saga, back, None)

    async def _asked(self, saga: Saga, how: str, to: State | None) -> Outlook:
        if self._chain is None or self._policy is None:
            return Outlook(what=f"{how}; the chain is asked before anything is sent", resumes_to=to)
        found: Plan = await outlook(saga, TABLE, self._chain, self._views, self._policy)
        return Outlook(
            what=f"{how}: {found.what}",
            resumes_to=to,
            sends=found.sends,
            complete=found.complete,
        )


def _fate(entry: Entry) -> str:
    if entry.discarded is not None:
        return "its saga was discarded"
    if entry.state == State.DEAD_LETTERED:
        return "its saga has failed again since, with another entry"
    return f"its saga is {entry.state} by now"


def _repeated(saga: Saga) -> Outlook:
    """A message whose saga is there, and waits for nobody."""
    if saga.discarded is not None:
        what = f"saga {saga.id} has this message and was discarded: `saga resume {saga.id}`"
        return Outlook(what=f"its message would be dropped as a duplicate; {what}", sends=False)
    token = "" if saga.deployment is None else f" with token {saga.deployment.token}"
    complete = saga.state in (State.PUBLISHED, State.ACKED)
    return Outlook(
        what=("complete already" if complete else "its message would be dropped as a duplicate")
        + f": saga {saga.id} is {saga.state}{token}",
        sends=False,
        complete=complete,
    )


@asynccontextmanager
async def forecaster(settings: Settings, views: RedisViews) -> AsyncIterator[Forecaster]:
    """One that asks the chain. Raises ConfigError, a line a problem."""
    from adapters.metrics import Metrics  # noqa: PLC0415 - these load slowly
    from saga.chain_parts import open_chain  # noqa: PLC0415

    async with open_chain(settings, views.client, metrics=Metrics()) as parts:
        await parts.watcher.poll()
        yield Forecaster(views, parts.chain, settings.policy(parts.network))
