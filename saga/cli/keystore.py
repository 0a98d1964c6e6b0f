"""`saga keys new-keystore`: a new key that nobody has seen, in a file that a password opens."""

import getpass
import os
import secrets
import sys
from contextlib import suppress
from pathlib import Path

from pydantic_settings import BaseSettings

from adapters.key_files import open_keystore, read_secret
from adapters.keystore import created
from saga.cli.render import print_json
from saga.config import load
from saga.errors import ConfigError, UsageError
from saga.setting import CONFIG, setting

MIN_PASSWORD = 12
"""Characters. geth's scrypt takes a second for a guess; the file may be copied and guessed at."""
_MODE = 0o600


class PasswordSettings(BaseSettings):
    """Where the password is; everything else is of no account here."""

    model_config = CONFIG

    DEPLOYER_KEYSTORE_PASSWORD_FILE: Path | None = setting(
        None, "file with the keystore's password", "/run/secrets/keystore-password"
    )
    ALLOW_READABLE_KEY_FILES: bool = setting(
        False,  # noqa: FBT003 - a default, no argument
        "accept password files that group or others may read",
        "true",
    )


def new_keystore(path: Path, password_file: Path | None, *, as_json: bool) -> None:
    """Make a key, write its keystore, say what to set next.

    Raises UsageError when the file is there already or cannot be written, and when there is no
    password, or a weak one; ConfigError when its file cannot be used.
    SIDE EFFECTS: the file, which is opened again before the address is named.
    """
    path = path.absolute()
    _check_free(path)
    password, source = _password(password_file)
    if len(password) < MIN_PASSWORD:
        raise UsageError(
            f"the password is shorter than {MIN_PASSWORD} characters; take a longer one"
        )
    _write(path, created(password))
    try:
        address = open_keystore(path, password).address
    except ValueError as error:
        raise UsageError(f"the new keystore cannot be used: PATH {error}") from None
    _report(path, address, source, as_json=as_json)


def _check_free(path: Path) -> None:
    if os.path.lexists(path):
        raise UsageError(f"{path} exists, and no keystore is ever overwritten; name a new file")
    if not path.parent.is_dir():
        raise UsageError(f"{path.parent} is no folder; make it first, for its owner alone")


def _password(file: Path | None) -> tuple[str, Path | None]:
    """The password, and the file that it is from."""
    settings, name = load(PasswordSettings), "--password-file"
    if file is None:
        file, name = settings.DEPLOYER_KEYSTORE_PASSWORD_FILE, "DEPLOYER_KEYSTORE_PASSWORD_FILE"
    if file is None:
        return _asked(), None
    try:
        text = read_secret(file, any_mode=settings.ALLOW_READABLE_KEY_FILES)
    except ValueError as error:
        raise ConfigError([f"{name} {error}"]) from None
    return text, file.absolute()


def _asked() -> str:
    if not sys.stdin.isatty():
        raise UsageError(
            "there is no terminal to ask for a password on: give --password-file, or set "
            "DEPLOYER_KEYSTORE_PASSWORD_FILE"
        )
    try:
        password = getpass.getpass("Password: ", stream=sys.stderr)
        again = getpass.getpass("Once more: ", stream=sys.stderr)
    except (EOFError, UnicodeDecodeError):
        raise UsageError("no password was given; nothing was written") from None
    if password != again:
        raise UsageError("these are two passwords; nothing was written")
    return password


def _write(path: Path, text: str) -> None:
    """The whole file or nothing, for its owner alone. Raises UsageError, also when it is there."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _MODE)
        try:
            with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123 - a descriptor
                os.fchmod(descriptor, _MODE)  # whatever the umask
                file.write(text)
                file.flush()
                os.fsync(descriptor)
            os.link(draft, path)  # unlike a rename, it never overwrites
        finally:
            draft.unlink()
        _sync(path.parent)
    except FileExistsError:
        raise UsageError(f"{path} exists, and no keystore is ever overwritten") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None


def _sync(folder: Path) -> None:
    """The file's name outlives a power cut too, where the file system can see to it."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _report(path: Path, address: str, password_file: Path | None, *, as_json: bool) -> None:
    settings = {
        "DEPLOYER_KEYSTORE": str(path),
        "DEPLOYER_KEYSTORE_PASSWORD_FILE": None if password_file is None else str(password_file),
        "DEPLOYER_ADDRESS": address,
    }
    if as_json:
        print_json({"address": address, "settings": settings})
        return
    settings["DEPLOYER_KEYSTORE_PASSWORD_FILE"] = str(password_file or "<file with the password>")
    sys.stdout.write(
        f"New key of {address} in {path}\n"
        "Keep a copy of the file, and one of its password: without either the key is lost.\n"
        "Set next, and no other source of keys:\n"
    )
    sys.stdout.writelines(f"{name}={value}\n" for name, value in settings.items())
