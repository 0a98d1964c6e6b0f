"""Laws of a key in an HSM, on SoftHSM 2: found, fit, and used. Its bad days: `..._lost`."""

import asyncio
import copy
import pickle
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
from eth_account import Account
from eth_keys.constants import SECPK1_N
from eth_keys.datatypes import PrivateKey, PublicKey

from adapters.key_pkcs11 import open_pkcs11
from adapters.transaction import decoded
from saga.fees import GWEI, Fees
from tests.support.hsm import P256_PARAMS, PIN, SoftHsm, private, soft_hsm
from tests.support.hsm_key import (
    ASKED,
    LABEL,
    REFUSED,
    TIMEOUT_SECONDS,
    TOKEN,
    WRONG_PIN,
    address_of,
    assert_signs,
    opened,
)


@pytest.fixture
def hsm(tmp_path: Path) -> Iterator[SoftHsm]:
    """One with a token, and no key in it."""
    with soft_hsm(tmp_path) as made:
        made.make_token(TOKEN)
        yield made


async def problem(hsm: SoftHsm, *, pin: str = PIN, module: Path | None = None) -> str:
    """Of opening a key: one line that goes on after the setting's name."""
    with pytest.raises(ValueError, match=r"^cannot be used: ") as caught:
        await open_pkcs11(
            module or hsm.module, token=TOKEN, label=LABEL, pin=pin, timeout=TIMEOUT_SECONDS
        )
    assert pin not in "".join(traceback.format_exception(caught.value))
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None
    return str(caught.value).removeprefix("cannot be used: ")


async def test_signs(hsm: SoftHsm) -> None:
    """What it was asked for, with a low s, by the key of its address; both kinds of transaction."""
    address = address_of(hsm.make_key(TOKEN, LABEL))
    async with opened(hsm) as key:
        assert key.kind == "pkcs#11"
        await assert_signs(key, address)
        legacy = ASKED._replace(fees=Fees(max_fee=GWEI, max_priority_fee=GWEI, legacy=True))
        assert Account.recover_transaction(await key.sign(legacy)) == address


async def test_low_s_always(hsm: SoftHsm) -> None:
    """Signatures asked for at once each get their own answer; the HSM's high s never goes out."""
    address = address_of(hsm.make_key(TOKEN, LABEL))
    async with opened(hsm) as key:
        asked = [ASKED._replace(nonce=nonce) for nonce in range(32)]
        raws = await asyncio.gather(*map(key.sign, asked))
    for raw, transaction in zip(raws, asked, strict=True):
        found, signature = decoded(raw)
        assert found == transaction
        assert signature.s <= SECPK1_N // 2
        assert Account.recover_transaction(raw) == address


async def test_made_in_the_token(hsm: SoftHsm) -> None:
    """The address of a key that was generated in the token is that of its public key."""
    point = bytes.fromhex(hsm.tool(TOKEN, ["pair", LABEL]))
    async with opened(hsm) as key:
        await assert_signs(key, str(PublicKey(point[-64:]).to_checksum_address()))


@pytest.mark.parametrize("beside", ["nothing", "same label", "same id", "a stranger's"])
async def test_address(hsm: SoftHsm, beside: str) -> None:
    """The address is the private key's, whatever public key lies beside it, if any."""
    own = hsm.make_key(TOKEN, LABEL, ID="hex:01")
    match beside:
        case "same label":
            hsm.make_public(TOKEN, LABEL, own)
        case "same id":
            hsm.make_public(TOKEN, "another label", own, ID="hex:01")
        case "a stranger's":
            hsm.make_public(TOKEN, LABEL, PrivateKey(b"\1" * 32), ID="hex:01")
    async with opened(hsm) as key:
        await assert_signs(key, address_of(own))


async def test_pin_for_each_signature(hsm: SoftHsm) -> None:
    """A key with CKA_ALWAYS_AUTHENTICATE gets the PIN each time."""
    own = hsm.make_key(TOKEN, LABEL, ALWAYS_AUTHENTICATE=True)
    async with opened(hsm) as key:
        for _ in range(2):
            await assert_signs(key, address_of(own))


async def test_no_file(hsm: SoftHsm, tmp_path: Path) -> None:
    """A path without a file is named."""
    missing = tmp_path / "missing.so"
    text = f"{missing} is no file: name the PKCS#11 library of the HSM's vendor"
    assert await problem(hsm, module=missing) == text
    assert await problem(hsm, module=tmp_path) == text.replace(str(missing), str(tmp_path))


async def test_no_library(hsm: SoftHsm, tmp_path: Path) -> None:
    """What cannot be loaded is refused, and so is a library of something else."""
    (tmp_path / "text.so").write_text("no library\n")
    text = await problem(hsm, module=tmp_path / "text.so")
    assert text.startswith(f"the HSM's library cannot be loaded: {tmp_path / 'text.so'}: ")
    import hiredis.hiredis  # noqa: PLC0415 - any shared library

    other = Path(str(hiredis.hiredis.__file__))
    text = f"{other} is no PKCS#11 library: it has no C_GetFunctionList"
    assert await problem(hsm, module=other) == text


async def test_library_that_does_not_start(hsm: SoftHsm) -> None:
    """Its refusal is told, and held against nobody: it starts when it can."""
    own = hsm.make_key(TOKEN, LABEL)
    away = hsm.tokens.rename(hsm.tokens.with_name("away"))
    text = await problem(hsm)
    assert text.startswith("the HSM's library does not start (C_Initialize: ")
    assert text.endswith("): check its configuration")
    away.rename(hsm.tokens)
    async with opened(hsm) as key:
        await assert_signs(key, address_of(own))


async def test_no_token(hsm: SoftHsm) -> None:
    """A token that is not there: the labels that are there are listed."""
    hsm.pull(TOKEN)
    assert await problem(hsm) == "the HSM has no token labelled 'hokusai', nor any other"
    hsm.make_token("b")
    hsm.make_token("a")
    assert await problem(hsm) == (
        "the HSM has no token labelled 'hokusai'; there are: 'a', 'b'; set DEPLOYER_PKCS11_TOKEN "
        "to one of them"
    )


async def test_two_tokens(hsm: SoftHsm) -> None:
    """Of two tokens with the same label none is taken by chance."""
    hsm.make_token(TOKEN)
    text = "the HSM has 2 tokens labelled 'hokusai': give each its own label"
    assert await problem(hsm) == text


async def test_no_key(hsm: SoftHsm) -> None:
    """A key that is not there: the labels that are there are listed."""
    text = "the HSM has no private key labelled 'deployer' in token 'hokusai'"
    assert await problem(hsm) == f"{text}, nor any other"
    keys = [private(f"{number:02}", PrivateKey(b"\1" * 32)) for number in range(12)]
    hsm.tool(TOKEN, *(["create", key] for key in keys))
    listed = ", ".join(f"'{number:02}'" for number in range(10))
    assert await problem(hsm) == (
        f"{text}; there are: {listed}, …; set DEPLOYER_PKCS11_KEY to one of them"
    )


async def test_two_keys(hsm: SoftHsm) -> None:
    """Of two keys with the same label none is taken by chance."""
    hsm.make_key(TOKEN, LABEL)
    hsm.make_key(TOKEN, LABEL)
    assert await problem(hsm) == (
        "the HSM has 2 private keys labelled 'deployer' in token 'hokusai': give each its own label"
    )


async def test_unfit_keys(hsm: SoftHsm) -> None:
    """RSA, another curve, or not for signing: refused with the reason."""
    start = "the HSM cannot sign transactions with key 'deployer' of token 'hokusai'"
    hsm.tool(TOKEN, ["rsa", LABEL])
    assert await problem(hsm) == (
        f"{start}: it is none of an elliptic curve; make one of secp256k1"
    )
    hsm.tool(TOKEN, ["destroy", LABEL])
    hsm.make_key(TOKEN, LABEL, EC_PARAMS=f"hex:{P256_PARAMS.hex()}")
    assert await problem(hsm) == f"{start}: its curve is secp256r1; make one of secp256k1"
    hsm.tool(TOKEN, ["destroy", LABEL])
    hsm.make_key(TOKEN, LABEL, SIGN=False)
    assert await problem(hsm) == f"{start}: its CKA_SIGN is false; make one that may sign"


async def test_wrong_pin(hsm: SoftHsm) -> None:
    """A wrong PIN refuses the start, with a warning and without the PIN."""
    own = hsm.make_key(TOKEN, LABEL)
    for wrong in (WRONG_PIN, "9" * 300):
        assert await problem(hsm, pin=wrong) == REFUSED
    async with opened(hsm) as key:
        await assert_signs(key, address_of(own))


async def test_shows_nothing(hsm: SoftHsm) -> None:
    """Neither repr nor copy of a key gives the PIN."""
    own = hsm.make_key(TOKEN, LABEL)
    async with opened(hsm) as key:
        assert repr(key) == (
            f"Pkcs11Key(HsmKey('deployer' in token 'hokusai') of {address_of(own)})"
        )
        for copied in (pickle.dumps, copy.deepcopy):
            with pytest.raises(TypeError) as caught:
                copied(key)
            assert PIN not in str(caught.value)
