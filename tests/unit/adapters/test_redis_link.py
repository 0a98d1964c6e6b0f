"""What redis-py is told; nothing here is connected."""

import ssl

import pytest
from redis.asyncio import SSLConnection
from redis.asyncio.sentinel import SentinelManagedConnection

from adapters.redis_client import connect, connect_blocking
from adapters.redis_link import NoPrimaryError, unreached
from saga.errors import ConfigError
from saga.redis_url import RedisServer

SECRET = "hunter2"
SENTINELS = f"sentinel://us%40er:{SECRET}@one:1,two:2/main/3?sentinel_password=other"


@pytest.mark.parametrize("blocking", [False, True])
@pytest.mark.parametrize("tls", [False, True])
def test_of_sentinels(*, blocking: bool, tls: bool) -> None:
    """The primary and its sentinels each get their own user, and both the same TLS, whose checks
    are always on."""
    server = RedisServer(
        f"redis{'s' * tls}+{SENTINELS}", ca_file="ca.pem", cert_file="c.pem", key_file="k.pem"
    )
    client = connect_blocking(server, 1.0) if blocking else connect(server)
    pool = client.connection_pool
    told = pool.connection_kwargs
    assert issubclass(pool.connection_class, SentinelManagedConnection)
    assert issubclass(pool.connection_class, SSLConnection) is tls
    assert (told["username"], told["password"], told["db"]) == ("us@er", SECRET, 3)
    of_sentinels = [each.connection_pool for each in client.sentinels]  # type: ignore[attr-defined]
    assert [(p.connection_kwargs["host"], p.connection_kwargs["port"]) for p in of_sentinels] == [
        ("one", 1),
        ("two", 2),
    ]
    for each in of_sentinels:
        assert each.connection_kwargs["password"] == "other"
        assert not each.connection_kwargs.get("username")
        assert issubclass(each.connection_class, SSLConnection) is tls
    for given in (told, *(each.connection_kwargs for each in of_sentinels)) if tls else ():
        assert given["ssl_check_hostname"] is True
        assert given["ssl_cert_reqs"] == "required"
        assert given["ssl_min_version"] is ssl.TLSVersion.TLSv1_2
        assert given["ssl_ca_certs"] == "ca.pem"
        assert (given["ssl_certfile"], given["ssl_keyfile"]) == ("c.pem", "k.pem")


def test_malformed_option() -> None:
    """An option that redis-py cannot read is the operator's mistake, told without its value."""
    with pytest.raises(ConfigError) as found:
        connect(f"redis://localhost?socket_timeout={SECRET}")
    assert found.value.problems == ["REDIS_URL has a malformed option after the question mark"]


@pytest.mark.parametrize(
    ("silent", "refused", "known", "strange", "lasting"),
    [
        (0, 0, 0, 0, "no primary of this name"),
        (1, 0, 0, 0, None),
        (0, 2, 0, 0, "refuse the credentials"),
        (1, 2, 0, 0, None),
        (0, 0, 3, 0, None),
        (0, 0, 0, 1, "is no sentinel"),
        (0, 1, 0, 1, "is no sentinel"),
        (1, 0, 0, 1, None),
    ],
)
def test_no_primary(
    *, silent: int, refused: int, known: int, strange: int, lasting: str | None
) -> None:
    """A start is refused for a wrong name, port or password alone: what is down comes up again."""
    error = NoPrimaryError(silent=silent, refused=refused, known=known, strange=strange)
    line = unreached(error)
    assert (line is not None) is (lasting is not None)
    assert lasting is None or (line is not None and lasting in line)
