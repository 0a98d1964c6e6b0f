"""The start-up check of import names, in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from saga.__main__ import _misplaced

ROOT = Path(__file__).resolve().parents[3]


def start(cwd: Path, *path: Path) -> "subprocess.CompletedProcess[str]":
    """`python -m saga --help` from a folder, with these folders first on the path."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (*path, ROOT)))}
    return subprocess.run(
        [sys.executable, "-m", "saga", "--help"],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
    )


def test_in_place() -> None:
    """Our three packages lie side by side."""
    assert _misplaced() == []


def test_starts(tmp_path: Path) -> None:
    """With our packages first, the program starts from any folder."""
    found = start(tmp_path)
    assert found.returncode == 0, found.stderr
    assert "resume" in found.stdout


@pytest.mark.parametrize("name", ["adapters", "states"])
def test_stranger(name: str, tmp_path: Path) -> None:
    """A stranger's package that is found first is refused with exit 2, and never imported."""
    stranger = tmp_path / "site"
    (stranger / name).mkdir(parents=True)
    (stranger / name / "__init__.py").write_text("raise SystemExit('imported')\n", "utf-8")
    found = start(tmp_path, stranger)
    assert found.returncode == 2
    assert "imported" not in found.stderr
    assert found.stdout == ""
    problem, fix = found.stderr.splitlines()
    assert problem.startswith(f"the package '{name}' was found at {stranger / name}")
    assert "PYTHONPATH" in fix


def test_stranger_in_the_working_folder(tmp_path: Path) -> None:
    """A folder of ours by name alone, where the program is started, is refused too."""
    (tmp_path / "adapters").mkdir()
    (tmp_path / "adapters" / "__init__.py").write_text("raise SystemExit('imported')\n", "utf-8")
    found = start(tmp_path)
    assert found.returncode == 2
    assert "imported" not in found.stderr
