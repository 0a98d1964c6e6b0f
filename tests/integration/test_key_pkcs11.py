"""Laws of a key in an HSM, on SoftHSM 2: found, used, lost and found again."""

import asyncio
import copy
import pickle
import subprocess
import sys
import threading
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from eth_account import Account
from eth_keys.constants import SECPK1_N
from eth_keys.datatypes import PrivateKey, PublicKey

from adapters.key_pkcs11 import Pkcs11Key, open_pkcs11
from adapters.transaction import Transaction, decoded
from saga.errors import SignerError
from saga.fees import GWEI, Fees
from tests.support.chain import STRANGER
from tests.support.hsm import P256_PARAMS, PIN, SoftHsm, private, soft_hsm

TOKEN, LABEL = "hokusai", "deployer"
TIMEOUT_SECONDS = 30.0
SHORT_SECONDS = 0.3
"""For what never answers."""
WRONG_PIN = "another-planted-pin-1234"
TO = bytes.fromhex(STRANGER[2:])
ASKED = Transaction(
    31337, 7, 100_000, TO, b"\xde\xad", Fees(max_fee=30 * GWEI, max_priority_fee=GWEI)
)
REFUSED = (
    "the HSM refuses the PIN of token 'hokusai': correct DEPLOYER_PKCS11_PIN_FILE before the next "
    "start, for a token locks itself after a few wrong PINs"
)
GONE = "is token 'hokusai' plugged in, and the key in it?"


@pytest.fixture
def hsm(tmp_path: Path) -> Iterator[SoftHsm]:
    """One with a token, and no key in it."""
    with soft_hsm(tmp_path) as made:
        made.make_token(TOKEN)
        yield made


@asynccontextmanager
async def opened(
    hsm: SoftHsm, token: str = TOKEN, label: str = LABEL, timeout: float = TIMEOUT_SECONDS
) -> AsyncIterator[Pkcs11Key]:
    key = await open_pkcs11(hsm.module, token=token, label=label, pin=PIN, timeout=timeout)
    try:
        yield key
    finally:
        await key.close()


def address_of(key: PrivateKey) -> str:
    return str(key.public_key.to_checksum_address())


async def assert_signs(key: Pkcs11Key, address: str) -> None:
    raw = await key.sign(ASKED)
    found, signature = decoded(raw)
    assert found == ASKED
    assert signature.s <= SECPK1_N // 2
    assert Account.recover_transaction(raw) == address == key.address


async def refusal(call: Callable[[], Awaitable[object]]) -> str:
    """Of a signature: one line, and no PIN in it or in its traceback."""
    with pytest.raises(SignerError) as caught:
        await call()
    assert PIN not in "".join(traceback.format_exception(caught.value))
    assert "\n" not in str(caught.value)
    return str(caught.value)


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


async def test_wrong_pin_once(hsm: SoftHsm) -> None:
    """A PIN that was refused once is not tried again, not even when it would be right by now."""
    hsm.make_key(TOKEN, LABEL)
    async with opened(hsm) as key:
        hsm.tool(TOKEN, ["pin", WRONG_PIN])
        hsm.pull(TOKEN)
        assert GONE in await refusal(lambda: key.sign(ASKED))
        hsm.plug(TOKEN)
        assert await refusal(lambda: key.sign(ASKED)) == REFUSED
        hsm.tool(TOKEN, ["pin", PIN], pin=WRONG_PIN)
        assert await refusal(lambda: key.sign(ASKED)) == REFUSED
    async with opened(hsm) as key:
        await key.sign(ASKED)


async def test_pulled_out(hsm: SoftHsm) -> None:
    """Without its token nothing is signed, in one clear line; when it is back, all goes on alone.

    SoftHSM's open session notices at the next use of the key (CKR_OBJECT_HANDLE_INVALID), and does
    not see a token that came back until the library is initialized anew.
    """
    own = hsm.make_key(TOKEN, LABEL)
    async with opened(hsm) as key:
        for _ in range(2):
            hsm.pull(TOKEN)
            text = await refusal(lambda: key.sign(ASKED))
            assert text == f"the HSM failed (ObjectHandleInvalid): {GONE}"
            for _ in range(2):
                text = await refusal(lambda: key.sign(ASKED))
                assert text == "the HSM has no token labelled 'hokusai', nor any other"
            hsm.plug(TOKEN)
            await assert_signs(key, address_of(own))


async def test_pulled_out_unnoticed(hsm: SoftHsm) -> None:
    """A token that was away while nothing was signed costs nothing."""
    own = hsm.make_key(TOKEN, LABEL)
    async with opened(hsm) as key:
        hsm.pull(TOKEN)
        hsm.plug(TOKEN)
        await assert_signs(key, address_of(own))


async def test_device_gone(hsm: SoftHsm) -> None:
    """The same holds when the whole device is away, and its library does not even start."""
    own = hsm.make_key(TOKEN, LABEL)
    async with opened(hsm) as key:
        away = hsm.tokens.rename(hsm.tokens.with_name("away"))
        assert GONE in await refusal(lambda: key.sign(ASKED))
        for _ in range(2):
            assert "does not start" in await refusal(lambda: key.sign(ASKED))
        away.rename(hsm.tokens)
        await assert_signs(key, address_of(own))


async def test_key_destroyed(hsm: SoftHsm) -> None:
    """A key that goes signs nothing more; another one under its label signs nothing either."""
    own = hsm.make_key(TOKEN, LABEL)
    async with opened(hsm) as key:
        hsm.tool(TOKEN, ["destroy", LABEL])
        assert GONE in await refusal(lambda: key.sign(ASKED))
        assert "has no private key labelled 'deployer'" in await refusal(lambda: key.sign(ASKED))
        hsm.make_key(TOKEN, LABEL)
        text = f"the signature is not one of {address_of(own)}: another key answered"
        assert await refusal(lambda: key.sign(ASKED)) == text


async def test_two_keys_in_a_token(hsm: SoftHsm) -> None:
    """Keys of one token share its login: one that closes does not log the other out."""
    one, other = hsm.make_key(TOKEN, LABEL), hsm.make_key(TOKEN, "other")
    async with opened(hsm, label="other") as second:
        async with opened(hsm) as first:
            await assert_signs(first, address_of(one))
            await assert_signs(second, address_of(other))
        await assert_signs(second, address_of(other))
        async with opened(hsm) as first:
            await assert_signs(first, address_of(one))
            hsm.pull(TOKEN)
            for key in (first, second):
                await refusal(lambda key=key: key.sign(ASKED))  # type: ignore[misc]
            hsm.plug(TOKEN)
            await assert_signs(first, address_of(one))
        await assert_signs(second, address_of(other))


async def test_two_tokens_of_a_library(hsm: SoftHsm) -> None:
    """A token that is out does not stop the key of another one; each signs with its own key."""
    hsm.make_token("other")
    one, other = hsm.make_key(TOKEN, LABEL), hsm.make_key("other", LABEL)
    async with opened(hsm) as first, opened(hsm, token="other") as second:
        hsm.pull(TOKEN)
        for _ in range(3):
            await refusal(lambda: first.sign(ASKED))
            await assert_signs(second, address_of(other))
        hsm.plug(TOKEN)
        await assert_signs(first, address_of(one))
        await assert_signs(second, address_of(other))


async def test_hangs(hsm: SoftHsm) -> None:
    """A library that hangs costs the time-out, again and again; when it answers, the key signs."""
    own = hsm.make_key(TOKEN, LABEL)
    async with opened(hsm) as key:
        with hsm.hanging():
            key._timeout = SHORT_SECONDS
            for _ in range(2):
                text = await refusal(lambda: key.sign(ASKED))
                assert text == f"the HSM does not answer within {SHORT_SECONDS} s"
            key._timeout = TIMEOUT_SECONDS
        await assert_signs(key, address_of(own))


async def test_loop_turns(hsm: SoftHsm) -> None:
    """While the library hangs, everything else goes on; a late answer in time is a good one."""
    own = hsm.make_key(TOKEN, LABEL)
    async with opened(hsm) as key:
        with hsm.hanging():
            signing = asyncio.create_task(assert_signs(key, address_of(own)))
            for _ in range(1000):
                await asyncio.sleep(0)
            assert not signing.done()
        await signing


async def test_opened_while_it_hangs(hsm: SoftHsm) -> None:
    """A start is refused in time, and the next one is not harmed by what the first left behind."""
    own = hsm.make_key(TOKEN, LABEL)
    with hsm.hanging(), pytest.raises(ValueError, match="cannot be used: the HSM does not answer"):
        async with opened(hsm, timeout=SHORT_SECONDS):
            pass
    async with opened(hsm) as key:
        await assert_signs(key, address_of(own))


async def test_closed_while_it_hangs(hsm: SoftHsm) -> None:
    """Closing ends in time, and leaves nothing to harm the next key once the library answers."""
    own = hsm.make_key(TOKEN, LABEL)
    async with opened(hsm) as key:
        with hsm.hanging():
            key._timeout = SHORT_SECONDS
            await refusal(lambda: key.sign(ASKED))
            await key.close()
    async with opened(hsm) as key:
        await assert_signs(key, address_of(own))


async def test_closed(hsm: SoftHsm) -> None:
    """A closed key signs nothing, its thread ends, and it may be closed again."""
    hsm.make_key(TOKEN, LABEL)
    async with opened(hsm) as key:
        await key.sign(ASKED)
        threads = [thread for thread in threading.enumerate() if thread.name == "pkcs#11"]
        await key.close()
        assert (
            await refusal(lambda: key.sign(ASKED)) == "the key was closed: this replica is ending"
        )
    for thread in threads:
        await asyncio.to_thread(thread.join, TIMEOUT_SECONDS)
    assert [thread.is_alive() for thread in threads] == [False]


ENDS = """
import asyncio, pathlib, sys
from adapters.key_pkcs11 import open_pkcs11
from saga.errors import SignerError
from tests.integration.test_key_pkcs11 import ASKED, LABEL, PIN, TOKEN

async def main():
    module = pathlib.Path(sys.argv[1])
    key = await open_pkcs11(module, token=TOKEN, label=LABEL, pin=PIN, timeout=30)
    key._timeout = 0.3
    print("open", flush=True)
    sys.stdin.readline()
    try:
        await key.sign(ASKED)
    except SignerError as error:
        print(error, flush=True)
    await key.close()

asyncio.run(main())
"""


def test_process_ends(hsm: SoftHsm) -> None:
    """A process whose library hangs ends all the same, with its own exit status."""
    hsm.make_key(TOKEN, LABEL)
    command = [sys.executable, "-c", ENDS, str(hsm.module)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "open\n"
        with hsm.hanging():
            out, err = child.communicate("go\n", timeout=TIMEOUT_SECONDS)
    assert (out, err) == ("the HSM does not answer within 0.3 s\n", "")
    assert child.returncode == 0


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
