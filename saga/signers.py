"""The signers of one process, from its settings: wherever the key is, it is taken out once."""

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from adapters.key_files import open_key, open_keys, open_keystore, read_secret
from adapters.key_local import LocalKey
from adapters.signer import Key, Signer
from saga.errors import ConfigError
from saga.signer_settings import SignerSettings


@asynccontextmanager
async def open_signers(settings: SignerSettings) -> AsyncIterator[Sequence[Signer]]:
    """One for each key, closed in the end. Raises ConfigError, a line for each problem.

    SIDE EFFECTS: takes the key out of the settings; asks KMS, remote signer or HSM for the address.
    """
    try:
        signers = [Signer(key) for key in await _keys(settings)]
    except ValueError as error:
        raise ConfigError([f"{settings.source} {error}"]) from None
    try:
        if problems := pin_problems(settings, [signer.address for signer in signers]):
            raise ConfigError(problems)
        yield signers
    finally:
        for signer in signers:
            await signer.close()


def forget_environment() -> None:
    """Take the key out of the environment of a process that has read its settings for good.

    SIDE EFFECTS: os.environ; neither a dump of it nor a child has the key. What the kernel keeps
    of the start, /proc/PID/environ, stays.
    """
    # Settings are read whatever the case of their names.
    for name in [name for name in os.environ if name.upper() == "DEPLOYER_PRIVATE_KEY"]:
        del os.environ[name]


async def _keys(settings: SignerSettings) -> list[Key]:
    """Raises ValueError that goes on where the setting's name ends, and never quotes a secret.

    What is optional is imported here: AWS's and the HSM's libraries are extras.
    """
    any_mode, timeout = settings.ALLOW_READABLE_KEY_FILES, settings.SIGNER_TIMEOUT
    match settings.source:
        case "DEPLOYER_PRIVATE_KEY":
            assert settings.DEPLOYER_PRIVATE_KEY is not None  # noqa: S101 - the source
            return [LocalKey(settings.DEPLOYER_PRIVATE_KEY.take())]
        case "DEPLOYER_PRIVATE_KEY_FILE":
            path = _path(settings.DEPLOYER_PRIVATE_KEY_FILE)
            return [open_key(path, any_mode=any_mode)]
        case "DEPLOYER_PRIVATE_KEYS_FILE":
            path = _path(settings.DEPLOYER_PRIVATE_KEYS_FILE)
            return list(open_keys(path, any_mode=any_mode))
        case "DEPLOYER_KEYSTORE":
            password = _secret_file(settings, "DEPLOYER_KEYSTORE_PASSWORD_FILE")
            return [open_keystore(_path(settings.DEPLOYER_KEYSTORE), password)]
        case "DEPLOYER_KMS_KEY_ID":
            from adapters.key_kms import open_kms  # noqa: PLC0415

            return [await open_kms(settings.DEPLOYER_KMS_KEY_ID or "", timeout=timeout)]
        case "DEPLOYER_SIGNER_URL":
            from adapters.key_remote import open_remote  # noqa: PLC0415

            assert settings.DEPLOYER_SIGNER_URL is not None  # noqa: S101 - the source
            url, pin = settings.DEPLOYER_SIGNER_URL.get_secret_value(), settings.pinned
            return [await open_remote(url, address=pin[0] if pin else None, timeout=timeout)]
        case _:
            from adapters.key_pkcs11 import open_pkcs11  # noqa: PLC0415

            return [
                await open_pkcs11(
                    _path(settings.DEPLOYER_PKCS11_MODULE),
                    token=settings.DEPLOYER_PKCS11_TOKEN or "",
                    label=settings.DEPLOYER_PKCS11_KEY or "",
                    pin=_secret_file(settings, "DEPLOYER_PKCS11_PIN_FILE"),
                    timeout=timeout,
                )
            ]


def _path(path: Path | None) -> Path:
    assert path is not None  # noqa: S101 - the source's own settings are all given
    return path


def _secret_file(settings: SignerSettings, name: str) -> str:
    """The text of a file beside the source. Raises ConfigError in that setting's name."""
    try:
        return read_secret(
            _path(getattr(settings, name)), any_mode=settings.ALLOW_READABLE_KEY_FILES
        )
    except ValueError as error:
        raise ConfigError([f"{name} {error}"]) from None


def pin_problems(settings: SignerSettings, addresses: Sequence[str]) -> list[str]:
    """A line when the pin does not name exactly the keys that sign here."""
    pinned = settings.pinned
    if not pinned or sorted(pinned) == sorted(addresses):
        return []
    problem = (
        f"DEPLOYER_ADDRESS is {','.join(pinned)}, but {settings.source} is the key of "
        f"{','.join(addresses)}: set the right key, or the right address"
    )
    return [problem]
