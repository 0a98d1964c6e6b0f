"""`saga list` and `saga show`."""

import asyncio
from collections.abc import Sequence

from rich.table import Table

from adapters.log_setup import configure_logging
from adapters.redis_lane import RedisLane
from adapters.redis_views import RedisViews
from saga.cli.render import (
    Attempts,
    console,
    cost_line,
    document,
    history_documents,
    iso,
    print_json,
    safe,
    styled,
)
from saga.config import StoreSettings, load
from saga.errors import UsageError
from saga.fees import gwei
from saga.model import Attempt, HistoryEntry, Saga, State, Step
from saga.store import open_store, redis_keys


def list_sagas(state: State | None, *, as_json: bool) -> None:
    asyncio.run(_list(_loaded(), [state] if state else list(State), as_json=as_json))


def _loaded() -> StoreSettings:
    """The settings; and what is unreadable is logged to stderr, never into the output."""
    settings = load(StoreSettings)
    configure_logging(settings.LOG_LEVEL, settings.LOG_FORMAT)
    return settings


async def _list(settings: StoreSettings, states: Sequence[State], *, as_json: bool) -> None:
    table = Table("saga", "model", "state", "tries", "token", "updated", "reason")
    for column in table.columns:
        column.no_wrap = column.header in ("saga", "state", "token", "updated")
    async with open_store(settings) as (views, _):
        async for saga in views.sagas(states):
            if as_json:
                print_json(document(saga))
            else:
                table.add_row(*_row(saga))
    if not as_json:
        console().print(table)


def _row(saga: Saga) -> tuple[str, ...]:
    return (
        saga.id,
        safe(saga.model_id or ""),
        styled(saga.state),
        str(saga.attempts),
        saga.deployment.token if saga.deployment else "",
        iso(saga.updated_ms),
        safe(saga.error or ""),
    )


def show_saga(id_or_model: str, *, as_json: bool) -> None:
    """Raises UsageError when there is none."""
    asyncio.run(_show(_loaded(), id_or_model, as_json=as_json))


async def _show(settings: StoreSettings, id_or_model: str, *, as_json: bool) -> None:
    async with open_store(settings) as (views, _):
        saga = await views.find(id_or_model)
        if saga is None:
            raise UsageError(
                f"no saga and no model '{safe(id_or_model)}'; `saga list` shows all that there are"
            )
        history = await views.history(saga.id)
        siblings = await views.siblings(saga.model_id) if saga.model_id else []
        attempts, held = await _in_flight(settings, views, saga)
    others = [other for other in siblings if other.id != saga.id]
    if as_json:
        print_json(
            document(saga, attempts, held)
            | {
                "history": history_documents(history),
                "other_sagas_of_the_model": [
                    {"id": o.id, "state": o.state, "error": o.error} for o in others
                ],
            }
        )
        return
    _print_saga(saga, attempts, held)
    _print_history(history, others)


async def _in_flight(
    settings: StoreSettings, views: RedisViews, saga: Saga
) -> tuple[Attempts, str | None]:
    """Every transaction of the saga's unconfirmed steps; and why their lane is held, if it is."""
    attempts: dict[Step, Sequence[Attempt]] = {}
    held = None
    for step in Step:
        intent = saga.intent(step)
        if intent is None or saga.receipt(step) is not None:
            continue
        lane = RedisLane(
            views.client, redis_keys(settings), chain_id=intent.chain_id, sender=intent.sender
        )
        attempts[step] = await lane.attempts_of(intent)
        held = (await lane.standing()).hold or held
    return attempts, held


def _print_saga(saga: Saga, attempts: Attempts, held: str | None) -> None:
    out = console()
    out.print(f"{'saga':<10} {saga.id}   {styled(saga.state)}")
    shown: dict[str, object] = {
        "model": saga.model_id,
        "reason": saga.error,
        "class": saga.error_class,
        "duplicate": saga.duplicate_of,
        "conflict": saga.conflicts_with,
        "failed in": saga.failed_in,
        "discarded": saga.discarded,
        "held": held,
        "token": saga.deployment.token if saga.deployment else None,
        "cost": cost_line(saga),
        "tries": saga.attempts or None,
        "trace": saga.traceparent.split("-")[1] if saga.traceparent else None,
    }
    for step in Step:
        name, intent, receipt = step.value, saga.intent(step), saga.receipt(step)
        if receipt is not None:
            shown[name] = (
                f"{receipt.tx_hash} block {receipt.block_number} gas {receipt.gas_used} "
                f"at {receipt.gas_price / 1e9:g} gwei"
            )
        elif intent is not None:
            shown[name] = f"nonce {intent.nonce}, not confirmed yet"
            for number, attempt in enumerate(attempts[step], 1):
                shown[f"{name} {number}"] = (
                    f"{attempt.hash} {attempt.kind} at most {gwei(attempt.max_fee)} gwei"
                )
    for label, value in shown.items():
        if value is not None:
            out.print(f"{label:<10} {safe(value)}")


def _print_history(history: Sequence[HistoryEntry], others: Sequence[Saga]) -> None:
    out = console()
    table = Table("at", "what", "state", "worker", "fence", "note")
    for entry in history:
        state = f"{entry.was.value} → {styled(entry.state)}" if entry.was else styled(entry.state)
        note = " ".join(part for part in (entry.note, entry.tx) if part)
        table.add_row(
            iso(entry.at_ms), entry.kind, state, safe(entry.worker), str(entry.fence), safe(note)
        )
    out.print(table)
    for other in others:
        out.print(
            f"also for this model: {other.id} {styled(other.state)} {safe(other.error or '')}"
        )
