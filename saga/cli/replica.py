"""Starting the real service as a child process: for the demo, the tests and the benches."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from saga.config import Settings

_ROOT = Path(__file__).resolve().parents[2]


def start_replica(
    settings: Mapping[str, str], folder: Path, log: Path, *arguments: str
) -> "subprocess.Popen[bytes]":
    """`saga run` with these settings alone; those of the caller's environment do not reach it.

    SIDE EFFECTS: a process, in a session of its own so that Ctrl-C does not reach it; its output
    is appended to `log`.
    """
    inherited = {name: v for name, v in os.environ.items() if name not in Settings.model_fields}
    with log.open("ab") as output:
        return subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, "-m", "saga", "run", *arguments],
            env={**inherited, **settings, "PYTHONPATH": str(_ROOT)},
            cwd=folder,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
