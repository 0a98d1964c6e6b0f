"""Laws of keys and secrets in files: what can be used is used, and all else is one clear line that
names the file and the fix, and quotes nothing of what is in it."""

import copy
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest
from eth_account import Account

from adapters.embedded import DEV_ACCOUNT, DEV_MNEMONIC_KEY
from adapters.key_files import MAX_BYTES, open_key, open_keys, open_keystore, read_secret
from adapters.key_local import LocalKey

NO_KEY = (
    "is no private key: 64 hex digits, with or without 0x, not zero and below the order of "
    "secp256k1"
)
PASSWORD = "correct horse battery"
OTHER_KEY = "22" * 32
OTHER_ADDRESS = "0x1563915e194D8CfBA1943570603F7606A3115508"
NOBODY = 65534
Make = Callable[..., Path]


@pytest.fixture
def made(tmp_path: Path) -> Make:
    """Writes a file with a content and a mode."""

    def make(content: str | bytes, mode: int = 0o600) -> Path:
        path = tmp_path / "secret"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        path.chmod(mode)
        return path

    return make


def problem(call: Callable[[], object]) -> str:
    """The one line that it is refused with."""
    with pytest.raises(ValueError, match=r"\Anames \S") as caught:
        call()
    text = str(caught.value)
    assert text.isprintable()
    return text


# --- read_secret


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("a secret", "a secret"),
        ("a secret\n", "a secret"),
        ("a secret\r\n", "a secret"),
        ("a secret\n\n", "a secret\n"),
        ("a secret\r", "a secret\r"),
        (" two words ", " two words "),
        ("pässwörd ✓\n", "pässwörd ✓"),
        ("x" * MAX_BYTES, "x" * MAX_BYTES),
    ],
)
def test_the_text_is_kept(made: Make, content: str, text: str) -> None:
    """Nothing of the text is lost but one newline at its end, which editors add."""
    assert read_secret(made(content), any_mode=False) == text


def test_links_are_followed(made: Make, tmp_path: Path) -> None:
    """Kubernetes mounts a secret as a link to a link: its file's mode counts, not the links'."""
    made("a secret\n").rename(tmp_path / "..2026")
    (tmp_path / "..data").symlink_to("..2026")
    (tmp_path / "key").symlink_to("..data")
    assert read_secret(tmp_path / "key", any_mode=False) == "a secret"
    (tmp_path / "..2026").chmod(0o644)
    assert "(mode 0644)" in problem(lambda: read_secret(tmp_path / "key", any_mode=False))
    (tmp_path / "..2026").unlink()
    assert "does not exist" in problem(lambda: read_secret(tmp_path / "key", any_mode=False))


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o700])
def test_modes_that_nobody_else_reads_by(made: Make, mode: int) -> None:
    """What its owner alone may read is read."""
    assert read_secret(made("a secret", mode), any_mode=False) == "a secret"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o440, 0o444, 0o644, 0o777, 0o622, 0o602])
def test_modes_that_others_read_by(made: Make, mode: int) -> None:
    """What group or others may read or write is refused, with both fixes, unless allowed."""
    path = made("a secret", mode)
    assert problem(lambda: read_secret(path, any_mode=False)) == (
        f"names {path}, which group or others may read or write (mode {mode:04o}): `chmod 600 "
        f"{path}`, or set ALLOW_READABLE_KEY_FILES=true where Docker or Kubernetes mounts it so"
    )
    assert read_secret(path, any_mode=True) == "a secret"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "which is empty"),
        (b"\n", "which is empty"),
        (b" \r\n\n", "which is empty"),
        (b"a secret\xff", "which is no UTF-8 text"),
        ("a secret".encode("utf-16"), "which is no UTF-8 text"),
        (b"a secret" + b"x" * MAX_BYTES, f"which has {MAX_BYTES + 8} bytes"),
    ],
)
def test_contents_that_are_no_secret(made: Make, content: bytes, text: str) -> None:
    """A file that is empty, too large or no text is refused, whatever its mode may be."""
    path = made(content)
    for any_mode in (False, True):
        said = problem(lambda any_mode=any_mode: read_secret(path, any_mode=any_mode))  # type: ignore[misc]
        assert said.startswith(f"names {path}, {text}")
        assert "secret\xff" not in said


def test_what_is_no_file(tmp_path: Path) -> None:
    """What is missing, a folder or a pipe is told apart, and nobody waits for a pipe's writer."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").touch()
    for name, text in {
        "none": f"{tmp_path / 'none'}, which does not exist",
        "file/none": "what does not exist",
        ".": f"{tmp_path}, which is a folder",
        "pipe": f"{tmp_path / 'pipe'}, which is no regular file",
        "n" * 300: "what cannot be opened: File name too long",
        "a\0b": "what cannot be opened: no path",
    }.items():
        with pytest.raises(ValueError, match=re.escape(f"names {text}")):
            read_secret(tmp_path / name, any_mode=True)


@pytest.mark.parametrize("secret", ["hunter2", "abc/def+ghi=", "/no/such/folder/x", "ab" * 40])
def test_what_may_be_the_secret_itself(secret: str) -> None:
    """Somebody who gives the secret where its file belongs does not find it in the log."""
    with pytest.raises(ValueError, match="names what does not exist") as caught:
        read_secret(Path(secret), any_mode=True)
    assert secret not in str(caught.value)


@contextmanager
def without_rights() -> Iterator[None]:
    """Root may read everything: be somebody else for a moment."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(user)


def test_what_may_not_be_read(made: Make) -> None:
    """A file that this user may not read is told apart from a missing one, with the user's id."""
    path = made("a secret", 0o000)
    with without_rights():
        said = problem(lambda: read_secret(path, any_mode=True))
        assert f"which user id {os.geteuid()} may not read" in said


def test_a_path_with_spaces_is_quoted(tmp_path: Path) -> None:
    """The command of the fix works as it is printed."""
    path = tmp_path / "my key"
    path.write_text("a secret", "utf-8")
    path.chmod(0o644)
    assert f"`chmod 600 '{path}'`" in problem(lambda: read_secret(path, any_mode=False))


# --- open_key, open_keys


@pytest.mark.parametrize("text", [DEV_MNEMONIC_KEY, DEV_MNEMONIC_KEY[2:].upper() + "\r\n"])
def test_one_key(made: Make, text: str) -> None:
    """The text of a key file is the key, with or without 0x and a newline."""
    key = open_key(made(text), any_mode=False)
    assert (key.address, key.kind) == (DEV_ACCOUNT, "key file")


@pytest.mark.parametrize(
    "text",
    [
        DEV_MNEMONIC_KEY[:-1],
        DEV_MNEMONIC_KEY + "0",
        f"{DEV_MNEMONIC_KEY}\n{OTHER_KEY}\n",
        f"# main\n{DEV_MNEMONIC_KEY}",
        "ff" * 32,
        "00" * 32,
        "hunter2",
    ],
)
def test_what_is_no_key(made: Make, text: str) -> None:
    """A file that holds anything but one key is refused, and nothing of it is shown."""
    path = made(text)
    assert problem(lambda: open_key(path, any_mode=False)) == (
        f"names {path}, whose text {NO_KEY}; DEPLOYER_PRIVATE_KEYS_FILE takes several keys, and "
        "comments"
    )


def test_several_keys(made: Make) -> None:
    """Each line is a key, in order; blank lines and comments are none."""
    text = f"# main\r\n\r\n  {OTHER_KEY}\r\n\n  # second\n{DEV_MNEMONIC_KEY}"
    keys = open_keys(made(text), any_mode=False)
    assert [(key.address, key.kind) for key in keys] == [
        (OTHER_ADDRESS, "key file"),
        (DEV_ACCOUNT, "key file"),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("# nothing\n\n", "which has no key; write one a line"),
        (f"{OTHER_KEY}\n\nhunter2\n", f"whose line 3 {NO_KEY}"),
        (f"{OTHER_KEY} # main", f"whose line 1 {NO_KEY}"),
        (
            f"{OTHER_KEY}\n#\n{DEV_MNEMONIC_KEY}\n0x{OTHER_KEY}\n",
            f"whose lines 1 and 4 are the same key, {OTHER_ADDRESS}: keep one",
        ),
        (
            "".join(f"{number:064x}\n" for number in range(1, 66)),
            "which has more than 64 keys; each is a lane, so take fewer",
        ),
    ],
    ids=["no key", "bad line", "comment behind", "twice", "too many"],
)
def test_lines_that_are_refused(made: Make, text: str, said: str) -> None:
    """A bad line is told by its number, never by what is in it; a key has one line."""
    path = made(text)
    assert problem(lambda: open_keys(path, any_mode=False)) == f"names {path}, {said}"


def test_as_many_keys_as_may_be(made: Make) -> None:
    """64 keys are as many lanes."""
    text = "".join(f"{number:064x}\n" for number in range(1, 65))
    assert len({key.address for key in open_keys(made(text), any_mode=False)}) == 64


@pytest.mark.parametrize("opening", [open_key, open_keys])
def test_modes_count_for_keys(made: Make, opening: Callable[..., object]) -> None:
    """A key file that others may read is refused, unless that is allowed."""
    path = made(DEV_MNEMONIC_KEY, 0o644)
    assert "chmod 600" in problem(lambda: opening(path, any_mode=False))
    assert opening(path, any_mode=True)


# --- open_keystore


def keystore(kdf: Literal["scrypt", "pbkdf2"] = "scrypt") -> dict[str, Any]:
    """scrypt's n and pbkdf2's c are low, for speed."""
    key = bytes.fromhex(DEV_MNEMONIC_KEY[2:])
    return Account.encrypt(key, PASSWORD, kdf=kdf, iterations=4)


SCRYPT = keystore()
PBKDF2 = keystore("pbkdf2")


def changed(document: dict[str, Any], place: str, value: object) -> dict[str, Any]:
    """With another value at a place like `crypto.kdfparams.n`; None takes the field away."""
    document = copy.deepcopy(document)
    *outer, name = place.split(".")
    inner = document
    for step in outer:
        inner = inner[step]
    if value is None:
        del inner[name]
    else:
        inner[name] = value
    return document


@pytest.mark.parametrize("document", [SCRYPT, PBKDF2], ids=["scrypt", "pbkdf2"])
@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_a_keystore(made: Make, document: dict[str, Any], mode: int) -> None:
    """The password opens it, whoever may read the file."""
    key = open_keystore(made(json.dumps(document), mode), PASSWORD)
    assert (key.address, key.kind) == (DEV_ACCOUNT, "keystore")


@pytest.mark.parametrize(
    "document",
    [
        changed(SCRYPT, "address", None),
        changed(SCRYPT, "address", DEV_ACCOUNT),
        changed(SCRYPT, "address", DEV_ACCOUNT[2:].lower()),
        changed(SCRYPT, "id", None) | {"name": "deployer", "x-ethers": {"client": "ethers"}},
        {name.title(): value for name, value in SCRYPT.items()},
    ],
    ids=["no address", "0x", "geth", "more and less", "old geth"],
)
def test_keystores_of_others(made: Make, document: dict[str, Any]) -> None:
    """What other tools write, add or leave out makes no difference."""
    assert open_keystore(made(json.dumps(document)), PASSWORD).address == DEV_ACCOUNT


# https://ethereum.org/developers/docs/data-structures-and-encoding/web3-secret-storage
VECTORS = [
    {
        "crypto": {
            "cipher": "aes-128-ctr",
            "cipherparams": {"iv": "6087dab2f9fdbbfaddc31a909735c1e6"},
            "ciphertext": "5318b4d5bcd28de64ee5559e671353e16f075ecae9f99c7a79a38af5f869aa46",
            "kdf": "pbkdf2",
            "kdfparams": {
                "c": 262144,
                "dklen": 32,
                "prf": "hmac-sha256",
                "salt": "ae3cd4e7013836a3df6bd7241b12db061dbe2c6785853cce422d148a624ce0bd",
            },
            "mac": "517ead924a9d0dc3124507e3393d175ce3ff7c1e96529c6c555ce9e51205e9b2",
        },
        "id": "3198bc9c-6672-5ab3-d995-4942343ae5b6",
        "version": 3,
    },
    {
        "crypto": {
            "cipher": "aes-128-ctr",
            "cipherparams": {"iv": "83dbcc02d8ccb40e466191a123791e0e"},
            "ciphertext": "d172bf743a674da9cdad04534d56926ef8358534d458fffccd4e6ad2fbde479c",
            "kdf": "scrypt",
            "kdfparams": {
                "dklen": 32,
                "n": 262144,
                "p": 8,
                "r": 1,
                "salt": "ab0c7876052600dd703518d6fc3fe8984592145b591fc8fb5c6d43190334ba19",
            },
            "mac": "2103ac29920d71da29f15d75b4a16dbe95cfd7ff8faea1056c33131d846e3097",
        },
        "id": "3198bc9c-6672-5ab3-d995-4942343ae5b6",
        "version": 3,
    },
]


@pytest.mark.parametrize("vector", VECTORS, ids=["pbkdf2", "scrypt"])
def test_vectors(made: Make, vector: dict[str, Any]) -> None:
    """The standard's own examples open."""
    key = open_keystore(made(json.dumps(vector)), "testpassword")
    expected = "7a28b5ba57c53603b0b07b56bba752f7784bf506fa95edc395f5cf6c7514fe9d"
    assert key.address == LocalKey(expected).address


def test_a_key_with_leading_zeros(made: Make) -> None:
    """A key whose leading zeros an old tool left out is the same key."""
    full = Account.encrypt((7).to_bytes(32, "big"), PASSWORD, kdf="scrypt", iterations=4)
    from eth_keyfile.keyfile import (  # noqa: PLC0415 - of this test alone
        _derive_scrypt_key,
        encrypt_aes_ctr,
    )
    from eth_utils.crypto import keccak  # noqa: PLC0415

    derived = _derive_scrypt_key(full["crypto"]["kdfparams"], PASSWORD.encode())
    iv = int(full["crypto"]["cipherparams"]["iv"], 16)
    short = encrypt_aes_ctr(b"\7", derived[:16], iv)
    document = changed(full, "crypto.ciphertext", short.hex())
    document = changed(document, "crypto.mac", keccak(derived[16:32] + short).hex())
    assert open_keystore(made(json.dumps(document)), PASSWORD).address == (
        LocalKey(f"{7:064x}").address
    )


@pytest.mark.parametrize("password", ["wrong horse battery", PASSWORD + "\n", PASSWORD.upper()])
def test_a_wrong_password(made: Make, password: str) -> None:
    """A wrong password is one line, in the name of the setting that names its file."""
    path = made(json.dumps(SCRYPT))
    said = problem(lambda: open_keystore(path, password))
    assert said == (
        f"names {path}, but the password in DEPLOYER_KEYSTORE_PASSWORD_FILE does not open it"
    )


def test_another_address(made: Make) -> None:
    """A keystore that states another address than its key's is refused, with the key's."""
    path = made(json.dumps(changed(SCRYPT, "address", OTHER_ADDRESS)))
    said = problem(lambda: open_keystore(path, PASSWORD))
    assert said.startswith(f"names {path}, which holds the key of {DEV_ACCOUNT} but states another")


LIMITS = "whose scrypt parameters take more memory or time than may be spent"
DAMAGED = "which is a damaged Web3 Secret Storage of version 3"
UNUSABLE = [
    (changed(SCRYPT, "version", 4), "which is no Web3 Secret Storage of version 3"),
    (changed(SCRYPT, "version", "3"), "which is no Web3 Secret Storage of version 3"),
    (changed(SCRYPT, "version", None), "which is no Web3 Secret Storage of version 3"),
    (changed(SCRYPT, "crypto", None), f"{DAMAGED}: Object missing required field `crypto`"),
    (changed(SCRYPT, "crypto", [1]), DAMAGED),
    (changed(SCRYPT, "address", 7), DAMAGED),
    (changed(SCRYPT, "crypto.mac", None), DAMAGED),
    (changed(SCRYPT, "crypto.mac", "zz"), DAMAGED),
    (changed(SCRYPT, "crypto.ciphertext", ""), DAMAGED),
    (changed(SCRYPT, "crypto.ciphertext", "00" * 33), DAMAGED),
    (changed(SCRYPT, "crypto.cipherparams.iv", "00"), DAMAGED),
    (changed(SCRYPT, "crypto.cipher", "aes-128-cbc"), "whose cipher is not aes-128-ctr"),
    (changed(SCRYPT, "crypto.kdf", "argon2id"), "whose kdf is neither scrypt nor pbkdf2"),
    (changed(SCRYPT, "crypto.kdf", "pbkdf2"), DAMAGED),
    (changed(SCRYPT, "crypto.kdfparams.n", 2**21), LIMITS),
    (changed(SCRYPT, "crypto.kdfparams.n", 2**400), LIMITS),
    (changed(SCRYPT, "crypto.kdfparams.n", 1000), "whose scrypt n is no power of two"),
    (changed(SCRYPT, "crypto.kdfparams.n", 1), "whose scrypt n is no power of two"),
    (changed(SCRYPT, "crypto.kdfparams.n", -4), "whose scrypt n is no power of two"),
    (changed(SCRYPT, "crypto.kdfparams.n", 0), "whose scrypt n is no power of two"),
    (changed(SCRYPT, "crypto.kdfparams.n", "4"), DAMAGED),
    (changed(SCRYPT, "crypto.kdfparams.n", True), DAMAGED),
    (changed(SCRYPT, "crypto.kdfparams.r", 2**22), LIMITS),
    (changed(SCRYPT, "crypto.kdfparams.r", 0), DAMAGED),
    (changed(SCRYPT, "crypto.kdfparams.p", 2**22), LIMITS),
    (changed(SCRYPT, "crypto.kdfparams.p", -1), DAMAGED),
    (changed(SCRYPT, "crypto.kdfparams.dklen", 2**40), "whose dklen is not 32"),
    (changed(SCRYPT, "crypto.kdfparams.salt", 5), DAMAGED),
    (changed(PBKDF2, "crypto.kdfparams.c", 10_000_001), "whose pbkdf2 c is above 10000000"),
    (changed(PBKDF2, "crypto.kdfparams.c", 0), DAMAGED),
    (changed(PBKDF2, "crypto.kdfparams.prf", "hmac-md5"), "whose prf is not hmac-sha256"),
    (changed(PBKDF2, "crypto.kdfparams.dklen", 16), "whose dklen is not 32"),
]


@pytest.mark.parametrize(("document", "text"), UNUSABLE)
def test_keystores_that_are_refused(made: Make, document: dict[str, Any], text: str) -> None:
    """Another version, cipher or kdf, a field that is damaged, and parameters that would take
    memory or time without end are each one line, before anything is derived."""
    path = made(json.dumps(document))
    assert problem(lambda: open_keystore(path, PASSWORD)).startswith(f"names {path}, {text}")


@pytest.mark.parametrize(
    "text", ["hunter2", "[3]", '{"version": 3', "{" * 30_000, "[" * 60_000, '{"version": NaN}']
)
def test_what_is_no_keystore(made: Make, text: str) -> None:
    """What is no JSON object, or nests without end, is refused, and nothing of it is shown."""
    path = made(text)
    said = problem(lambda: open_keystore(path, PASSWORD))
    assert said.startswith(f"names {path}, which is no ")
    assert "hunter2" not in said


def test_a_missing_keystore(tmp_path: Path) -> None:
    """A keystore is a file like any other."""
    said = problem(lambda: open_keystore(tmp_path / "none", PASSWORD))
    assert "which does not exist" in said
