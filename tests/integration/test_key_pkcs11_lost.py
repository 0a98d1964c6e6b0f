"""Laws of a key in an HSM on bad days, on SoftHSM 2: lost and found again, hanging, closed."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.hsm import PIN, SoftHsm, soft_hsm
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
    refusal,
)

SHORT_SECONDS = 0.3
"""For what never answers."""
GONE = "is token 'hokusai' plugged in, and the key in it?"


@pytest.fixture
def hsm(tmp_path: Path) -> Iterator[SoftHsm]:
    """One with a token, and no key in it."""
    with soft_hsm(tmp_path) as made:
        made.make_token(TOKEN)
        yield made


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
from tests.support.hsm import PIN
from tests.support.hsm_key import ASKED, LABEL, TOKEN

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
