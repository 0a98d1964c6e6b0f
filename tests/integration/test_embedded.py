"""Laws of the embedded parts: what ends, ends whole."""

import socket
import sys
import time
import urllib.error
import urllib.request

from adapters.embedded_child import Child, free_port

SERVER = "import subprocess, sys; subprocess.run([sys.executable, *sys.argv[1:]])"


class Wrapped(Child):
    """A server behind a wrapper, as a package may install one."""

    def __init__(self) -> None:
        super().__init__("wrapped")
        self.port = free_port()
        self.start()

    def command(self) -> list[str]:
        server = ("-m", "http.server", str(self.port), "--bind", "127.0.0.1")
        return [sys.executable, "-c", SERVER, *server, "--directory", str(self.folder)]

    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=5):
                return True
        except (urllib.error.URLError, OSError):
            return False


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_until_free(port: int) -> None:
    """A kill takes its moment."""
    deadline = time.monotonic() + 10
    while listens(port):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_wrapped_server_ends_with_its_wrapper() -> None:
    """Ending a part ends the server behind a wrapper too, by either signal; it can start again."""
    with Wrapped() as part:
        for end in (part.kill, part.stop):
            end()
            wait_until_free(part.port)
            part.start()
        port = part.port
    wait_until_free(port)
