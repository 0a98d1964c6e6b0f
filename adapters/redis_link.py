"""How redis-py is told where Redis is: one server or the primary of sentinels, with TLS or not."""

import asyncio
import ssl
from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis, SSLConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError, Sentinel, SentinelManagedConnection
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    ConnectionError,  # noqa: A004 - redis-py's own name
    InvalidResponse,
    NoPermissionError,
    RedisError,
    ResponseError,
    TimeoutError,  # noqa: A004 - redis-py's own name
)

from saga.errors import ConfigError
from saga.redis_url import Login, RedisServer, Sentinels, is_sentinel, is_tls, parse_sentinels

SENTINEL_SECONDS = 1.0
"""For a sentinel's answer, before the next one is asked: one of them may be dead."""


class NoPrimaryError(MasterNotFoundError):
    """No sentinel has named a primary that is up."""

    def __init__(self, *, silent: int, refused: int, known: int, strange: int = 0) -> None:
        told = [
            f"{silent} of the sentinels do not answer" if silent else "",
            f"{refused} refuse the credentials" if refused else "",
            f"{known} know the primary and say that it is down" if known else "",
            f"{strange} are no sentinels" if strange else "",
        ]
        super().__init__("; ".join(filter(None, told)) or "the sentinels know no such primary")
        self.strange = strange > 0 and not silent and not known
        """All answer, and some as something else than a sentinel: waiting does not help."""
        self.refused = refused > 0 and not silent and not known and not strange
        """All that answer refuse us: waiting does not help."""
        self.unknown = not silent and not refused and not known and not strange
        """All answer, and none knows the name."""


class _Sentinel(Sentinel):
    """Says why there is no primary, without the clients' innards."""

    async def discover_master(self, service_name: str) -> tuple[str, int]:
        """Raises NoPrimaryError."""
        silent = refused = known = strange = 0
        for position, sentinel in enumerate(self.sentinels):
            try:
                masters: Any = await sentinel.sentinel_masters()
            except (AuthenticationError, NoPermissionError):
                refused += 1
            except (ResponseError, InvalidResponse):
                strange += 1
            except (ConnectionError, TimeoutError):
                silent += 1
            else:
                state = masters.get(service_name)
                if state and self.check_master_state(state, service_name):
                    # The one that answers is asked first from now on.
                    self.sentinels.insert(0, self.sentinels.pop(position))
                    return state["ip"], state["port"]
                known += state is not None
        raise NoPrimaryError(silent=silent, refused=refused, known=known, strange=strange)


class _Asking(SentinelManagedConnection):
    """Asks the sentinels each time it connects.

    redis-py's own asks only when it leaves the pool; a retry goes back to the server that has just
    died, or was demoted (redis-py #3874), and writes there may be lost.
    """

    async def connect_to(self, address: tuple[str, int]) -> None:
        self.host, self.port = address
        await super().connect_check_health(
            check_health=self.connection_pool.check_connection, retry_socket_connect=False
        )

    async def connect_check_health(
        self,
        check_health: bool = True,  # noqa: FBT001, FBT002 - theirs
        retry_socket_connect: bool = True,  # noqa: FBT001, FBT002 - theirs
    ) -> None:
        await self.connect()  # type: ignore[no-untyped-call]


class _AskingTls(_Asking, SSLConnection):
    """The same, encrypted."""


class _Client(Redis):
    """A client that can be closed whatever state the server is in.

    With TLS, closing waits for the other side's farewell, and raises when there is none.
    """

    sentinels: Sequence["Redis"] = ()
    """Clients of the sentinels that name its primary: closed with it."""

    async def aclose(self, close_connection_pool: bool | None = None) -> None:  # noqa: FBT001 - theirs
        closing = [super().aclose(close_connection_pool), *(s.aclose() for s in self.sentinels)]
        for ended in await asyncio.gather(*closing, return_exceptions=True):
            if isinstance(ended, BaseException) and not isinstance(ended, RedisError | OSError):
                raise ended


def open_client(where: str | RedisServer, **options: Any) -> "Redis":
    """A client; nothing is connected yet. `options`: redis-py's, those of a connection.

    With sentinels, each new connection asks them for the primary; a connection whose server says
    that it is a replica by now (READONLY) is closed. So any retry goes to the new primary. Raises
    ConfigError.
    """
    server = RedisServer(where) if isinstance(where, str) else where
    if is_sentinel(server.url):
        return _of_sentinels(server, parse_sentinels(server.url), options)
    tls = _tls(server) if is_tls(server.url) else {}
    try:
        client: Redis = _Client.from_url(server.url, **options, **tls)
    except (ValueError, TypeError):  # whose text may quote it
        raise ConfigError(["REDIS_URL has a malformed option after the question mark"]) from None
    return client


def _of_sentinels(server: RedisServer, named: Sentinels, options: dict[str, Any]) -> "Redis":
    tls = {"ssl": True, **_tls(server)} if named.tls else {}
    options |= _login(named.login) | tls
    sentinel = _Sentinel(  # type: ignore[no-untyped-call]
        named.hosts,
        sentinel_kwargs={
            "socket_timeout": SENTINEL_SECONDS,
            "socket_connect_timeout": SENTINEL_SECONDS,
            "retry": Retry(NoBackoff(), 0),
            **_login(named.sentinel_login),
            **tls,
        },
    )
    client: _Client = sentinel.master_for(
        named.service,
        redis_class=_Client,
        connection_class=_AskingTls if named.tls else _Asking,
        db=named.db,
        **options,
    )
    client.sentinels = sentinel.sentinels
    return client


def _login(login: Login) -> dict[str, str]:
    given = {"username": login.username, "password": login.password}
    return {name: value for name, value in given.items() if value is not None}


def _tls(server: RedisServer) -> dict[str, Any]:
    """The certificate must be of the host that was asked for, from an authority we trust."""
    return {
        "ssl_cert_reqs": "required",
        "ssl_check_hostname": True,
        "ssl_min_version": ssl.TLSVersion.TLSv1_2,
        "ssl_ca_certs": server.ca_file,
        "ssl_certfile": server.cert_file,
        "ssl_keyfile": server.key_file,
    }


def unreached(error: BaseException) -> str | None:
    """The line for what waiting does not mend, or None: certificates, and a name no sentinel has.

    Alerts of the server are told by their words in OpenSSL's text (`tlsv13 alert certificate
    required`): redis-py wraps them, and Python has no class for them.
    """
    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) and cause not in causes:
        causes.append(cause)
    for each in causes:
        if isinstance(each, ssl.SSLCertVerificationError):
            return (
                f"REDIS_URL: the certificate of Redis is refused ({each.verify_message}); "
                "REDIS_CA_FILE names whom to trust, and the host must be one that it is for"
            )
        text = str(each).lower().replace("_", " ")
        if "alert" in text and ("certificate" in text or "unknown ca" in text):
            return (
                "REDIS_URL: Redis refuses our certificate, or wants one; set REDIS_CERT_FILE and "
                "REDIS_KEY_FILE to one that it trusts"
            )
    if isinstance(error, NoPrimaryError) and error.strange:
        return (
            "REDIS_URL: what answers there is no sentinel (port 26379?); one server alone is "
            "redis://host:port"
        )
    if isinstance(error, NoPrimaryError) and error.refused:
        return "REDIS_URL: the sentinels refuse the credentials; end it with ?sentinel_password=…"
    if isinstance(error, NoPrimaryError) and error.unknown:
        return (
            "REDIS_URL: the sentinels know no primary of this name; it comes after the hosts: "
            "host:port,…/name"
        )
    return None
