"""Settings that say who signs: exactly one source of keys, and the pin."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, SecretStr
from pydantic_settings import BaseSettings

from saga.checks import check_addresses, check_http_url, check_no_key, check_private_key
from saga.secret import Secret
from saga.setting import CONFIG, setting

File = Annotated[Path | None, AfterValidator(check_no_key)]
Name = Annotated[str | None, AfterValidator(check_no_key)]
_EXAMPLE_ADDRESS = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"


class SignerSettings(BaseSettings):
    """One of `SOURCES` is set; the settings beside it are its own."""

    model_config = CONFIG

    DEPLOYER_ADDRESS: Annotated[str | None, AfterValidator(check_addresses)] = setting(
        None,
        "pins the key: a replica whose key has another address refuses to start. Of several keys "
        "all, with commas; of a remote signer with several accounts, the one to use",
        _EXAMPLE_ADDRESS,
    )
    DEPLOYER_PRIVATE_KEY: Annotated[Secret | None, AfterValidator(check_private_key)] = setting(
        None,
        "key that signs and pays, 64 hex digits: this or one of the next is **required**",
        "0x<64 hex digits>",
    )
    DEPLOYER_PRIVATE_KEY_FILE: File = setting(
        None, "or: file that holds it, a Docker or Kubernetes secret", "/run/secrets/deployer-key"
    )
    DEPLOYER_PRIVATE_KEYS_FILE: File = setting(
        None,
        "or: file with a key a line; each makes a lane of its own, and sagas are spread over them",
        "/run/secrets/deployer-keys",
    )
    DEPLOYER_KEYSTORE: File = setting(
        None, "or: encrypted key, Web3 Secret Storage v3 (`saga keys new-keystore`)", "/keys/k.json"
    )
    DEPLOYER_KEYSTORE_PASSWORD_FILE: File = setting(
        None, "file with the keystore's password", "/run/secrets/keystore-password"
    )
    DEPLOYER_KMS_KEY_ID: Name = setting(
        None,
        "or: id, ARN or alias of an ECC_SECG_P256K1 key in AWS KMS (extra `[aws]`)",
        "alias/deployer",
        min_length=1,
    )
    DEPLOYER_SIGNER_URL: Annotated[SecretStr | None, AfterValidator(check_http_url)] = setting(
        None,
        "or: remote signer that answers `eth_signTransaction`: Web3Signer, Clef",
        "http://localhost:9000",
    )
    DEPLOYER_PKCS11_MODULE: File = setting(
        None, "or: PKCS#11 library of an HSM (extra `[hsm]`)", "/usr/lib/softhsm/libsofthsm2.so"
    )
    DEPLOYER_PKCS11_TOKEN: Name = setting(None, "label of the HSM's token", "hokusai", min_length=1)
    DEPLOYER_PKCS11_KEY: Name = setting(
        None, "label of the secp256k1 private key in it", "deployer", min_length=1
    )
    DEPLOYER_PKCS11_PIN_FILE: File = setting(
        None, "file with the token's user PIN", "/run/secrets/hsm-pin"
    )
    ALLOW_READABLE_KEY_FILES: bool = setting(
        False,  # noqa: FBT003 - a default, no argument
        "accept files of keys, passwords and PINs that group or others may read, as Docker and "
        "Kubernetes mount them by default",
        "true",
    )
    SIGNER_TIMEOUT: float = setting(
        15.0, "seconds that KMS, remote signer or HSM may take for a signature", "15", gt=0
    )

    @property
    def pinned(self) -> list[str]:
        """The addresses of the pin, checksummed; empty without one."""
        return self.DEPLOYER_ADDRESS.split(",") if self.DEPLOYER_ADDRESS else []

    @property
    def source(self) -> str:
        """The setting that says where the key is; `source_problems` has seen to it that it is one.

        Raises ValueError before that.
        """
        (name,) = _given(self, SOURCES)
        return name


SOURCES = (
    "DEPLOYER_PRIVATE_KEY",
    "DEPLOYER_PRIVATE_KEY_FILE",
    "DEPLOYER_PRIVATE_KEYS_FILE",
    "DEPLOYER_KEYSTORE",
    "DEPLOYER_KMS_KEY_ID",
    "DEPLOYER_SIGNER_URL",
    "DEPLOYER_PKCS11_MODULE",
)
BESIDE = {
    "DEPLOYER_KEYSTORE": ("DEPLOYER_KEYSTORE_PASSWORD_FILE",),
    "DEPLOYER_PKCS11_MODULE": (
        "DEPLOYER_PKCS11_TOKEN",
        "DEPLOYER_PKCS11_KEY",
        "DEPLOYER_PKCS11_PIN_FILE",
    ),
}
"""What a source needs beside it, and what means nothing without it."""


def source_problems(settings: SignerSettings) -> list[str]:
    """Two sources, none, or half of one: a line for each problem."""
    given = _given(settings, SOURCES)
    if len(given) > 1:
        return [
            (
                f"{' and '.join(given)} are set, and only one key source may be: unset what is "
                "not to sign; to change keys see `saga keys rotate`"
            )
        ]
    if not given:
        return [
            (
                "DEPLOYER_PRIVATE_KEY is not set; for example DEPLOYER_PRIVATE_KEY=0x<64 hex "
                f"digits>; or set one of {', '.join(SOURCES[1:])}"
            )
        ]
    problems = []
    for source, names in BESIDE.items():
        for name in names:
            if (source in given) is (getattr(settings, name) is not None):
                continue
            if source in given:
                problems.append(f"{name} is not set; {source} needs it")
            else:
                problems.append(f"{name} means nothing without {source}; set both or neither")
    return problems


def _given(settings: SignerSettings, names: tuple[str, ...]) -> list[str]:
    return [name for name in names if getattr(settings, name) is not None]
