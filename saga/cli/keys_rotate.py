"""`saga keys rotate`: drain a key's lane, prove that nothing of it is outstanding, hand it over.

Run it with the old key's settings while its replicas run: they finish what is out, and take no new
nonces. When it is done, start them again with the new key.
"""

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import msgspec

from adapters.drain import Drain, Remains
from adapters.former_keys import draining_to, handed_to
from adapters.log_setup import configure_logging
from adapters.redis_lane import RedisLane
from adapters.redis_lanes import RedisLanes
from adapters.redis_views import RedisViews
from adapters.rpc_pool import RpcPool
from saga.checks import check_address
from saga.cli.keys_desk import NodeSettings, open_node
from saga.cli.keys_handover import Handover, ToDo, left_to_do, print_handover
from saga.cli.render import print_json
from saga.config import StoreSettings, load
from saga.errors import (
    ChainUnavailableError,
    ConfigError,
    SagaError,
    StoreUnavailableError,
    UsageError,
)
from saga.signer_settings import SignerSettings
from saga.signers import forget_environment, open_signers
from saga.store import open_store, redis_keys

LOOK_SECONDS = 1.0
SHOWN = 64
"""Nonces that a refusal names one by one."""


class _Desk(msgspec.Struct, frozen=True, kw_only=True):
    """The old key's lane, and what is asked about it."""

    rpc: RpcPool
    views: RedisViews
    lane: RedisLane
    settings: NodeSettings
    signing: SignerSettings | None
    """None where --from names the key."""

    def drain(self) -> Drain:
        return Drain(self.rpc, self.lane, self.views, self.settings.CONFIRMATIONS)


def rotate_keys(to: str, *, sender: str | None, wait: float, dry_run: bool, as_json: bool) -> None:
    """`sender`: the old key's address, where it cannot be opened. `wait`: seconds.

    Raises UsageError when the lane is not handed over, with the reason.
    """
    configure_logging("ERROR", "json")
    heir, old = _address("--to", to), None if sender is None else _address("--from", sender)
    try:
        done = asyncio.run(_rotate(heir, old, wait, dry_run=dry_run))
    except asyncio.CancelledError:
        raise UsageError("stopped: nothing was handed over") from None
    if as_json:
        print_json(done)
    else:
        print_handover(done)


def _address(option: str, value: str) -> str:
    try:
        return check_address(value)
    except ValueError as error:
        raise UsageError(f"{option} {error}") from None


async def _rotate(to: str, sender: str | None, wait: float, *, dry_run: bool) -> Handover:
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - this is one
    # So that the mark is lifted; Ctrl-C does the same.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with _opened(sender) as desk:
        if to == desk.lane.sender:
            return await _lift(desk, dry_run=dry_run)
        # Before anything is marked: what cannot be told now cannot be printed at the end either.
        to_do = await left_to_do(desk.rpc, desk.settings, desk.signing, desk.lane.sender, to)
        if dry_run:
            return await _rehearsed(desk, to, to_do)
        remains = await _drained(desk, to, wait)
        return _handover(desk, to, "retired", remains, to_do)


@asynccontextmanager
async def _opened(sender: str | None) -> AsyncIterator[_Desk]:
    """The key is opened for its address alone."""
    signing = load(SignerSettings) if sender is None else None
    problems: list[str] = []
    for kind in (StoreSettings, NodeSettings):
        try:
            load(kind)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    store, node = load(StoreSettings), load(NodeSettings)
    forget_environment()
    if signing is not None:
        async with open_signers(signing) as signers:
            addresses = [signer.address for signer in signers]
        if len(addresses) > 1:
            raise UsageError(f"several keys are set: give --from, one of {', '.join(addresses)}")
        (sender,) = addresses
    assert sender is not None  # noqa: S101 - one of the two
    async with open_node(node) as (rpc, chain_id), open_store(store) as (views, _):
        lane = RedisLanes(views.client, redis_keys(store)).lane(chain_id, sender)
        yield _Desk(rpc=rpc, views=views, lane=lane, settings=node, signing=signing)


# --- Undoing, rehearsing, doing.


async def _lift(desk: _Desk, *, dry_run: bool) -> Handover:
    """Hand the lane back to its own key."""
    standing = await desk.lane.standing()
    result = "nothing to lift"
    if standing.retired:
        result = "would be lifted" if dry_run else "lifted"
    if not dry_run:
        await desk.lane.retire("lift")
    return Handover(
        chain_id=desk.lane.chain_id,
        old=desk.lane.sender,
        new=desk.lane.sender,
        result=result,
        next_nonce=standing.next,
        reasons=[],
        to_do=ToDo(),
    )


async def _rehearsed(desk: _Desk, to: str, to_do: ToDo) -> Handover:
    """What stands in the way now; nothing is changed."""
    standing = await desk.lane.standing()
    if (other := handed_to(standing.retired)) and other != to:
        raise UsageError(_elsewhere(desk.lane.sender, other))
    remains = await desk.drain().look()
    result = "would be drained" if remains.reasons else "would be retired"
    return _handover(desk, to, result, remains, to_do)


async def _drained(desk: _Desk, to: str, wait: float) -> Remains:
    """Mark the lane, wait until nothing of it is outstanding, retire it.

    SIDE EFFECTS: the mark in Redis. Where the lane is not handed over, it is taken away again.
    """
    marked = await desk.lane.retire("drain", to)
    if not marked.done:
        raise UsageError(_elsewhere(desk.lane.sender, handed_to(marked.mark)))
    if draining_to(marked.mark):
        _say(
            f"{desk.lane.sender} gives no new nonces; if this command is killed, run it again, or "
            f"lift the mark with `saga keys rotate --to {desk.lane.sender}`"
        )
    try:
        return await _until_retired(desk, to, wait)
    except BaseException as error:
        await _undone(desk, to, error)
        raise


async def _until_retired(desk: _Desk, to: str, wait: float) -> Remains:
    deadline = time.monotonic() + wait
    said: Sequence[str] = ()
    while True:
        remains, reasons = await _look(desk)
        if remains is not None and not reasons:
            handed = await desk.lane.retire("finish", to, seen=remains.next)
            if handed.done:
                return remains
            if not handed.stale:
                raise UsageError("somebody else has changed the lane's mark meanwhile")
            reasons = ["a nonce was taken meanwhile"]
        if reasons != said:
            out = "" if remains is None else f"{remains.out} out: "
            _say(f"waiting, {out}{'; '.join(reasons[:3])}")
            said = reasons
        if time.monotonic() >= deadline:
            raise UsageError(f"not drained after {wait:g} s: {'; '.join(reasons[:3])}")
        await asyncio.sleep(LOOK_SECONDS)


async def _look(desk: _Desk) -> tuple[Remains | None, Sequence[str]]:
    """What is left, and the reasons; a node or Redis that is away may come back."""
    try:
        remains = await desk.drain().look()
    except ChainUnavailableError as error:
        return None, [f"WEB3_PROVIDER_URL: {error}"]
    except StoreUnavailableError as error:
        return None, [str(error)]
    return remains, remains.reasons


async def _undone(desk: _Desk, to: str, error: BaseException) -> None:
    """Lift the mark, and say which nonces and sagas were in the way."""
    try:
        lifted = await desk.lane.retire("lift", to)
    except StoreUnavailableError:
        _say(
            f"the lane is still marked: lift it with `saga keys rotate --to {desk.lane.sender}`, "
            "or its sagas wait"
        )
        return
    if not lifted.done:
        return  # somebody else's mark
    _say(f"{desk.lane.sender} gives nonces again")
    if isinstance(error, UsageError):
        try:
            await _name_waiters(desk)
        except SagaError:
            return  # said already, as the reason


async def _name_waiters(desk: _Desk) -> None:
    """A line for each nonce that is out, by its record, and each that is not confirmed."""
    remains = await desk.drain().look()
    waiters = {each.nonce: each for each in await desk.drain().unconfirmed()}
    nonces = range(remains.spent, remains.spent + remains.out)
    for record in await desk.lane.read(nonces[:SHOWN]):
        waiter = waiters.pop(record.nonce, None)
        if waiter is not None or record.saga_id:
            saga_id = record.saga_id if waiter is None else waiter.saga_id
            model = "" if waiter is None or not waiter.model_id else f", model {waiter.model_id}"
            _say(f"nonce {record.nonce}: {record.step or 'a step'} of saga {saga_id}{model}")
        else:
            _say(f"nonce {record.nonce}: of no saga; the lane's keeper fills it")
    for waiter in list(waiters.values())[:SHOWN]:
        if waiter.nonce not in nonces:
            _say(f"nonce {waiter.nonce}: {waiter.step} of saga {waiter.saga_id}, not confirmed")


def _elsewhere(sender: str, other: str) -> str:
    return (
        f"{sender} is retired already, to {other}: hand it back first with `saga keys rotate --to "
        f"{sender}`, run with the settings of {other}"
    )


def _handover(desk: _Desk, to: str, result: str, remains: Remains, to_do: ToDo) -> Handover:
    return Handover(
        chain_id=desk.lane.chain_id,
        old=desk.lane.sender,
        new=to,
        result=result,
        next_nonce=remains.next,
        reasons=remains.reasons,
        to_do=to_do,
    )


def _say(line: str) -> None:
    """Progress, for people."""
    cleaned = "".join(each if each.isprintable() else "?" for each in line)
    sys.stderr.write(f"saga: {cleaned}\n")
    sys.stderr.flush()
