"""Redis clients, and the scripts that all writes go through."""

import functools
from collections.abc import Callable, Coroutine, Iterable
from importlib.resources import files
from typing import Any, ParamSpec, TypeVar

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ConnectionError,  # noqa: A004 - redis-py's own name
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TimeoutError,  # noqa: A004 - redis-py's own name
)

from saga.errors import StoreUnavailableError

P = ParamSpec("P")
T = TypeVar("T")

Value = bytes | str | int | float

SOCKET_TIMEOUT_SECONDS = 5.0

_PASSING = (ConnectionError, TimeoutError, BusyLoadingError, ReadOnlyError, OutOfMemoryError)
# Answers that mean "not now", by the first word of the error.
_PASSING_WORDS = (
    "NOREPLICAS",
    "MISCONF",
    "MASTERDOWN",
    "LOADING",
    "CLUSTERDOWN",
    "UNBLOCKED",
    "BUSY ",
)


_SCRIPTS = (
    *("admit", "move", "claim_model", "intend", "take_due", "renew", "resume"),
    *("keep", "attempt", "raise_lane", "retire", "turn"),
)


def connect(url: str, *, retries: int = 2) -> "Redis":
    """A client for scripts and reads. Its retries may send a script twice: scripts know that.

    A server that accepts connections and says nothing costs a socket timeout for each try, and
    redis-py tries the handshake as often as the command.
    """
    client: Redis = Redis.from_url(
        url,
        socket_timeout=SOCKET_TIMEOUT_SECONDS,
        socket_connect_timeout=SOCKET_TIMEOUT_SECONDS,
        health_check_interval=15,
        retry=Retry(ExponentialBackoff(cap=0.5, base=0.02), retries),
        max_connections=200,
    )
    return client


def connect_blocking(url: str, block_seconds: float) -> "Redis":
    """A client for blocking pops alone: one connection, no retry.

    redis-py repeats a command whose reply was lost; a repeated BLMOVE would strand one message and
    return the next (the sweeper would find it, late).
    """
    client: Redis = Redis.from_url(
        url,
        socket_timeout=block_seconds + SOCKET_TIMEOUT_SECONDS,
        socket_connect_timeout=SOCKET_TIMEOUT_SECONDS,
        retry=Retry(NoBackoff(), 0),
        max_connections=2,
    )
    return client


def translated(call: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Raise StoreUnavailableError for whatever redis-py raises when the server is not usable."""

    @functools.wraps(call)
    async def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await call(*args, **kwargs)
        except AuthenticationError as error:
            raise StoreUnavailableError("Redis refused the credentials in REDIS_URL") from error
        except _PASSING as error:
            raise StoreUnavailableError(f"Redis: {type(error).__name__}: {error}") from error
        except ResponseError as error:
            if str(error).startswith(_PASSING_WORDS):
                raise StoreUnavailableError(f"Redis: {error}") from error
            raise

    return wrapper


class Scripts:
    """The Lua files of `adapters/lua`, each with the guard in front, called by name."""

    def __init__(self, client: "Redis") -> None:
        folder = files("adapters").joinpath("lua")
        guard = folder.joinpath("_guard.lua").read_text("utf-8")
        self._scripts = {
            name: client.register_script(guard + folder.joinpath(f"{name}.lua").read_text("utf-8"))
            for name in _SCRIPTS
        }

    async def call(self, name: str, keys: Iterable[str], args: Iterable[Value]) -> object:
        """Run one script. One round trip; the source is sent only when the server lacks it."""
        return await self._scripts[name](keys=list(keys), args=list(args))
