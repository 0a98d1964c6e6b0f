import getpass
import os
import socket

import pytest

from saga.cli.actor import operator


@pytest.mark.parametrize("error", [KeyError("getpwuid(): uid not found: 54321"), OSError("no")])
def test_no_name(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """A user whom no passwd entry names, as in containers, is known by number."""

    def refuse() -> str:
        raise error

    monkeypatch.setattr(getpass, "getuser", refuse)
    assert operator() == f"uid-{os.getuid()}@{socket.gethostname()}"


def test_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Histories name the user and the host."""
    monkeypatch.setenv("LOGNAME", "ada")
    assert operator() == f"ada@{socket.gethostname()}"
