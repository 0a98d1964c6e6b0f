"""What the user in REDIS_URL may not do, found by doing it where it changes nothing."""

import hashlib
import re
from collections.abc import Iterable, Mapping

from redis.asyncio import Redis
from redis.exceptions import RedisError

from adapters.redis_client import unavailable
from adapters.redis_keys import RedisKeys

_SCRIPT = "redis.call('GET', KEYS[1]) return redis.call('SETRANGE', KEYS[1], 0, '')"
"""A read, and a write of nothing to a key that is never there."""
_SHA = hashlib.sha1(_SCRIPT.encode(), usedforsecurity=False).hexdigest()
_COMMAND = re.compile(r"'([^']+)' command")
"""How Redis names a command that it does not allow; of a key it says no more than that."""


async def refusals(client: "Redis", keys: RedisKeys, lists: Mapping[str, str]) -> list[str]:
    """One line that names all that is not allowed, or none. One round trip; raises RedisError.

    `lists`: the key of each list by the setting that names it.
    """
    ours = f"{keys.prefix}*"
    asked: list[tuple[str, tuple[str | int, ...]]] = [
        ("", ("INFO",)),
        (ours, ("GET", keys.probe)),
        (ours, ("SETRANGE", keys.probe, 0, "")),
        ("", ("SCRIPT LOAD", _SCRIPT)),
        (ours, ("EVALSHA", _SHA, 1, keys.probe)),
        *((key, (command, key)) for key in lists.values() for command in ("LLEN", "TYPE")),
    ]
    async with client.pipeline(transaction=False) as pipe:
        for _, command in asked:
            pipe.execute_command(*command)
        answers = await pipe.execute(raise_on_error=False)
    found = [
        (key, answer)
        for (key, _), answer in zip(asked, answers, strict=True)
        if isinstance(answer, RedisError)
    ]
    line = refusal(found)
    return [] if line is None else [line]


def refusal(answers: Iterable[tuple[str, RedisError]]) -> str | None:
    """The line for errors, each with the key that was asked for; None when none is about rights."""
    commands: dict[str, None] = {}
    touched: dict[str, None] = {}
    for key, error in answers:
        if (known := unavailable(error)) is None or known.cause != "permission":
            continue
        if named := _COMMAND.search(str(error)):
            commands[named[1].upper().replace("|", " ")] = None
        else:
            touched[key] = None
    parts = [f"run {', '.join(commands)}"] if commands else []
    parts += [f"touch the keys {', '.join(filter(None, touched))}".rstrip()] if touched else []
    if not parts:
        return None
    return f"REDIS_URL: the user may not {' or '.join(parts)}: grant it (ACL SETUSER)"
