"""Laws of every key: it signs exactly what it was asked to, and shows nothing of itself."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from eth_account import Account
from eth_keys.datatypes import Signature

from adapters.signer import PROBE_NONCE, SELF_SEND_GAS, Key, Signer
from adapters.transaction import Transaction, decoded
from saga.facts import Call
from saga.fees import GWEI, Fees
from saga.model import AttemptKind
from tests.support.keys import OPENERS, Opened
from tests.support.kms import is_high

CHAIN_ID = 31337
TO = "0x5FbDB2315678afecb367f032d93F642f64180aa3"
FEES = Fees(max_fee=30 * GWEI, max_priority_fee=GWEI)
LEGACY = Fees(max_fee=30 * GWEI, max_priority_fee=30 * GWEI, legacy=True)
BOTH = pytest.mark.parametrize("fees", [FEES, LEGACY], ids=["type 2", "type 0"])


@pytest.fixture(params=OPENERS)
async def opened(request: pytest.FixtureRequest) -> AsyncIterator[Opened]:
    """A key of each kind."""
    async with OPENERS[request.param]() as opened:
        yield opened


def transaction(nonce: int, fees: Fees) -> Transaction:
    return Transaction(
        CHAIN_ID, nonce, 100_000, bytes.fromhex(TO[2:]), bytes.fromhex("deadbeef"), fees
    )


def assert_signed(raw: bytes, asked: Transaction, address: str) -> Signature:
    """The bytes say what was asked, with a signature that any node takes for the address's."""
    found, signature = decoded(raw)
    assert found == asked
    assert not is_high(signature.s)
    assert Account.recover_transaction(raw) == address
    return signature


@BOTH
async def test_signs_what_was_asked(opened: Opened, fees: Fees) -> None:
    """The bytes decode to the transaction, no field of it changed, and recover to the address."""
    for nonce in (0, 1, 128, 2**32):
        asked = transaction(nonce, fees)
        assert_signed(await opened.key.sign(asked), asked, opened.key.address)


@BOTH
async def test_any_transaction(opened: Opened, fees: Fees) -> None:
    """Value, other chains, much data, an access list, a contract's creation: all is signed as it
    is."""
    key, first = opened.key, transaction(7, fees)
    access = () if fees.legacy else ((bytes.fromhex(TO[2:]), (bytes(31) + b"\7",)),)
    for asked in (
        first._replace(value=12),
        first._replace(chain_id=1),
        first._replace(chain_id=2**40),
        first._replace(data=bytes(range(256)) * 40),
        first._replace(to=b"", data=b"\x60\x00"),
        first._replace(access=access),
    ):
        assert_signed(await key.sign(asked), asked, key.address)


async def test_parities(opened: Opened) -> None:
    """Whichever of the two points a signature means, the bytes say it right."""
    parities = set()
    for nonce in range(32):
        asked = transaction(nonce, FEES)
        parities.add(assert_signed(await opened.key.sign(asked), asked, opened.key.address).v)
    assert parities == {0, 1}


@BOTH
async def test_side_by_side(opened: Opened, fees: Fees) -> None:
    """Of many transactions that are signed at once, each gets its own signature."""
    asked = [transaction(nonce, fees) for nonce in range(24)]
    signed = await asyncio.gather(*map(opened.key.sign, asked))
    for raw, one in zip(signed, asked, strict=True):
        assert_signed(raw, one, opened.key.address)


async def test_cancelled(opened: Opened) -> None:
    """A signature that nobody waits for any more does the next one no harm."""
    task = asyncio.create_task(opened.key.sign(transaction(1, FEES)))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    asked = transaction(2, FEES)
    assert_signed(await opened.key.sign(asked), asked, opened.key.address)


async def test_shows_nothing(opened: Opened) -> None:
    """Neither the key's texts nor those of its signer hold a secret; both hold the address."""
    for shown in (opened.key, Signer(opened.key)):
        for text in (repr(shown), str(shown), f"{shown}", repr(shown.sign)):
            assert opened.key.address in text
            assert not [secret for secret in opened.secrets if secret.lower() in text.lower()]
    assert opened.key.kind == Signer(opened.key).kind
    assert opened.key.kind


@BOTH
async def test_signer(opened: Opened, fees: Fees) -> None:
    """A call becomes its transaction; signed again, it keeps all but its fees, its type too."""
    signer = Signer(opened.key)
    call = Call(
        to=TO,
        data="0xdeadbeef",
        gas=100_000,
        max_fee=fees.max_fee,
        max_priority_fee=fees.max_priority_fee,
        predicted=TO,
        legacy=fees.legacy,
    )
    first = await signer.sign(call, 7, CHAIN_ID)
    asked = transaction(7, fees)
    assert_signed(bytes.fromhex(first.raw[2:]), asked, signer.address)
    higher = Fees(max_fee=40 * GWEI, max_priority_fee=2 * GWEI)
    again = await signer.resign(first.raw, higher)
    tip = 40 * GWEI if fees.legacy else 2 * GWEI
    bumped = Fees(max_fee=40 * GWEI, max_priority_fee=tip, legacy=fees.legacy)
    assert_signed(bytes.fromhex(again.raw[2:]), asked._replace(fees=bumped), signer.address)


@BOTH
async def test_self_send(opened: Opened, fees: Fees) -> None:
    """A self-send moves nothing and costs what nothing costs."""
    signer = Signer(opened.key)
    sent = await signer.self_send(9, CHAIN_ID, fees, AttemptKind.FILL)
    own = bytes.fromhex(signer.address[2:])
    asked = Transaction(CHAIN_ID, 9, SELF_SEND_GAS, own, b"", fees)
    assert_signed(bytes.fromhex(sent.raw[2:]), asked, signer.address)


class Recorded:
    """`adapters.signer.Key`: another one, and what it was asked to sign."""

    def __init__(self, key: Key) -> None:
        self._key = key
        self.kind, self.address = key.kind, key.address
        self.asked: list[Transaction] = []

    async def sign(self, transaction: Transaction) -> bytes:
        self.asked.append(transaction)
        return await self._key.sign(transaction)

    async def close(self) -> None:
        await self._key.close()


@pytest.mark.parametrize("legacy", [False, True])
async def test_proves_itself(opened: Opened, *, legacy: bool) -> None:
    """A key proves itself with a transaction that no chain ever takes."""
    key = Recorded(opened.key)
    await Signer(key).prove(CHAIN_ID, legacy=legacy)
    (asked,) = key.asked
    assert (asked.nonce, asked.value, asked.data) == (PROBE_NONCE, 0, b"")
