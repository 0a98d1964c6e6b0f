"""Where Redis is, how it is talked to, and what must have outlived it before money is spent."""

import ssl
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, SecretStr
from pydantic_settings import BaseSettings

from saga.redis_url import RedisServer, check_redis_url, is_plain_text, is_tls
from saga.setting import CONFIG, setting


class RedisSettings(BaseSettings):
    """Part of `StoreSettings`: every command has them."""

    model_config = CONFIG

    REDIS_URL: Annotated[SecretStr, AfterValidator(check_redis_url)] = setting(
        ...,
        "Redis >= 6.2 or Valkey; `rediss://` for TLS, `redis+sentinel://host:port,host:port/name` "
        "(`rediss+sentinel://`) for the primary that sentinels name",
        "redis://localhost:6379/0",
    )
    REDIS_CA_FILE: str | None = setting(
        None,
        "PEM file of the authorities that Redis' certificate may come from; default: the system's",
        "/etc/redis/ca.pem",
        min_length=1,
    )
    REDIS_CERT_FILE: str | None = setting(
        None,
        "PEM file of our own certificate, where Redis asks for one",
        "/etc/redis/client.pem",
        min_length=1,
    )
    REDIS_KEY_FILE: str | None = setting(
        None, "PEM file of its key, without a password", "/etc/redis/client.key", min_length=1
    )
    REDIS_REQUIRE_TLS: bool | None = setting(
        None,
        "refuse a REDIS_URL that goes over the network in plain text; default: true when `APP_ENV` "
        "is `production`",
        "true",
    )
    APP_ENV: str = setting(
        "", "what this installation is for; `production` asks for TLS to Redis", "production"
    )
    REDIS_DURABILITY: Literal["none", "aof", "replica"] = setting(
        "none",
        "before the first broadcast, wait until the intent is on Redis' disk (`aof`: WAITAOF, "
        "Redis >= 7.2) or on one replica (`replica`: WAIT)",
        "replica",
    )

    @property
    def redis(self) -> RedisServer:
        return RedisServer(
            self.REDIS_URL.get_secret_value(),
            ca_file=self.REDIS_CA_FILE,
            cert_file=self.REDIS_CERT_FILE,
            key_file=self.REDIS_KEY_FILE,
        )

    @property
    def requires_tls(self) -> bool:
        if self.REDIS_REQUIRE_TLS is None:
            return self.APP_ENV.strip().lower() == "production"
        return self.REDIS_REQUIRE_TLS


def redis_problems(settings: RedisSettings) -> list[str]:
    """Plain text where that is refused, and files that prove nothing: a line for each problem."""
    server = settings.redis
    problems = []
    if settings.requires_tls and is_plain_text(server.url):
        why = "REDIS_REQUIRE_TLS" if settings.REDIS_REQUIRE_TLS else "APP_ENV=production"
        problems.append(
            f"REDIS_URL goes over the network in plain text, which {why} refuses; begin it with "
            "rediss:// or rediss+sentinel://, or set REDIS_REQUIRE_TLS=false"
        )
    given = {
        "REDIS_CA_FILE": server.ca_file,
        "REDIS_CERT_FILE": server.cert_file,
        "REDIS_KEY_FILE": server.key_file,
    }
    named = [name for name, path in given.items() if path is not None]
    if named and not is_tls(server.url):
        problems.append(
            f"{', '.join(named)}: nothing without TLS; begin REDIS_URL with rediss:// or "
            "rediss+sentinel://"
        )
    if (server.cert_file is None) != (server.key_file is None):
        problems.append("REDIS_CERT_FILE and REDIS_KEY_FILE go together; set both or neither")
    unread = [line for name in named if (line := _unreadable(name, given[name] or "")) is not None]
    return problems + (unread or _unfit(server))


def _unreadable(name: str, path: str) -> str | None:
    try:
        with Path(path).open("rb"):
            return None
    except OSError as error:
        return f"{name}: {path} cannot be read ({error.strerror})"


def _unfit(server: RedisServer) -> list[str]:
    """What OpenSSL says of the files; better now than at the first connection."""
    context, problems = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), []
    try:
        if server.ca_file is not None:
            context.load_verify_locations(server.ca_file)
    except ssl.SSLError:
        problems.append(f"REDIS_CA_FILE: {server.ca_file} holds no certificate in PEM form")
    try:
        if server.cert_file is not None and server.key_file is not None:
            # An empty password instead of a question on the terminal.
            context.load_cert_chain(server.cert_file, server.key_file, password="")
    except (ssl.SSLError, ValueError):
        problems.append(
            f"REDIS_CERT_FILE, REDIS_KEY_FILE: {server.cert_file} and {server.key_file} are no "
            "certificate and its key in PEM form, the key without a password"
        )
    return problems
