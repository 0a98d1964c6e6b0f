"""`saga keys new-keystore` as an operator meets it: a key that nobody has seen, in a file that
opens again, and not one secret on the screen."""

import json
import os
import pty
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from adapters.key_files import open_keystore
from saga.config import Settings

ROOT = Path(__file__).parents[2]
COMMAND_SECONDS = 60
PASSWORD = "correct horse battery"


def environment(more: Mapping[str, str]) -> dict[str, str]:
    """No setting of the machine's reaches the command."""
    bare = {name: v for name, v in os.environ.items() if name not in Settings.model_fields}
    return {**bare, "PYTHONPATH": str(ROOT), **more}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "saga", "keys", "new-keystore", *arguments]


def new_keystore(folder: Path, *arguments: str, **more: str) -> "subprocess.CompletedProcess[str]":
    """Started in the folder, without a terminal."""
    return subprocess.run(
        command(*arguments),
        cwd=folder,
        env=environment(more),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
    )


def password_file(folder: Path, text: str = f"{PASSWORD}\n", mode: int = 0o600) -> Path:
    path = folder / "password"
    path.touch(mode)
    path.write_text(text, "utf-8")
    path.chmod(mode)
    return path


def secrets_in(output: str, keystore: Path) -> list[str]:
    """Which secrets of the keystore stand in the output; its ciphertext counts as one."""
    key = open_keystore(keystore, PASSWORD)._key.to_hex()[2:]
    ciphertext = json.loads(keystore.read_text("utf-8"))["crypto"]["ciphertext"]
    return [text for text in (key, PASSWORD, ciphertext) if text.lower() in output.lower()]


def test_a_new_keystore(tmp_path: Path) -> None:
    """The file opens with the password, its owner alone may read it, nothing else is left in the
    folder, the address and what to set next are said, and nothing secret is."""
    password = password_file(tmp_path)
    ended = new_keystore(tmp_path, "k.json", "--password-file", "password")
    assert (ended.returncode, ended.stderr) == (0, "")
    made = tmp_path / "k.json"
    key = open_keystore(made, PASSWORD)
    assert stat.S_IMODE(made.stat().st_mode) == 0o600
    assert {path.name for path in tmp_path.iterdir()} == {"k.json", "password"}
    lines = ended.stdout.splitlines()
    assert lines[0] == f"New key of {key.address} in {made}"
    assert lines[-3:] == [
        f"DEPLOYER_KEYSTORE={made}",
        f"DEPLOYER_KEYSTORE_PASSWORD_FILE={password}",
        f"DEPLOYER_ADDRESS={key.address}",
    ]
    assert secrets_in(ended.stdout, made) == []
    written = json.loads(made.read_text("utf-8"))["crypto"]
    assert written["kdf"] == "scrypt"
    assert (written["kdfparams"]["n"], written["kdfparams"]["r"]) == (2**18, 8)


def test_keystores_of_the_settings(tmp_path: Path) -> None:
    """The settings' password file serves too, from the environment or `.env`, the umask and the
    environment of eth_account change nothing, and each key is another one."""
    password = password_file(tmp_path, mode=0o644)
    (tmp_path / ".env").write_text("ALLOW_READABLE_KEY_FILES=true\nWEB3_PROVIDER_URL=x\n", "utf-8")
    addresses = set()
    before = os.umask(0o777)
    try:
        for name in ("a.json", "b.json"):
            ended = new_keystore(
                tmp_path,
                name,
                "--json",
                DEPLOYER_KEYSTORE_PASSWORD_FILE="password",
                ETH_ACCOUNT_KDF="pbkdf2",
                PYTHONDONTWRITEBYTECODE="1",
            )
            assert (ended.returncode, ended.stderr) == (0, "")
            made = tmp_path / name
            assert stat.S_IMODE(made.stat().st_mode) == 0o600
            address = open_keystore(made, PASSWORD).address
            assert json.loads(made.read_text("utf-8"))["crypto"]["kdf"] == "scrypt"
            assert json.loads(ended.stdout) == {
                "address": address,
                "settings": {
                    "DEPLOYER_KEYSTORE": str(made),
                    "DEPLOYER_KEYSTORE_PASSWORD_FILE": str(password),
                    "DEPLOYER_ADDRESS": address,
                },
            }
            assert secrets_in(ended.stdout, made) == []
            addresses.add(address)
    finally:
        os.umask(before)
    assert len(addresses) == 2


@pytest.mark.parametrize("kind", ["file", "folder", "link to nothing"])
def test_nothing_is_overwritten(kind: str, tmp_path: Path) -> None:
    """What is there already stays as it is, whatever it is."""
    password_file(tmp_path)
    there = tmp_path / "k.json"
    if kind == "file":
        there.write_text("another key", "utf-8")
    elif kind == "folder":
        there.mkdir()
    else:
        there.symlink_to("nowhere")
    ended = new_keystore(tmp_path, "k.json", "--password-file", "password")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == (
        f"saga: {there} exists, and no keystore is ever overwritten; name a new file\n"
    )
    assert kind != "file" or there.read_text("utf-8") == "another key"
    assert {path.name for path in tmp_path.iterdir()} == {"k.json", "password"}


@pytest.mark.parametrize(
    ("arguments", "password", "mode", "code", "text"),
    [
        (["none/k.json"], PASSWORD, 0o600, 1, "none is no folder"),
        (["k.json"], "elevenchars\n", 0o600, 1, "the password is shorter than 12 characters"),
        (["k.json"], "\n", 0o600, 2, "--password-file names password, which is empty"),
        (["k.json"], PASSWORD, 0o640, 2, "(mode 0640): `chmod 600 password`"),
    ],
)
def test_what_is_refused(
    tmp_path: Path, arguments: list[str], password: str, mode: int, code: int, text: str
) -> None:
    """Where no good keystore can be made, one line says why, and none is."""
    password_file(tmp_path, password, mode)
    ended = new_keystore(tmp_path, *arguments, "--password-file", "password")
    assert (ended.returncode, ended.stdout) == (code, "")
    assert text in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["password"]


def test_without_terminal_and_file(tmp_path: Path) -> None:
    """Where nobody can be asked for a password, the settings that give one are named."""
    ended = new_keystore(tmp_path, "k.json")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == (
        "saga: there is no terminal to ask for a password on: give --password-file, or set "
        "DEPLOYER_KEYSTORE_PASSWORD_FILE\n"
    )
    bad = new_keystore(tmp_path, "k.json", DEPLOYER_KEYSTORE_PASSWORD_FILE="none")
    assert (bad.returncode, bad.stdout) == (2, "")
    assert bad.stderr.startswith("saga: DEPLOYER_KEYSTORE_PASSWORD_FILE names what does not exist")
    assert list(tmp_path.iterdir()) == []


def on_terminal(folder: Path, *answers: str) -> tuple[int, str, str, bytes]:
    """Exit code, stdout, stderr and what the terminal shows, with somebody at it who answers each
    question when it is asked."""
    master, slave = pty.openpty()
    try:
        with subprocess.Popen(
            command("k.json"),
            cwd=folder,
            env=environment({}),
            stdin=slave,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # else the questions go to the terminal of the tests
        ) as process:
            assert process.stderr is not None
            asked = ""
            for answer in answers:
                while not asked.endswith(": "):
                    letter = process.stderr.read(1)
                    assert letter, asked
                    asked += letter
                os.write(master, answer.encode() + b"\n")
                asked += "\n"
            stdout, stderr = process.communicate(timeout=COMMAND_SECONDS)
        os.set_blocking(master, False)
        try:
            shown = os.read(master, 4096)
        except BlockingIOError:
            shown = b""
        return process.returncode, stdout, asked + stderr, shown
    finally:
        os.close(slave)
        os.close(master)


def test_on_a_terminal(tmp_path: Path) -> None:
    """Without a file the password is asked for, twice, and never shown; what is said next leaves
    the file with the password to the operator."""
    code, stdout, stderr, shown = on_terminal(tmp_path, PASSWORD, PASSWORD)
    assert (code, stderr.split()) == (0, ["Password:", "Once", "more:"])
    assert f"DEPLOYER_ADDRESS={open_keystore(tmp_path / 'k.json', PASSWORD).address}" in stdout
    assert "DEPLOYER_KEYSTORE_PASSWORD_FILE=<file with the password>" in stdout
    assert secrets_in(stdout + stderr + shown.decode(), tmp_path / "k.json") == []


def test_two_passwords(tmp_path: Path) -> None:
    """Two different answers make no keystore."""
    code, stdout, stderr, _ = on_terminal(tmp_path, PASSWORD, PASSWORD + "!")
    assert (code, stdout) == (1, "")
    assert stderr.endswith("saga: these are two passwords; nothing was written\n")
    assert list(tmp_path.iterdir()) == []


def test_the_recursion_limit_stays(tmp_path: Path) -> None:
    """Opening a keystore leaves the interpreter's limit, where its library would raise it."""
    password_file(tmp_path)
    assert new_keystore(tmp_path, "k.json", "--password-file", "password").returncode == 0
    script = (
        "import sys; from pathlib import Path; from adapters.key_files import open_keystore\n"
        "before = sys.getrecursionlimit(); assert 'py_ecc' not in sys.modules\n"
        f"open_keystore(Path('k.json'), {PASSWORD!r})\n"
        "assert 'py_ecc' in sys.modules; assert sys.getrecursionlimit() == before"
    )
    subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=environment({}),
        check=True,
        timeout=COMMAND_SECONDS,
    )
