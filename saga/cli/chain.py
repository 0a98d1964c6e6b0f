"""`saga chain bump` and `saga chain cancel`: an operator's hand on transactions that are out.

Both put one more signed transaction on a nonce that a saga has already taken: stored first, with
the operator's name in the saga's history, then sent. What is mined is left alone.
"""

import asyncio
import sys
from collections.abc import Sequence

import msgspec
from rich.console import Console

from adapters.rpc import RpcError
from adapters.rpc_errors import SendVerdict, send_verdict
from saga.cli.actor import operator
from saga.cli.desk import Desk, open_desk
from saga.cli.render import console, print_json, safe
from saga.cli.replacement import Order, Planned, plan_replacements
from saga.config import Settings, load
from saga.errors import UsageError
from saga.fees import gwei
from saga.model import Attempt, AttemptKind, Saga, Step


class Line(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was, or would be, done with one nonce. Fees per gas, in gwei, exact."""

    saga_id: str
    model_id: str | None
    step: Step
    nonce: int
    result: str
    done: bool
    """Whether a transaction was stored."""
    kind: AttemptKind | None = None
    replaces: str | None = None
    old_max_fee_gwei: str | None = None
    old_max_priority_fee_gwei: str | None = None
    max_fee_gwei: str | None = None
    max_priority_fee_gwei: str | None = None
    transaction_hash: str | None = None


def bump_saga(name: str, *, dry_run: bool, as_json: bool) -> None:
    """Raises UsageError when nothing of it is out, all of it is mined, or a limit forbids it."""
    _report(asyncio.run(_replace(name, "bump", dry_run=dry_run)), as_json=as_json)


def cancel_saga(name: str, *, dry_run: bool, as_json: bool, yes: bool) -> None:
    """The same, and raises UsageError when nobody says yes."""
    if not (yes or dry_run):
        _confirm(name)
    _report(asyncio.run(_replace(name, "cancel", dry_run=dry_run)), as_json=as_json)


def _confirm(name: str) -> None:
    """Show what would be sent, and ask; what is sent is found out anew afterwards."""
    if not sys.stdin.isatty():
        raise UsageError("there is no terminal to ask on: give --yes to cancel, or --dry-run")
    lines = asyncio.run(_replace(name, "cancel", dry_run=True))
    _print(lines, Console(stderr=True, highlight=False))
    sys.stderr.write("Cancel? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise UsageError("nothing was cancelled")


async def _replace(name: str, order: Order, *, dry_run: bool) -> list[Line]:
    async with open_desk(load(Settings)) as every:
        saga = await every.views.find(name)
        if saga is None:
            raise UsageError(f"no saga and no model '{safe(name)}'")
        desk, planned, ended = await plan_replacements(every, saga, order)
        left = [
            Line(
                saga_id=saga.id,
                model_id=saga.model_id,
                step=intent.step,
                nonce=intent.nonce,
                result=f"left alone: {end}",
                done=False,
            )
            for intent, end in ended
        ]
        if dry_run:
            return [_line(saga, plan, f"would be sent: {_what(plan)}") for plan in planned] + left
        return await _carry_out(desk, saga, planned, order) + left


# --- Doing it.


async def _carry_out(
    desk: Desk, saga: Saga, planned: Sequence[Planned], order: Order
) -> list[Line]:
    """Sign all, store one after the other, send what is stored: in this order.

    SIDE EFFECTS: transactions of the key, entries in the saga's history.
    """
    actor = operator()
    signed = [(plan, await _signed(desk, plan)) for plan in planned]
    stored: list[tuple[Planned, Attempt]] = []
    lines: list[Line] = []
    for plan, attempt in signed:
        was, now = gwei(plan.record.attempts[-1].max_fee), gwei(attempt.max_fee)
        note = f"{order}, nonce {plan.record.nonce}, at most {now} gwei instead of {was}"
        if await desk.lane.add_attempt(
            plan.record, attempt, note=note, worker=actor, state=saga.state
        ):
            count = len(plan.record.attempts) + 1
            if why := await desk.lane.unsettled(plan.record.nonce, count):
                result = f"stored and not sent: {why}; the lane's keeper sends it"
                lines.append(_line(saga, plan, result))
            else:
                stored.append((plan, attempt))
        else:
            lines.append(_line(saga, plan, await _changed(desk, plan)))
    results = await _sent(desk, [attempt for _, attempt in stored])
    return [
        _line(saga, plan, result, attempt)
        for (plan, attempt), result in zip(stored, results, strict=True)
    ] + lines


async def _signed(desk: Desk, plan: Planned) -> Attempt:
    """Raises TamperedError when the stored bytes are not the key's."""
    if plan.kind is AttemptKind.CALL:
        return await desk.signer.resign(plan.record.attempts[-1].raw, plan.price)
    return await desk.signer.self_send(plan.record.nonce, desk.chain_id, plan.price, plan.kind)


async def _changed(desk: Desk, plan: Planned) -> str:
    """What the record of a nonce says now, after it was not what had been read."""
    (record,) = await desk.lane.read([plan.record.nonce])
    what = "left alone: the record has changed meanwhile"
    if not record.attempts:
        return f"{what}: the saga has moved on"
    last = record.attempts[-1]
    return f"{what}: the last transaction is {last.hash}, at most {gwei(last.max_fee)} gwei"


async def _sent(desk: Desk, attempts: Sequence[Attempt]) -> list[str]:
    """What became of each: nodes that do not take it now are given it again by the keeper."""
    results = []
    for outcomes in await desk.rpc.broadcast([attempt.raw for attempt in attempts]):
        taken = [
            outcome
            for outcome in outcomes
            if isinstance(outcome, str)
            or (isinstance(outcome, RpcError) and send_verdict(outcome) is SendVerdict.KNOWN)
        ]
        if taken:
            results.append("sent" if len(outcomes) == 1 else f"sent to {len(taken)} nodes")
        else:
            said = "; ".join(dict.fromkeys(str(outcome) for outcome in outcomes))
            results.append(f"stored, but no node has taken it: {said}")
    return results


# --- Saying it.


def _what(plan: Planned) -> str:
    match plan.kind:
        case AttemptKind.CALL:
            return "the same call with higher fees"
        case AttemptKind.CANCEL:
            return "a self-send of nothing; the saga ends as cancelled once it is mined"
        case AttemptKind.FILL:
            return "a self-send of nothing, which spends the nonce of a saga that has ended"


def _line(saga: Saga, plan: Planned, result: str, attempt: Attempt | None = None) -> Line:
    last = plan.record.attempts[-1]
    return Line(
        saga_id=saga.id,
        model_id=saga.model_id,
        step=plan.step,
        nonce=plan.record.nonce,
        result=result,
        done=attempt is not None,
        kind=plan.kind,
        replaces=last.hash,
        old_max_fee_gwei=gwei(last.max_fee),
        old_max_priority_fee_gwei=gwei(last.max_priority_fee),
        max_fee_gwei=gwei(plan.price.max_fee),
        max_priority_fee_gwei=gwei(plan.price.max_priority_fee),
        transaction_hash=None if attempt is None else attempt.hash,
    )


def _report(lines: Sequence[Line], *, as_json: bool) -> None:
    """Raises UsageError after the lines when something that was to be done was not."""
    if as_json:
        for line in lines:
            print_json(line)
    else:
        _print(lines, console())
    if any(line.kind is not None and line.result.startswith("left alone") for line in lines):
        raise UsageError("not everything was done; the command can be given again")


def _print(lines: Sequence[Line], out: Console) -> None:
    for line in lines:
        out.print(f"{line.step}, nonce {line.nonce}: {safe(line.result)}", soft_wrap=True)
        if line.kind is None:
            continue
        out.print(
            f"  max fee {line.old_max_fee_gwei} → {line.max_fee_gwei} gwei, "
            f"tip {line.old_max_priority_fee_gwei} → {line.max_priority_fee_gwei} gwei"
        )
        out.print(f"  replaces {line.replaces}", soft_wrap=True)
        if line.transaction_hash:
            out.print(f"  by       {line.transaction_hash}", soft_wrap=True)
