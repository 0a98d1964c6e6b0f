"""`saga pause` and `saga resume-intake`."""

import asyncio
import sys

import msgspec

from adapters.redis_intake import RedisIntake
from saga.backpressure import Pause
from saga.cli.actor import operator
from saga.cli.render import iso, print_json, safe
from saga.config import StoreSettings, load
from saga.errors import UsageError
from saga.store import open_store, redis_keys

MAX_REASON = 500


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What a command has changed."""

    paused: bool
    before: Pause | None
    """The pause that was there."""


def pause_intake(reason: str, *, as_json: bool) -> None:
    """Raises UsageError for a reason that nobody would read."""
    if len(reason) > MAX_REASON:
        raise UsageError(f"--reason has {len(reason)} characters; {MAX_REASON} are the most")
    by = operator()
    before = asyncio.run(_pause(load(StoreSettings), by, reason))
    told = "intake paused: no new messages are taken; sagas under way go on"
    if before is not None:
        told += f" (it was {_since(before)} already)"
    _tell(Told(paused=True, before=before), told, as_json=as_json)


def resume_intake(*, as_json: bool) -> None:
    before = asyncio.run(_resume(load(StoreSettings)))
    told = "intake goes on" if before else "intake was not paused"
    if before is not None:
        told += f" (it was {_since(before)})"
    _tell(Told(paused=False, before=before), told, as_json=as_json)


def _since(pause: Pause) -> str:
    return f"{safe(pause)}, {iso(pause.at_ms)}"


def _tell(document: Told, text: str, *, as_json: bool) -> None:
    if as_json:
        print_json(document)
    else:
        sys.stdout.write(text + "\n")


async def _pause(settings: StoreSettings, by: str, reason: str) -> Pause | None:
    async with open_store(settings) as (views, _):
        return await RedisIntake(views.client, redis_keys(settings)).pause(by, reason)


async def _resume(settings: StoreSettings) -> Pause | None:
    async with open_store(settings) as (views, _):
        return await RedisIntake(views.client, redis_keys(settings)).resume()
