"""Laws of opening the signers: the right keys, of the pin alone, each in one object of memory."""

import gc
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from eth_account import Account

from adapters.key_local import LocalKey
from adapters.signer import Signer
from saga.config import load
from saga.errors import ConfigError
from saga.signer_settings import SignerSettings
from saga.signers import forget_environment, open_signers
from tests.support.memory import Hidden, holders

ONE, TWO = "0x" + "11" * 32, "0x" + "22" * 32
ONE_ADDRESS = "0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A"
TWO_ADDRESS = "0x1563915e194D8CfBA1943570603F7606A3115508"
OTHER_ADDRESS = "0x5FbDB2315678afecb367f032d93F642f64180aa3"
PASSWORD = "correct horse battery"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is set, and there is no `.env`."""
    monkeypatch.chdir(tmp_path)
    for name in SignerSettings.model_fields:
        monkeypatch.delenv(name, raising=False)


def secret_file(name: str, text: str) -> str:
    """Its full path; its owner alone may read it."""
    path = Path.cwd() / name
    path.touch(0o600)
    path.write_text(text, "utf-8")
    return str(path)


def keystore(private_key: str, password: str) -> str:
    """scrypt's n is low, for speed."""
    key = bytes.fromhex(private_key.removeprefix("0x"))
    return json.dumps(Account.encrypt(key, password, kdf="scrypt", iterations=4))


def by_value(key: str) -> dict[str, str]:
    return {"DEPLOYER_PRIVATE_KEY": key}


def by_file(key: str) -> dict[str, str]:
    return {"DEPLOYER_PRIVATE_KEY_FILE": secret_file("key", f"{key}\n")}


def by_keys_file(key: str) -> dict[str, str]:
    return {"DEPLOYER_PRIVATE_KEYS_FILE": secret_file("keys", f"# the first\n{key}\n")}


def by_keystore(key: str) -> dict[str, str]:
    return {
        "DEPLOYER_KEYSTORE": secret_file("keystore.json", keystore(key, PASSWORD)),
        "DEPLOYER_KEYSTORE_PASSWORD_FILE": secret_file("password", f"{PASSWORD}\n"),
    }


SOURCES = {
    "private key": by_value,
    "key file": by_file,
    "key file, one a line": by_keys_file,
    "keystore": by_keystore,
}
Source = Callable[[str], dict[str, str]]
each_source = pytest.mark.parametrize("source", SOURCES.values(), ids=list(SOURCES))


def set_all(monkeypatch: pytest.MonkeyPatch, values: dict[str, str]) -> None:
    for name, value in values.items():
        monkeypatch.setenv(name, value)


async def opened(**values: str) -> list[Signer]:
    """The signers of these settings, closed again."""
    with pytest.MonkeyPatch.context() as patch:
        set_all(patch, values)
        settings = load(SignerSettings)
    async with open_signers(settings) as signers:
        return list(signers)


@pytest.mark.parametrize(("kind", "source"), SOURCES.items())
async def test_each_local_source(kind: str, source: Source) -> None:
    """The signer has the key's address and its source's name, and signs."""
    (signer,) = await opened(**source(ONE))
    assert (signer.address, signer.kind) == (ONE_ADDRESS, kind.partition(",")[0])
    await signer.prove(31337)


async def test_several_keys() -> None:
    """A file of keys makes a signer of each, in the file's order."""
    path = secret_file("keys", f"{TWO}\n{ONE}\n")
    signers = await opened(DEPLOYER_PRIVATE_KEYS_FILE=path)
    assert [signer.address for signer in signers] == [TWO_ADDRESS, ONE_ADDRESS]


@each_source
async def test_the_pin_matches(source: Source) -> None:
    """A pin of the key's own address lets it sign, in whatever case it is written."""
    for pin in (ONE_ADDRESS, ONE_ADDRESS.lower(), f" {ONE_ADDRESS} "):
        (signer,) = await opened(DEPLOYER_ADDRESS=pin, **source(ONE))
        assert signer.address == ONE_ADDRESS


@each_source
async def test_the_pin_does_not_match(source: Source) -> None:
    """A pin of another address refuses the start, and names both addresses and the source."""
    values = source(ONE)
    with pytest.raises(ConfigError) as caught:
        await opened(DEPLOYER_ADDRESS=OTHER_ADDRESS, **values)
    assert caught.value.problems == [
        (
            f"DEPLOYER_ADDRESS is {OTHER_ADDRESS}, but {next(iter(values))} is the key of "
            f"{ONE_ADDRESS}: set the right key, or the right address"
        )
    ]


@pytest.mark.parametrize(
    "pins",
    [(ONE_ADDRESS, TWO_ADDRESS), (TWO_ADDRESS, ONE_ADDRESS.lower())],
    ids=["same order", "another"],
)
async def test_the_pin_of_several(pins: tuple[str, str]) -> None:
    """A pin of several addresses holds for the same keys in any order."""
    path = secret_file("keys", f"{ONE}\n{TWO}\n")
    signers = await opened(DEPLOYER_PRIVATE_KEYS_FILE=path, DEPLOYER_ADDRESS=", ".join(pins))
    assert [signer.address for signer in signers] == [ONE_ADDRESS, TWO_ADDRESS]


@pytest.mark.parametrize(
    "pin",
    [
        ONE_ADDRESS,
        f"{ONE_ADDRESS},{OTHER_ADDRESS}",
        f"{ONE_ADDRESS},{TWO_ADDRESS},{OTHER_ADDRESS}",
    ],
    ids=["too few", "another", "too many"],
)
async def test_the_pin_of_other_several(pin: str) -> None:
    """A key that the pin does not name, or a name without its key, refuses the start."""
    path = secret_file("keys", f"{ONE}\n{TWO}\n")
    with pytest.raises(ConfigError, match=f"is {pin}, but .* of {ONE_ADDRESS},{TWO_ADDRESS}:"):
        await opened(DEPLOYER_PRIVATE_KEYS_FILE=path, DEPLOYER_ADDRESS=pin)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("DEPLOYER_PRIVATE_KEY_FILE", {"DEPLOYER_PRIVATE_KEY_FILE": "/none"}),
        ("DEPLOYER_PRIVATE_KEYS_FILE", {"DEPLOYER_PRIVATE_KEYS_FILE": "/none"}),
        (
            "DEPLOYER_KEYSTORE_PASSWORD_FILE",
            {"DEPLOYER_KEYSTORE": "/none", "DEPLOYER_KEYSTORE_PASSWORD_FILE": "/none"},
        ),
    ],
)
async def test_a_bad_file_is_named_by_its_setting(name: str, values: dict[str, str]) -> None:
    """What is wrong with a file begins with the setting that names it."""
    with pytest.raises(ConfigError) as caught:
        await opened(**values)
    (problem,) = caught.value.problems
    assert problem.startswith(f"{name} names /none, which does not exist")


async def test_a_key_that_is_none() -> None:
    """64 hex digits that are no key of the curve are refused in the setting's name, unquoted."""
    with pytest.raises(ConfigError) as caught:
        await opened(DEPLOYER_PRIVATE_KEY="f" * 64)
    (problem,) = caught.value.problems
    assert problem.startswith("DEPLOYER_PRIVATE_KEY is no private key")
    assert "fff" not in problem


# --- Memory.


def held_by(signer: Signer) -> object:
    """The key's bytes in the one object that is to have them."""
    key = signer._key
    assert isinstance(key, LocalKey)
    return key._key.to_bytes()


@each_source
async def test_the_key_is_in_one_object(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key is held by its LocalKey alone, before and after it signs: neither settings nor
    environment, text of a file, hex, number or copy are left, nor is a keystore's password."""
    hidden = Hidden.key()
    set_all(monkeypatch, source("0x" + hidden.hex()))
    settings = load(SignerSettings)
    forget_environment()
    async with open_signers(settings) as (signer,):
        for _ in range(2):
            (found,) = holders(hidden)
            assert found is held_by(signer)
            await signer.prove(1)
        del found
        (owner,) = gc.get_referrers(held_by(signer))
        assert owner is signer._key._key or owner is vars(signer._key._key)  # type: ignore[attr-defined]
    assert settings.source


async def test_a_dotenv_file_leaves_no_copy() -> None:
    """A key that stands in `.env` is in one object too."""
    hidden = Hidden.key()
    secret_file(".env", f"DEPLOYER_PRIVATE_KEY={hidden.hex()}\n")
    async with open_signers(load(SignerSettings)) as (signer,):
        (found,) = holders(hidden)
        assert found is held_by(signer)


async def test_the_password_is_gone() -> None:
    """Once a keystore is open, nothing holds its password."""
    key, password = Hidden.key(), Hidden(os.urandom(24).hex().encode())
    given = {
        "DEPLOYER_KEYSTORE": secret_file("k.json", keystore(key.hex(), password.bytes().decode())),
        "DEPLOYER_KEYSTORE_PASSWORD_FILE": secret_file("password", password.bytes().decode()),
    }
    with pytest.MonkeyPatch.context() as patch:
        set_all(patch, given)
        settings = load(SignerSettings)
    async with open_signers(settings):
        assert len(holders(key)) == 1
        assert holders(password) == []


async def test_a_refusal_holds_no_key() -> None:
    """The error about a bad line holds none of the good ones."""
    hidden = Hidden.key()
    path = secret_file("keys", f"{hidden.hex()}\nno key\n")
    with pytest.raises(ConfigError, match="whose line 2 is no private key") as caught:
        await opened(DEPLOYER_PRIVATE_KEYS_FILE=path)
    assert holders(hidden) == []
    assert caught.value.problems


@pytest.mark.parametrize("name", ["DEPLOYER_PRIVATE_KEY", "deployer_private_key"])
async def test_the_environment_forgets(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What settings read as the key is gone from the environment, and nothing else is."""
    monkeypatch.setenv(name, ONE)
    monkeypatch.setenv("DEPLOYER_PRIVATE_KEY_FILE", "/keys/one")
    forget_environment()
    assert name not in os.environ
    assert os.environ["DEPLOYER_PRIVATE_KEY_FILE"] == "/keys/one"


async def test_the_search_finds() -> None:
    """What is planted is found: in text, bytes and numbers, deep inside, by no other search."""
    hidden = Hidden.key()
    planted = [
        f"key: 0x{hidden.hex().upper()}\n",
        [(hidden.bytes() + b"\0",)],
        {"number": int(hidden.hex(), 16)},
        {"text": bytearray(hidden.hex().encode())},
        str(int(hidden.hex(), 16)),
    ]
    assert len(holders(hidden)) == len(planted)
    del planted
    assert holders(hidden) == []
