"""What REDIS_URL may say. Each check says which part is wrong, and never quotes any of it."""

from typing import NamedTuple
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

import msgspec
from pydantic import SecretStr

_PLAIN = ("redis", "rediss", "unix")
_SENTINEL = ("redis+sentinel", "rediss+sentinel")
_SENTINEL_OPTIONS = {"sentinel_username", "sentinel_password"}
_ESCAPES = "in a password, write / as %2F, ? as %3F, # as %23, @ as %40"
_MAX_PORT = 65535


class RedisServer(msgspec.Struct, frozen=True):
    """Where Redis is, and what proves both sides to each other. Paths of PEM files."""

    url: str
    """Checked by `check_redis_url`; may hold passwords."""
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None

    def __repr__(self) -> str:
        return "RedisServer(***)"


class Login(NamedTuple):
    """An ACL user and its password; None: the default user, or none."""

    username: str | None
    password: str | None

    def __repr__(self) -> str:
        return "Login(***)"


class Sentinels(NamedTuple):
    """A `redis+sentinel://` URL, taken apart."""

    hosts: tuple[tuple[str, int], ...]
    service: str
    db: int
    login: Login
    """At the primary."""
    sentinel_login: Login
    """At the sentinels."""
    tls: bool

    def __repr__(self) -> str:
        return "Sentinels(***)"


def check_redis_url(value: SecretStr) -> SecretStr:
    """Raises ValueError, without any part of the value."""
    url = value.get_secret_value()
    scheme = url.partition("://")[0]
    if "://" not in url or scheme not in (*_PLAIN, *_SENTINEL):
        raise ValueError(
            "must begin with redis://, rediss:// or unix://, or with redis+sentinel:// or "
            "rediss+sentinel://"
        )
    if scheme in _SENTINEL:
        parse_sentinels(url)
    else:
        _check_plain(url)
    return value


def is_sentinel(url: str) -> bool:
    return url.startswith(tuple(f"{scheme}://" for scheme in _SENTINEL))


def is_tls(url: str) -> bool:
    return url.startswith(("rediss://", "rediss+sentinel://"))


def is_plain_text(url: str) -> bool:
    """Whether what is said goes over a network for all to read. A unix socket is no network."""
    return not is_tls(url) and not url.startswith("unix://")


def parse_sentinels(url: str) -> Sentinels:
    """`redis+sentinel://[user:password@]host:port,host:port/service[/db][?sentinel_password=…]`.

    Raises ValueError, without any part of the URL.
    """
    parts = _split(url)
    userinfo, _, hosts = parts.netloc.rpartition("@")
    username, _, password = userinfo.partition(":")
    every = hosts.split(",")
    addresses = tuple(
        _address(each, _which(position, len(every))) for position, each in enumerate(every, 1)
    )
    if len(set(addresses)) < len(addresses):
        raise ValueError("names the same sentinel twice")
    service, *rest = parts.path.removeprefix("/").split("/")
    if not service:
        raise ValueError("has no name of the primary after the sentinels: host:port,…/name")
    if len(rest) > 1:
        raise ValueError("has more than a name and a database number after the sentinels")
    options = _options(parts)
    if not options.keys() <= _SENTINEL_OPTIONS:
        raise ValueError(
            "has an option that is neither sentinel_username nor sentinel_password; " + _ESCAPES
        )
    return Sentinels(
        hosts=addresses,
        service=unquote(service),
        db=_database("/".join(rest)),
        login=Login(unquote(username) or None, unquote(password) or None),
        sentinel_login=Login(options.get("sentinel_username"), options.get("sentinel_password")),
        tls=is_tls(url),
    )


def _which(position: int, count: int) -> str:
    return "" if count == 1 else f"sentinel {position} of {count}: "


def _address(text: str, which: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or not 0 < int(port) <= _MAX_PORT:
        raise ValueError(f"{which}has no port that is a number up to {_MAX_PORT}; {_ESCAPES}")
    host = host.removeprefix("[").removesuffix("]")
    if not host:
        raise ValueError(f"{which}has no host before its port")
    return host, int(port)


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
    except ValueError:  # its text quotes the host, which may be half of a password
        raise ValueError(f"cannot be read as a URL; {_ESCAPES}") from None
    if parts.fragment or url.endswith("#"):
        raise ValueError(f"has a #; {_ESCAPES}")
    return parts


def _options(parts: SplitResult) -> dict[str, str]:
    """What comes after the question mark. An option that is given twice is malformed."""
    found = parse_qs(parts.query, keep_blank_values=True)
    if any(len(values) > 1 for values in found.values()):
        raise ValueError("has the same option twice")
    return {name: values[0] for name, values in found.items()}


def _database(text: str) -> int:
    if text and not text.isdecimal():
        raise ValueError(f"has a database that is no number; {_ESCAPES}")
    return int(text or 0)


def _check_plain(url: str) -> None:
    parts = _split(url)
    options = _options(parts)
    if any(name.startswith("ssl_") for name in options):
        raise ValueError(
            "has an ssl_ option: REDIS_CA_FILE, REDIS_CERT_FILE and REDIS_KEY_FILE say what to "
            "trust, and the server's certificate is always checked"
        )
    _database(options.get("db", ""))
    if parts.scheme == "unix":
        if not parts.path.strip("/"):
            raise ValueError("has no path of a socket: unix:///run/redis.sock")
        return
    if "," in parts.netloc.rpartition("@")[2]:
        raise ValueError("names several hosts: for sentinels, begin with redis+sentinel://")
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise ValueError(f"has no port that is a number up to {_MAX_PORT}; {_ESCAPES}")
    _database(parts.path.strip("/"))
