"""Draining a lane: its mark is set, what is outstanding is waited for, and the lane handed over; or
the mark is lifted again, whatever came in between."""

import asyncio
import secrets
import sys
import time
from collections.abc import Sequence
from contextlib import suppress

from adapters.drain import Remains
from adapters.former_keys import draining_to, handed_to
from adapters.redis_lane import Handover as Marking
from saga.cli.keys_desk import LaneDesk
from saga.errors import ChainUnavailableError, SagaError, StoreUnavailableError, UsageError

LOOK_SECONDS = 1.0
SHOWN = 64
"""Nonces that a refusal names one by one."""
STOPPED = "stopped: nothing was handed over"
_UNKEPT = "no replica keeps this lane: start one with the key"


class _NotOursError(UsageError):
    """The mark is somebody else's, or gone: there is nothing of ours to lift."""


async def drained(desk: LaneDesk, to: str, wait: float) -> Remains:
    """Mark the lane, wait until nothing of it is outstanding, retire it. `wait`: seconds.

    Raises UsageError when it is not handed over, also when this is cancelled: the text says how
    things stand. Raises StoreUnavailableError when the lane cannot be marked.

    SIDE EFFECTS: the mark in Redis. Where the lane is not handed over, it is taken away again.
    """
    name = secrets.token_hex(8)
    mark = await refuse_retired(desk, to)
    if not handed_to(mark):
        say(
            f"{desk.sender} gives no new nonces from now on; if this command is killed, run it "
            f"again, or lift the mark with `{desk.undo}`"
        )
    marking = asyncio.ensure_future(desk.lane.retire("drain", to, by=name))
    try:
        await _marked(desk, to, marking)
        return await _until_retired(desk, to, name, wait)
    except _NotOursError:
        raise
    except BaseException as error:
        await asyncio.wait([marking])  # it would come behind the lift, and stay
        await _undone(desk, to, name, error)
        raise


async def refuse_retired(desk: LaneDesk, to: str) -> str:
    """The lane's mark. Raises UsageError when it is retired to another address than this."""
    mark = (await desk.lane.standing()).retired
    other = handed_to(mark)
    if other and other != to:
        raise UsageError(
            f"{desk.sender} is retired already, to {other}: hand it back first with `saga keys "
            f"rotate --from {other} --to {desk.sender}`; where {other} never signed here, lift the "
            f"mark with `{desk.undo}`"
        )
    return mark


async def _marked(desk: LaneDesk, to: str, marking: "asyncio.Future[Marking]") -> None:
    """Wait for the mark; where this is cancelled, the write is under way all the same."""
    marked = await asyncio.shield(marking)
    if not marked.done:
        raise _NotOursError(_changed(desk, to, marked.mark))


async def _until_retired(desk: LaneDesk, to: str, name: str, wait: float) -> Remains:
    deadline = time.monotonic() + wait
    said = ""
    while True:
        remains, reasons = await _look(desk)
        if remains is not None:
            if not _stands(remains, to, name):
                raise _NotOursError(_changed(desk, to, remains.mark))
            if not reasons and not (reasons := await _unfinished(desk, to, name, remains)):
                return remains
        waiting = _waiting(remains, reasons)
        if waiting != said:
            say(waiting)
            said = waiting
        if time.monotonic() >= deadline:
            raise UsageError(f"not drained after {wait:g} s: {'; '.join(reasons[:3])}")
        await asyncio.sleep(LOOK_SECONDS)


def _waiting(remains: Remains | None, reasons: Sequence[str]) -> str:
    """One line for people."""
    out = "" if remains is None else f"{remains.out} out: "
    why = [*reasons[:3]]
    if remains is not None and not remains.keeper:
        why.append(_UNKEPT)
    return f"waiting, {out}{'; '.join(why)}"


async def _look(desk: LaneDesk) -> tuple[Remains | None, Sequence[str]]:
    """What is left, and the reasons; a node or Redis that is away may come back."""
    try:
        remains = await desk.drain().look()
    except ChainUnavailableError as error:
        return None, [f"WEB3_PROVIDER_URL: {error}"]
    except StoreUnavailableError as error:
        return None, [str(error)]
    return remains, remains.reasons


def _stands(remains: Remains, to: str, name: str) -> bool:
    """Whether the mark is ours; or all of it is done, which only we, or another to the same
    address, can have brought about."""
    ours = draining_to(remains.mark) == to and remains.marked_by == name
    return ours or handed_to(remains.mark) == to


async def _unfinished(desk: LaneDesk, to: str, name: str, remains: Remains) -> Sequence[str]:
    """Hand the lane over; the reason when that did not happen, or is not known."""
    try:
        handed = await desk.lane.retire("finish", to, seen=remains.next, by=name)
    except StoreUnavailableError as error:
        return [str(error)]  # the next look tells
    if handed.done:
        return []
    if handed.stale:
        return ["a nonce was taken meanwhile"]
    raise _NotOursError(_changed(desk, to, handed.mark))


def _changed(desk: LaneDesk, to: str, mark: str) -> str:
    """What somebody else has done to the lane meanwhile."""
    if other := handed_to(mark):
        return f"somebody else has handed {desk.sender} over to {other} meanwhile"
    if other := draining_to(mark):
        return (
            f"another `saga keys rotate` drains {desk.sender} for {other} now: this one has handed "
            "nothing over, and leaves the mark to it"
        )
    return (
        f"somebody else has lifted the mark of {desk.sender} meanwhile: it gives nonces again, and "
        f"was not handed over to {to}"
    )


# --- Undoing.


async def _undone(desk: LaneDesk, to: str, name: str, error: BaseException) -> None:
    """Lift our mark, and say which nonces and sagas were in the way.

    Raises UsageError where the error does not say how things stand.
    """
    try:
        lifted = await desk.lane.retire("lift", to, by=name)
    except StoreUnavailableError as lost:
        raise UsageError(
            f"{lost}: it is not known whether {desk.sender} is marked, or handed over; run this "
            f"again, or lift the mark with `{desk.undo}`: until then its sagas may wait"
        ) from None
    if handed_to(lifted.mark) == to:
        raise UsageError(
            f"{desk.sender} was handed over to {to}; run this again to see what is left to do"
        ) from None
    if not lifted.done:
        raise _NotOursError(_changed(desk, to, lifted.mark)) from None
    say(f"{desk.sender} gives nonces again")
    if isinstance(error, asyncio.CancelledError):
        raise UsageError(STOPPED) from None
    if isinstance(error, UsageError):
        with suppress(SagaError):  # said already, as the reason
            await _name_waiters(desk)


async def _name_waiters(desk: LaneDesk) -> None:
    """A line for each nonce that is out, by its record, and each that is not confirmed."""
    remains = await desk.drain().look()
    waiters = {each.nonce: each for each in await desk.drain().unconfirmed()}
    nonces = range(remains.spent, remains.spent + remains.out)
    for record in await desk.lane.read(nonces[:SHOWN]):
        waiter = waiters.pop(record.nonce, None)
        if waiter is not None or record.saga_id:
            saga_id = record.saga_id if waiter is None else waiter.saga_id
            model = "" if waiter is None or not waiter.model_id else f", model {waiter.model_id}"
            say(f"nonce {record.nonce}: {record.step or 'a step'} of saga {saga_id}{model}")
        else:
            say(f"nonce {record.nonce}: of no saga; the lane's keeper fills it")
    for waiter in list(waiters.values())[:SHOWN]:
        if waiter.nonce not in nonces:
            say(f"nonce {waiter.nonce}: {waiter.step} of saga {waiter.saga_id}, not confirmed")


def say(line: str) -> None:
    """Progress, for people."""
    cleaned = "".join(each if each.isprintable() else "?" for each in line)
    sys.stderr.write(f"saga: {cleaned}\n")
    sys.stderr.flush()
