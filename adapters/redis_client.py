"""Redis clients, and the scripts that all writes go through."""

import functools
import re
from collections.abc import Callable, Coroutine, Iterable, Sequence
from importlib.resources import files
from typing import Any, ParamSpec, TypeVar

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    ConnectionError,  # noqa: A004 - redis-py's own name
    MasterDownError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TimeoutError,  # noqa: A004 - redis-py's own name
)

from adapters.redis_link import open_client
from saga.errors import StoreUnavailableError
from saga.redis_url import RedisServer

P = ParamSpec("P")
T = TypeVar("T")

Value = bytes | str | int | float

SOCKET_TIMEOUT_SECONDS = 5.0

_CAUSES = {
    "OOM": ("oom", "takes no writes: its memory is full (maxmemory)"),
    "READONLY": ("read_only", "takes no writes: it is a replica"),
    "NOREPLICAS": ("no_replicas", "takes no writes: too few replicas (min-replicas-to-write)"),
    "MISCONF": ("misconf", "takes no writes: it cannot save to its disk"),
    "MASTERDOWN": ("primary_down", "has lost its primary"),
    "CLUSTERDOWN": ("primary_down", "is down"),
    "UNBLOCKED": ("read_only", "became a replica"),
    "LOADING": ("loading", "is loading its data"),
    "BUSY": ("busy", "is busy with a script"),
    "NOPERM": ("permission", "does not allow something to the user in REDIS_URL"),
    "BADTYPE": ("bad_type", "holds something else under a key of ours, and nothing was written"),
}
"""Answers that mean "not now", by their first word: the cause, and what it says of Redis."""
_TYPES: tuple[tuple[type[RedisError], str], ...] = (
    (OutOfMemoryError, "OOM"),
    (ReadOnlyError, "READONLY"),
    (BusyLoadingError, "LOADING"),
    (MasterDownError, "MASTERDOWN"),
    (ClusterDownError, "CLUSTERDOWN"),
    (NoPermissionError, "NOPERM"),
)
"""Of these redis-py has taken the first word away."""
_WORD = re.compile(rf"(?:^|: -)({'|'.join(_CAUSES)}) ")
"""In front; or, before Redis 7, where a script's error quotes that of its command."""
_DISK_FULL = "No space left on device"
_ACL = "ACL failure in script"
"""Said without NOPERM in front."""


_SCRIPTS = (
    *("admit", "move", "claim_model", "intend", "take_due", "renew", "resume"),
    *("keep", "attempt", "raise_lane", "retire", "turn", "republish", "settle"),
    *("discard", "drop_letter", "replay_letter"),
)


def connect(where: str | RedisServer, *, retries: int = 2) -> "Redis":
    """A client for scripts and reads. Its retries may send a script twice: scripts know that.

    A server that accepts connections and says nothing costs a socket timeout for each try, and
    redis-py tries the handshake as often as the command.
    """
    return open_client(
        where,
        socket_timeout=SOCKET_TIMEOUT_SECONDS,
        socket_connect_timeout=SOCKET_TIMEOUT_SECONDS,
        health_check_interval=15,
        retry=Retry(ExponentialBackoff(cap=0.5, base=0.02), retries),
        max_connections=200,
    )


def connect_blocking(where: str | RedisServer, block_seconds: float) -> "Redis":
    """A client for blocking pops alone: one connection, no retry.

    redis-py repeats a command whose reply was lost; a repeated BLMOVE would strand one message and
    return the next (the sweeper would find it, late).
    """
    return open_client(
        where,
        socket_timeout=block_seconds + SOCKET_TIMEOUT_SECONDS,
        socket_connect_timeout=SOCKET_TIMEOUT_SECONDS,
        retry=Retry(NoBackoff(), 0),
        max_connections=2,
    )


def translated(call: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Raise StoreUnavailableError for whatever redis-py raises when the server is not usable."""

    @functools.wraps(call)
    async def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await call(*args, **kwargs)
        except RedisError as error:
            if (translation := unavailable(error)) is not None:
                raise translation from error
            raise

    return wrapper


def unavailable(error: RedisError) -> StoreUnavailableError | None:
    """What an error of redis-py means when it is about the server; None when it is about us."""
    if isinstance(error, AuthenticationError):
        reason = "Redis refused the credentials in REDIS_URL"
        return StoreUnavailableError(reason, cause="credentials")
    word = next((word for kind, word in _TYPES if isinstance(error, kind)), None)
    if word is None and isinstance(error, ResponseError) and _ACL in str(error):
        word = "NOPERM"
    if word is None and isinstance(error, ResponseError) and (found := _WORD.search(str(error))):
        word = found[1]
    if word is not None:
        cause, meaning = _CAUSES[word]
        if word == "MISCONF" and _DISK_FULL in str(error):
            cause, meaning = "disk_full", "takes no writes: its disk is full"
        return StoreUnavailableError(f"Redis {meaning}: {error}", cause=cause)
    if isinstance(error, (ConnectionError, TimeoutError)):
        return StoreUnavailableError(f"Redis: {type(error).__name__}: {error}")
    return None


class Scripts:
    """The Lua files of `adapters/lua`, each with the guard in front, called by name."""

    def __init__(self, client: "Redis") -> None:
        self._client = client
        folder = files("adapters").joinpath("lua")
        guard = folder.joinpath("_guard.lua").read_text("utf-8")
        self._scripts = {
            name: client.register_script(guard + folder.joinpath(f"{name}.lua").read_text("utf-8"))
            for name in _SCRIPTS
        }

    async def call(self, name: str, keys: Iterable[str], args: Iterable[Value]) -> object:
        """Run one script. One round trip; the source is sent only when the server lacks it."""
        return await self._scripts[name](keys=list(keys), args=list(args))

    async def call_and_wait(
        self, name: str, keys: Iterable[str], args: Iterable[Value], wait: Sequence[Value]
    ) -> tuple[object, object]:
        """Run one script, and behind it `wait` on the same connection; both answers, the second
        one perhaps a ResponseError. One round trip, two more where the server lacks the source."""
        script, names = self._scripts[name], list(keys)
        for known in (False, True):
            async with self._client.pipeline(transaction=False) as pipe:
                pipe.evalsha(script.sha, len(names), *names, *args)
                pipe.execute_command(*wait)
                answer, waited = await pipe.execute(raise_on_error=False)
            if not isinstance(answer, NoScriptError) or known:
                break
            await self._client.script_load(script.script)
        if isinstance(answer, Exception):
            raise answer
        return answer, waited
