"""Web3 Secret Storage of version 3: a key that is encrypted with a password.

https://ethereum.org/developers/docs/data-structures-and-encoding/web3-secret-storage
"""

import json
import secrets
import sys
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from eth_keys.constants import SECPK1_N

from adapters.key_local import LocalKey
from saga import wire

if TYPE_CHECKING:
    from eth_account import Account

MAX_SCRYPT_N = 2**20
"""Four times geth's standard, and what the scrypt paper takes for files on a disk."""
MAX_SCRYPT_BYTES = 2**30
"""Memory that scrypt takes: 128 × n × r."""
MAX_SCRYPT_WORK = 2**23
"""n × r × p, four times geth's standard: a few seconds."""
MAX_PBKDF2_ROUNDS = 10_000_000
"""Ten times eth_keyfile's default: a few seconds."""
_VERSION = 3
_KEY_BYTES = 32
_WHAT = "Web3 Secret Storage of version 3"

_Hex = Annotated[str, msgspec.Meta(pattern=r"\A(0x)?([0-9a-fA-F]{2})+\Z")]
_Positive = Annotated[int, msgspec.Meta(ge=1)]


class KeystoreError(Exception):
    """Why a keystore cannot be opened: goes on where a file's name and a comma end, and quotes
    neither password nor content."""


class _Scrypt(msgspec.Struct):
    n: int
    r: _Positive
    p: _Positive
    dklen: int
    salt: _Hex


class _Pbkdf2(msgspec.Struct):
    c: _Positive
    prf: str
    dklen: int
    salt: _Hex


class _CipherParams(msgspec.Struct):
    iv: Annotated[str, msgspec.Meta(pattern=r"\A(0x)?[0-9a-fA-F]{32}\Z")]


class _Crypto(msgspec.Struct):
    cipher: str
    cipherparams: _CipherParams
    # Up to 32 bytes: pyethereum left a key's leading zeros out.
    ciphertext: Annotated[str, msgspec.Meta(pattern=r"\A(0x)?([0-9a-fA-F]{2}){1,32}\Z")]
    kdf: str
    kdfparams: dict[str, Any]
    mac: _Hex


class _Keystore(msgspec.Struct):
    version: int
    crypto: _Crypto
    address: str | None = None


def opened(text: str, password: str) -> LocalKey:
    """The key in a keystore's text. Takes up to a few seconds of a core and a GiB of memory.

    Raises KeystoreError.
    """
    keystore = _checked(text)
    key = _decrypted(keystore, password)
    stated = (keystore.address or "").lower().removeprefix("0x")
    if stated and stated != key.address[2:].lower():
        raise KeystoreError(
            f"which holds the key of {key.address} but states another address: it was damaged or "
            "tampered with; restore it from its backup"
        )
    return key


def created(password: str) -> str:
    """The text of a new random key's keystore. Takes a second and 256 MiB: geth's standard."""
    account = _eth_account()
    key = (secrets.randbelow(SECPK1_N - 1) + 1).to_bytes(_KEY_BYTES, "big")
    # ETH_ACCOUNT_KDF in the environment would choose another kdf.
    return json.dumps(account.encrypt(key, password, kdf="scrypt")) + "\n"


def _eth_account() -> "type[Account]":
    """It takes a second to import, and most keys are elsewhere.

    Its dependencies raise the recursion limit to 100,000, where input that nests deep overflows
    the process's stack: this puts it back.
    """
    limit = sys.getrecursionlimit()
    from eth_account import Account  # noqa: PLC0415

    sys.setrecursionlimit(limit)
    return Account


def _checked(text: str) -> _Keystore:
    """What the text says; nothing in it costs more than it may. Raises KeystoreError."""
    try:
        document = {name.lower(): value for name, value in wire.decode(text.encode()).items()}
    except wire.InvalidMessage:
        raise KeystoreError(f"which is no JSON object; name a file of {_WHAT}") from None
    if document.get("version") != _VERSION:
        raise KeystoreError(f"which is no {_WHAT}; convert it, or make a new one")
    try:
        keystore = msgspec.convert(document, _Keystore)
        params = _parameters(keystore.crypto)
    except msgspec.ValidationError as error:
        raise KeystoreError(f"which is a damaged {_WHAT}: {error}") from None
    keystore.crypto.kdfparams = msgspec.to_builtins(params)
    return keystore


def _parameters(crypto: _Crypto) -> _Scrypt | _Pbkdf2:
    """Raises KeystoreError, and ValidationError."""
    params: _Scrypt | _Pbkdf2
    if crypto.cipher != "aes-128-ctr":
        raise KeystoreError("whose cipher is not aes-128-ctr, the only one that is read")
    if crypto.kdf == "scrypt":
        params = msgspec.convert(crypto.kdfparams, _Scrypt)
        _limit_scrypt(params.n, params.r, params.p)
    elif crypto.kdf == "pbkdf2":
        params = msgspec.convert(crypto.kdfparams, _Pbkdf2)
        if params.prf != "hmac-sha256":
            raise KeystoreError("whose prf is not hmac-sha256, the only one that is read")
        if params.c > MAX_PBKDF2_ROUNDS:
            raise KeystoreError(f"whose pbkdf2 c is above {MAX_PBKDF2_ROUNDS}, the most that runs")
    else:
        raise KeystoreError("whose kdf is neither scrypt nor pbkdf2, the two that are read")
    if params.dklen != _KEY_BYTES:
        raise KeystoreError(f"whose dklen is not {_KEY_BYTES}, the only one that is read")
    return params


def _limit_scrypt(n: int, r: int, p: int) -> None:
    if n < 2 or n & (n - 1):  # RFC 7914
        raise KeystoreError("whose scrypt n is no power of two")
    if n > MAX_SCRYPT_N or 128 * n * r > MAX_SCRYPT_BYTES or n * r * p > MAX_SCRYPT_WORK:
        raise KeystoreError(
            "whose scrypt parameters take more memory or time than may be spent: n at most "
            f"{MAX_SCRYPT_N}, n × r at most {MAX_SCRYPT_BYTES // 128}, n × r × p at most "
            f"{MAX_SCRYPT_WORK}"
        )


def _decrypted(keystore: _Keystore, password: str) -> LocalKey:
    """Raises KeystoreError."""
    account = _eth_account()
    from eth_keyfile.exceptions import EthKeyfileValueError  # noqa: PLC0415 - comes with it

    try:
        raw = account.decrypt(msgspec.to_builtins(keystore), password)
    except EthKeyfileValueError:  # its MAC: all else was checked
        raise KeystoreError(
            "but the password in DEPLOYER_KEYSTORE_PASSWORD_FILE does not open it"
        ) from None
    except (ValueError, MemoryError) as error:
        raise KeystoreError(
            f"which cannot be decrypted here ({type(error).__name__}): is there too little memory?"
        ) from None
    try:
        return LocalKey(bytes(raw).rjust(_KEY_BYTES, b"\0").hex(), kind="keystore")
    except ValueError as error:
        raise KeystoreError(f"whose content {error}") from None
