"""A server of another project as a child process."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from saga.errors import SagaError

_START_TIMEOUT_SECONDS = 20.0
_POLL_SECONDS = 0.02
_PORT_TRIES = 4
_PORT_PAUSE_SECONDS = 0.5
_PORT_TAKEN = ("EADDRINUSE", "ddress already in use", "os error 98")


class EmbeddedPartError(SagaError):
    """An embedded part is not installed or did not start; the text says what to do."""


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Child(ABC):
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

    def environment(self) -> dict[str, str]:
        """Variables beside our own."""
        return {}

    @property
    def pid(self) -> int:
        if self._process is None:
            raise EmbeddedPartError(f"{self._name} is not running")
        return self._process.pid

    def start(self) -> None:
        """Start and wait until it answers. Raises EmbeddedPartError, with the end of its log.

        A port that somebody has taken for a moment, such as an outgoing connection between two
        starts, is waited for.
        """
        for _ in range(_PORT_TRIES - 1):
            try:
                self._launch()
            except EmbeddedPartError as error:
                if not any(text in str(error) for text in _PORT_TAKEN):
                    raise
                time.sleep(_PORT_PAUSE_SECONDS)
            else:
                return
        self._launch()

    def _launch(self) -> None:
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own binary and flags
                self.command(),
                env=os.environ | self.environment(),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
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
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

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
        """Signals go to the whole session: what was started may be a wrapper of the server."""
        if self._process is None:
            return
        if not force:
            self._signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
        self._signal(signal.SIGKILL)
        self._process.wait()
        self._process = None

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.close()
