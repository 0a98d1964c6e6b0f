"""Laws of the signer: what it signs is what was asked for, and nobody ever sees the key."""

import pytest
from eth_account import Account
from eth_account.typed_transactions.typed_transaction import TypedTransaction
from eth_keys.backends import get_backend
from eth_keys.backends.coincurve import CoinCurveECCBackend
from eth_utils.crypto import keccak
from hexbytes import HexBytes

from adapters.embedded import DEV_ACCOUNT, DEV_MNEMONIC_KEY
from adapters.signer import LocalSigner
from saga.facts import Call

TO = "0x5FbDB2315678afecb367f032d93F642f64180aa3"
CALL = Call(
    to=TO, data="0xdeadbeef", gas=100_000, max_fee=30 * 10**9, max_priority_fee=10**9, predicted=TO
)
KEY = "4c0883a69102937d6231471b5dbb6204fe512961708279b1d4f1d6b2f0a1c3e5"


async def test_signature() -> None:
    """The bytes are a type-2 transaction with exactly the call, and recover to the address."""
    signer = LocalSigner(DEV_MNEMONIC_KEY)
    attempt = await signer.sign(CALL, 7, 31337)
    assert signer.address == DEV_ACCOUNT
    assert Account.recover_transaction(attempt.raw) == DEV_ACCOUNT
    assert attempt.hash == "0x" + keccak(bytes.fromhex(attempt.raw[2:])).hex()
    signed = TypedTransaction.from_bytes(HexBytes(attempt.raw)).as_dict()
    assert {k: v for k, v in signed.items() if k not in ("v", "r", "s", "accessList")} == {
        "type": 2,
        "chainId": 31337,
        "nonce": 7,
        "to": bytes.fromhex(TO[2:]),
        "value": 0,
        "data": bytes.fromhex("deadbeef"),
        "gas": 100_000,
        "maxFeePerGas": 30 * 10**9,
        "maxPriorityFeePerGas": 10**9,
    }
    assert (attempt.gas, attempt.max_fee, attempt.max_priority_fee) == (
        CALL.gas, CALL.max_fee, CALL.max_priority_fee,
    )  # fmt: skip


async def test_signing_twice() -> None:
    """The same call with the same nonce gives the same bytes; another nonce gives others."""
    signer = LocalSigner(KEY)
    first = await signer.sign(CALL, 1, 1)
    assert await signer.sign(CALL, 1, 1) == first
    assert (await signer.sign(CALL, 2, 1)).hash != first.hash
    assert (await signer.sign(CALL, 1, 2)).hash != first.hash


def test_backend() -> None:
    """The native library signs: pure Python costs 25 times its time."""
    assert isinstance(get_backend(), CoinCurveECCBackend)


@pytest.mark.parametrize("key", [KEY, "0x" + KEY, "0X" + KEY.upper(), KEY.upper()])
def test_key_is_never_shown(key: str) -> None:
    """Neither repr, str nor a format shows any part of the key."""
    signer = LocalSigner(key)
    for shown in (repr(signer), str(signer), f"{signer}", repr(signer.sign)):
        assert KEY[:8] not in shown.lower()
        assert signer.address in shown


BAD = [
    "",
    "0x",
    KEY[:-1],
    KEY + "00",
    "0x" + KEY[:-2] + "zz",
    "00" * 32,
    "ff" * 32,
    "correct horse battery staple",
]


@pytest.mark.parametrize("key", BAD)
def test_bad_key(key: str) -> None:
    """A key that is none is refused with the setting's name, and without the key or its cause."""
    with pytest.raises(
        ValueError, match="DEPLOYER_PRIVATE_KEY is no private key: 64 hex digits"
    ) as caught:
        LocalSigner(key)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__
    assert len(key) < 3 or key not in str(caught.value)
