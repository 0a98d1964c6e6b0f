"""Laws of the signer: what it signs is what was asked for, and nobody ever sees the key."""

from typing import Any

import msgspec
import pytest
import rlp  # type: ignore[import-untyped]  # no stubs exist
from eth_account import Account
from eth_account.typed_transactions.typed_transaction import TypedTransaction
from eth_keys.backends import get_backend
from eth_keys.backends.coincurve import CoinCurveECCBackend
from eth_utils.crypto import keccak
from hexbytes import HexBytes

from adapters.embedded import DEV_ACCOUNT, DEV_MNEMONIC_KEY
from adapters.key_local import LocalKey
from adapters.signer import SELF_SEND_GAS, Signer
from saga.errors import TamperedError
from saga.facts import Call
from saga.fees import Fees
from saga.model import Attempt, AttemptKind

TO = "0x5FbDB2315678afecb367f032d93F642f64180aa3"
CALL = Call(
    to=TO, data="0xdeadbeef", gas=100_000, max_fee=30 * 10**9, max_priority_fee=10**9, predicted=TO
)
LEGACY = msgspec.structs.replace(CALL, max_fee=30 * 10**9, max_priority_fee=30 * 10**9, legacy=True)
HIGHER = Fees(max_fee=40 * 10**9, max_priority_fee=2 * 10**9)
KEY = "4c0883a69102937d6231471b5dbb6204fe512961708279b1d4f1d6b2f0a1c3e5"


async def test_signature() -> None:
    """The bytes are a type-2 transaction with exactly the call, and recover to the address."""
    signer = Signer(LocalKey(DEV_MNEMONIC_KEY))
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


def fields_of(attempt: Attempt) -> dict[str, Any]:
    """What the bytes say, by eth_account's and rlp's own decoders; the signature left out."""
    raw = HexBytes(attempt.raw)
    if raw[0] == 2:
        signed = TypedTransaction.from_bytes(raw).as_dict()
        return {key: value for key, value in signed.items() if key not in ("v", "r", "s")}
    nonce, price, gas, to, value, data, v, _, _ = rlp.decode(raw)
    numbers = {"nonce": nonce, "gasPrice": price, "gas": gas, "value": value}
    decoded = {name: int.from_bytes(number) for name, number in numbers.items()}
    return decoded | {"to": to, "data": data, "chainId": (int.from_bytes(v) - 35) // 2}


@pytest.mark.parametrize("data", ["0x", "0x00", "0x7f", "0x80", "0x" + "ab" * 55, "0x" + "00" * 56])
@pytest.mark.parametrize("nonce", [0, 1, 127, 128, 2**32])
@pytest.mark.parametrize("chain_id", [1, 137, 31337, 2**40])
@pytest.mark.parametrize("call", [CALL, LEGACY])
async def test_as_eth_account_signs(call: Call, nonce: int, chain_id: int, data: str) -> None:
    """Our bytes are those that eth_account makes of the same transaction, to the last bit."""
    transaction = {"chainId": chain_id, "nonce": nonce, "to": TO, "value": 0, "data": data}
    transaction |= {"gas": call.gas}
    if call.legacy:
        transaction |= {"gasPrice": call.max_fee}
    else:
        transaction |= {
            "type": 2, "maxFeePerGas": call.max_fee, "maxPriorityFeePerGas": call.max_priority_fee,
        }  # fmt: skip
    theirs = Account.from_key(KEY).sign_transaction(transaction)
    ours = await Signer(LocalKey(KEY)).sign(
        msgspec.structs.replace(call, data=data), nonce, chain_id
    )
    assert ours.raw == theirs.raw_transaction.to_0x_hex()
    assert ours.hash == theirs.hash.to_0x_hex()


async def test_legacy() -> None:
    """Where the call is legacy, the bytes are a type-0 transaction of this chain alone."""
    attempt = await Signer(LocalKey(DEV_MNEMONIC_KEY)).sign(LEGACY, 7, 31337)
    assert Account.recover_transaction(attempt.raw) == DEV_ACCOUNT
    assert fields_of(attempt) == {
        "chainId": 31337,
        "nonce": 7,
        "to": bytes.fromhex(TO[2:]),
        "value": 0,
        "data": bytes.fromhex("deadbeef"),
        "gas": 100_000,
        "gasPrice": 30 * 10**9,
    }
    assert attempt.max_fee == attempt.max_priority_fee == 30 * 10**9


@pytest.mark.parametrize("kind", AttemptKind)
@pytest.mark.parametrize("call", [CALL, LEGACY])
async def test_resign(call: Call, kind: AttemptKind) -> None:
    """A bump changes the fees and nothing else, not even the type; hash and sender follow."""
    signer = Signer(LocalKey(DEV_MNEMONIC_KEY))
    first = await signer.sign(call, 7, 31337)
    again = await signer.resign(first.raw, HIGHER, kind=kind)
    if call.legacy:
        expected = fields_of(first) | {"gasPrice": HIGHER.max_fee}
    else:
        expected = fields_of(first) | {
            "maxFeePerGas": HIGHER.max_fee, "maxPriorityFeePerGas": HIGHER.max_priority_fee,
        }  # fmt: skip
    assert fields_of(again) == expected
    assert Account.recover_transaction(again.raw) == DEV_ACCOUNT
    assert again.hash == "0x" + keccak(bytes.fromhex(again.raw[2:])).hex()
    assert (again.gas, again.max_fee, again.kind) == (first.gas, HIGHER.max_fee, kind)
    tip = HIGHER.max_fee if call.legacy else HIGHER.max_priority_fee
    assert again.max_priority_fee == tip


@pytest.mark.parametrize("call", [CALL, LEGACY])
async def test_resign_same_fees(call: Call) -> None:
    """The same fees give the same bytes: nothing is lost on the way through the decoder."""
    signer = Signer(LocalKey(KEY))
    first = await signer.sign(call, 300, 137)
    fees = Fees(max_fee=first.max_fee, max_priority_fee=first.max_priority_fee)
    assert await signer.resign(first.raw, fees) == first
    assert (await signer.resign(first.raw, fees)).kind is AttemptKind.CALL


async def test_resign_keeps_what_we_never_send() -> None:
    """Value, a contract creation and an access list pass through a bump unharmed."""
    accesses = [{"address": TO, "storageKeys": ["0x" + "07" * 32]}]
    transaction = {
        "type": 2, "chainId": 5, "nonce": 3, "value": 12, "data": "0x6000", "gas": 90_000,
        "maxFeePerGas": 20, "maxPriorityFeePerGas": 10, "accessList": accesses,
    }  # fmt: skip
    account = Account.from_key(KEY)
    first = account.sign_transaction(transaction)
    bumped = {"maxFeePerGas": HIGHER.max_fee, "maxPriorityFeePerGas": HIGHER.max_priority_fee}
    expected = account.sign_transaction(transaction | bumped)
    again = await Signer(LocalKey(KEY)).resign(first.raw_transaction.to_0x_hex(), HIGHER)
    assert again.raw == expected.raw_transaction.to_0x_hex()


@pytest.mark.parametrize("call", [CALL, LEGACY])
async def test_resign_of_another(call: Call) -> None:
    """Bytes of another key are never signed: whoever put them there does not choose what is."""
    other = await Signer(LocalKey(KEY)).sign(call, 7, 31337)
    with pytest.raises(TamperedError, match=f"not signed by {DEV_ACCOUNT}"):
        await Signer(LocalKey(DEV_MNEMONIC_KEY)).resign(other.raw, HIGHER)


@pytest.mark.parametrize("call", [CALL, LEGACY])
async def test_resign_of_changed_bytes(call: Call) -> None:
    """Whichever byte is changed, no signature of ours is on the bytes any more."""
    signer = Signer(LocalKey(DEV_MNEMONIC_KEY))
    raw = bytes.fromhex((await signer.sign(call, 7, 31337)).raw[2:])
    for place in range(len(raw)):
        changed = bytearray(raw)
        changed[place] ^= 1
        with pytest.raises(TamperedError):
            await signer.resign("0x" + changed.hex(), HIGHER)
    for cut in (raw[:-1], raw[1:], raw + b"\0"):
        with pytest.raises(TamperedError, match="no signed transaction"):
            await signer.resign("0x" + cut.hex(), HIGHER)


def encoded(fields: list[Any]) -> str:
    return f"0x{rlp.encode(fields).hex()}"


UNREADABLE = [
    pytest.param("", id="nothing"),
    pytest.param("0x", id="no bytes"),
    pytest.param("0x0", id="half a byte"),
    pytest.param("0xzz", id="no hex"),
    pytest.param("hello", id="words"),
    pytest.param("0x02", id="type alone"),
    pytest.param("0x02c0", id="type 2, empty"),
    pytest.param("0xc0", id="type 0, empty"),
    pytest.param("0x7f", id="type unknown"),
    pytest.param("0x01" + encoded([b""] * 12)[2:], id="type 1"),
    pytest.param("0x03" + encoded([b""] * 12)[2:], id="type 3"),
    pytest.param("0x02" + encoded([b""] * 12)[2:], id="list of nothings"),
    pytest.param("0x02" + encoded([[]] * 12)[2:], id="list of lists"),
    pytest.param(encoded([1, 2, 3, b"", 0, b"", 27, 5, 6]), id="no chain id"),
    pytest.param(encoded([1, 2, 3, b"", 0, b"", 37, 0, 0]), id="no signature"),
    pytest.param(encoded([1, 2, 3, b"", 0, b"", 37, 2**256 - 1, 1]), id="r above the order"),
    pytest.param(encoded([1, 2, 3, b"\1" * 19, 0, b"", 37, 5, 6]), id="short address"),
    pytest.param("0x02" + "c1" * 3000, id="lists in lists"),
    pytest.param("0x02fbffffffffffffffff", id="endless"),
]


@pytest.mark.parametrize("raw", UNREADABLE)
async def test_resign_of_nonsense(raw: str) -> None:
    """What is no signed transaction is TamperedError, whatever it is, and shows no key."""
    with pytest.raises(TamperedError) as caught:
        await Signer(LocalKey(KEY)).resign(raw, HIGHER)
    assert KEY[:8] not in repr(caught.value)


@pytest.mark.parametrize("kind", [AttemptKind.FILL, AttemptKind.CANCEL])
@pytest.mark.parametrize("legacy", [False, True])
async def test_self_send(kind: AttemptKind, *, legacy: bool) -> None:
    """A self-send moves nothing, costs what nothing costs, and says why it is there."""
    price = 30 * 10**9
    fees = Fees(max_fee=price, max_priority_fee=price if legacy else 10**9, legacy=legacy)
    attempt = await Signer(LocalKey(DEV_MNEMONIC_KEY)).self_send(9, 31337, fees, kind)
    fields = fields_of(attempt)
    assert Account.recover_transaction(attempt.raw) == DEV_ACCOUNT
    assert fields["to"] == bytes.fromhex(DEV_ACCOUNT[2:])
    assert (fields["nonce"], fields["value"], fields["data"]) == (9, 0, b"")
    assert fields["gas"] == attempt.gas == SELF_SEND_GAS
    assert (attempt.kind, attempt.max_fee) == (kind, price)
    assert ("gasPrice" in fields) is legacy


async def test_signing_twice() -> None:
    """The same call with the same nonce gives the same bytes; another nonce gives others."""
    signer = Signer(LocalKey(KEY))
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
    signer = Signer(LocalKey(key))
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
    """A key that is none is refused, without the key or its cause."""
    with pytest.raises(ValueError, match="is no private key: 64 hex digits") as caught:
        Signer(LocalKey(key))
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__
    assert len(key) < 3 or key not in str(caught.value)
