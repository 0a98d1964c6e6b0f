"""What laws of a key in an HSM share."""

import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from eth_account import Account
from eth_keys.constants import SECPK1_N
from eth_keys.datatypes import PrivateKey

from adapters.key_pkcs11 import Pkcs11Key, open_pkcs11
from adapters.transaction import Transaction, decoded
from saga.errors import SignerError
from saga.fees import GWEI, Fees
from tests.support.chain import STRANGER
from tests.support.hsm import PIN, SoftHsm

TOKEN, LABEL = "hokusai", "deployer"
TIMEOUT_SECONDS = 30.0
WRONG_PIN = "another-planted-pin-1234"
TO = bytes.fromhex(STRANGER[2:])
ASKED = Transaction(
    31337, 7, 100_000, TO, b"\xde\xad", Fees(max_fee=30 * GWEI, max_priority_fee=GWEI)
)
REFUSED = (
    "the HSM refuses the PIN of token 'hokusai': correct DEPLOYER_PKCS11_PIN_FILE before the next "
    "start, for a token locks itself after a few wrong PINs"
)


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
