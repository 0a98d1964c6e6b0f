"""SoftHSM 2 for tests: tokens in a folder of the test's own, and their bad days.

Everything that changes a token is done by another process: a PKCS#11 library is the state of a
whole process, and in the test's it belongs to the code under test.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from eth_keys.datatypes import PrivateKey

from adapters.hsm import CURVE_PARAMS

PIN, OFFICER_PIN = "planted-user-pin-4711", "planted-officer-pin-0815"
NOT_INSTALLED = "SoftHSM 2 is not installed (Debian: apt-get install softhsm2)"
P256_PARAMS = bytes.fromhex("06082a8648ce3d030107")
"""The curve that most HSMs know, in DER: 1.2.840.10045.3.1.7 (RFC 5480)."""
TOOL_SECONDS = 30.0
_PLACES = (
    "/usr/lib/softhsm",
    "/usr/lib/*/softhsm",
    "/usr/lib64/softhsm",
    "/usr/lib64/pkcs11",
    "/usr/local/lib/softhsm",
    "/opt/homebrew/lib/softhsm",
)
_ROOT = Path(__file__).parents[2]
# POSIX locks are a process's: SoftHSM waits for another's to read a file.
_HOLD = """
import fcntl, pathlib, sys
files = [path.open("r+b") for path in pathlib.Path(sys.argv[1]).rglob("*") if path.is_file()]
for file in files:
    fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def module() -> Path:
    """SoftHSM's library. Skips the test where there is none."""
    if shutil.which("softhsm2-util"):
        for place in _PLACES:
            for path in Path("/").glob(f"{place[1:]}/libsofthsm2.so"):
                return path
    pytest.skip(NOT_INSTALLED)


class SoftHsm:
    """Its tokens are in `tokens`; a token that was pulled out is in `drawer`."""

    def __init__(self, folder: Path) -> None:
        self.module = module()
        self.tokens, self.drawer = folder / "tokens", folder / "drawer"
        for made in (self.tokens, self.drawer):
            made.mkdir()
        self.conf = folder / "softhsm2.conf"
        self.conf.write_text(f"directories.tokendir = {self.tokens}\nlog.level = ERROR\n")
        self._folders: dict[str, str] = {}

    @property
    def environment(self) -> dict[str, str]:
        return {"SOFTHSM2_CONF": str(self.conf)}

    def settings(self, token: str, label: str, pin_file: Path) -> dict[str, str]:
        """What a replica is told."""
        return {
            **self.environment,
            "DEPLOYER_PKCS11_MODULE": str(self.module),
            "DEPLOYER_PKCS11_TOKEN": token,
            "DEPLOYER_PKCS11_KEY": label,
            "DEPLOYER_PKCS11_PIN_FILE": str(pin_file),
        }

    def make_token(self, label: str) -> None:
        before = set(self.tokens.iterdir())
        named = ("--label", label, "--pin", PIN, "--so-pin", OFFICER_PIN)
        self._run("softhsm2-util", "--init-token", "--free", *named)
        (folder,) = set(self.tokens.iterdir()) - before
        self._folders[label] = folder.name

    def make_key(self, token: str, label: str, **attributes: Any) -> PrivateKey:
        """A private key in the token, without a public one; attributes by names of PKCS#11."""
        key = PrivateKey(os.urandom(32))
        self.tool(token, ["create", private(label, key) | attributes])
        return key

    def make_public(self, token: str, label: str, key: PrivateKey, **attributes: Any) -> None:
        template = {
            "CLASS": "PUBLIC_KEY",
            "KEY_TYPE": "EC",
            "LABEL": label,
            "EC_PARAMS": f"hex:{CURVE_PARAMS.hex()}",
            "EC_POINT": f"hex:044104{key.public_key.to_bytes().hex()}",
            "TOKEN": True,
        }
        self.tool(token, ["create", template | attributes])

    def tool(self, token: str, *commands: list[Any], pin: str = PIN) -> str:
        """What `tests.support.hsm_tool` prints."""
        command = (sys.executable, "-m", "tests.support.hsm_tool", str(self.module), token, pin)
        return self._run(*command, stdin=json.dumps(commands)).strip()

    def pull(self, token: str) -> None:
        """Out with it, whoever uses it."""
        (self.tokens / self._folders[token]).rename(self.drawer / self._folders[token])

    def plug(self, token: str) -> None:
        (self.drawer / self._folders[token]).rename(self.tokens / self._folders[token])

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Whoever asks for an object or a token waits until the block is left."""
        command = [sys.executable, "-c", _HOLD, str(self.tokens)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == b"held\n"
            yield
            child.communicate()

    def _run(self, *command: str, stdin: str = "") -> str:
        done = subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=TOOL_SECONDS,
            cwd=_ROOT,
            env={**os.environ, **self.environment},
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


def private(label: str, key: PrivateKey) -> dict[str, Any]:
    """The attributes of a private key."""
    return {
        "CLASS": "PRIVATE_KEY",
        "KEY_TYPE": "EC",
        "LABEL": label,
        "EC_PARAMS": f"hex:{CURVE_PARAMS.hex()}",
        "VALUE": f"hex:{key.to_hex()[2:]}",
        "TOKEN": True,
        "PRIVATE": True,
        "SENSITIVE": True,
        "SIGN": True,
    }


@contextmanager
def soft_hsm(folder: Path) -> Iterator[SoftHsm]:
    """For this process too, until the block is left."""
    hsm = SoftHsm(folder)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in hsm.environment.items():
            patch.setenv(name, value)
        yield hsm
