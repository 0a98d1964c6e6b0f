"""`saga resume`, also installed as `saga-resume`."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import msgspec
from rich.table import Table

from adapters.log_setup import configure_logging
from adapters.metrics import Metrics
from adapters.redis_views import RedisViews
from saga.cli.actor import operator
from saga.cli.render import console, print_json, safe, styled
from saga.config import Settings, StoreSettings, load
from saga.errors import IllegalEdgeError, UsageError
from saga.machine import Guard
from saga.model import Saga, State
from saga.plan import plan
from saga.store import open_store
from states.table import TABLE


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """What was, or would be, done with one saga."""

    id: str
    model_id: str | None
    state: State
    resumes_to: State | None = None
    result: str
    would_send: bool | None = None


def resume_sagas(
    ids: Sequence[str], *, all_: bool, state: State | None, dry_run: bool, as_json: bool
) -> None:
    """Raises UsageError when nothing, or nothing sensible, was chosen."""
    if not (ids or all_ or state):
        raise UsageError("name sagas or models, or give --all or --state")
    if state in (State.ACKED, State.SKIPPED):
        raise UsageError(f"--state {state}: these sagas are finished")
    settings = load(StoreSettings)
    configure_logging(settings.LOG_LEVEL, settings.LOG_FORMAT)  # to stderr, never into the output
    states = [State.DEAD_LETTERED] if all_ else []
    if state is not None:
        states = [state]
    lines = asyncio.run(_dry(ids, states) if dry_run else _resume(ids, states))
    if as_json:
        for line in lines:
            print_json(line)
    else:
        _print(lines)


async def _chosen(
    views: RedisViews, ids: Sequence[str], states: Sequence[State]
) -> AsyncIterator[Saga]:
    for name in ids:
        saga = await views.find(name)
        if saga is None:
            raise UsageError(f"no saga and no model '{safe(name)}'")
        if saga.discarded is not None and name != saga.id:
            raise UsageError(f"saga {saga.id} was discarded ({safe(saga.discarded)}): name its id")
        yield saga
    async for saga in views.sagas(states):
        if saga.discarded is None:
            yield saga


async def _resume(ids: Sequence[str], states: Sequence[State]) -> list[Line]:
    actor = operator()
    answers = {
        "OK": "resumed",
        "LEASED": "left alone: a worker is on it",
        "CONFLICT": "left alone: it has just moved",
        "GONE": "gone",
    }
    lines, guard = [], Guard(TABLE)
    async with open_store(load(StoreSettings)) as (views, _):
        # All are read first: what is resumed leaves the index that the pages are read from.
        for saga in [saga async for saga in _chosen(views, ids, states)]:
            to, result = None, "finished: nothing to resume"
            try:
                to = await views.resume_target(saga, guard)
            except IllegalEdgeError as error:  # one broken saga must not stop the others
                result = f"left alone: {error}"
            if to is not None:
                result = answers[await views.resume(saga, to, actor=actor)]
            lines.append(_line(saga, to, result))
    return lines


async def _dry(ids: Sequence[str], states: Sequence[State]) -> list[Line]:
    from saga.chain_parts import open_chain  # noqa: PLC0415 - the chain's libraries load slowly

    settings = load(Settings)
    lines, guard = [], Guard(TABLE)
    async with (
        open_store(settings) as (views, _),
        open_chain(settings, views.client, metrics=Metrics()) as parts,
    ):
        await parts.watcher.poll()
        policy = settings.policy(parts.network)
        async for saga in _chosen(views, ids, states):
            to = await views.resume_target(saga, guard)
            if to is None:
                lines.append(_line(saga, to, "finished: nothing to resume", sends=False))
                continue
            claim = None if to is State.RECEIVED else saga.claim
            resumed = msgspec.structs.replace(saga, state=to, claim=claim)
            found = await plan(resumed, TABLE, parts.chain, views, policy)
            lines.append(_line(saga, to, found.what, sends=found.sends))
    return lines


def _line(saga: Saga, to: State | None, result: str, *, sends: bool | None = None) -> Line:
    return Line(
        id=saga.id,
        model_id=saga.model_id,
        state=saga.state,
        resumes_to=to,
        result=result,
        would_send=sends,
    )


def _print(lines: Sequence[Line]) -> None:
    if not lines:
        console().print("no saga to resume")
        return
    table = Table("saga", "model", "state", "resumes to", "result", "sends a transaction")
    for line in lines:
        sends = {None: "", True: "yes", False: "no"}[line.would_send]
        to = styled(line.resumes_to) if line.resumes_to else ""
        table.add_row(
            line.id, safe(line.model_id or ""), styled(line.state), to, safe(line.result), sends
        )
    console().print(table)
