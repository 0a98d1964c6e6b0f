from decimal import Decimal
from typing import Any

import msgspec
import pytest

from adapters.receipts import came_to_nothing, receipt_of
from saga.costs import Cost
from saga.facts import Cancelled, NonceTaken, Reverted
from saga.model import Attempt, AttemptKind, Receipt
from tests.support.sagas import SENDER, intent

HASH, BLOCK = "0x" + "1a" * 32, "0x" + "2b" * 32
RAW: dict[str, Any] = {
    "transactionHash": HASH,
    "blockNumber": "0x7",
    "blockHash": BLOCK,
    "from": SENDER.lower(),
    "gasUsed": "0x5208",
    "effectiveGasPrice": "0x3",
    "status": "0x1",
}
ATTEMPT = Attempt(hash=HASH, raw="0x02", max_fee=9, max_priority_fee=9, gas=30_000)


def test_receipt() -> None:
    """A node's receipt says what was paid; what it leaves out is not stored."""
    expected = Receipt(
        tx_hash=HASH,
        block_number=7,
        block_hash=BLOCK,
        block_time=11,
        sender=SENDER,
        gas_used=21_000,
        gas_price=3,
    )
    assert receipt_of(RAW, 11, attempt=ATTEMPT) == expected
    stored = msgspec.json.encode(expected)
    assert b"l1_fee" not in stored
    assert b"native_usd" not in stored


def test_no_effective_price() -> None:
    """Where a chain without base fee leaves the price out, it took what was offered; of what is
    not ours nobody knows."""
    raw = {name: value for name, value in RAW.items() if name != "effectiveGasPrice"}
    assert receipt_of(raw, 0, attempt=ATTEMPT).gas_price == 9
    assert receipt_of(raw, 0).gas_price == 0


@pytest.mark.parametrize(
    ("said", "fee"),
    [("0x10", 16), ("0x0", 0), (None, 0), ("0x", 0), ("", 0), (5, 0), ("-0x5", 0), ({}, 0)],
)
def test_l1_fee(said: object, fee: int) -> None:
    """An OP-stack chain's fee for its data is taken over; anything that is no number is none."""
    assert receipt_of({**RAW, "l1Fee": said}, 0).l1_fee == fee


@pytest.mark.parametrize(
    ("price", "text"),
    [
        ("3000.25", "3000.25"),
        ("3E+3", "3000"),
        ("1E-9", "0.000000001"),
        ("0.10", "0.10"),
        ("NaN", None),
        ("Infinity", None),
        ("-1", None),
        ("1E+30", None),
        ("1E-60", None),
    ],
)
def test_price(price: str, text: str | None) -> None:
    """A price is stored as exact decimal text that reads back; what cannot be is left out."""
    receipt = receipt_of(RAW, 0, native_usd=Decimal(price))
    assert receipt.native_usd == text
    assert msgspec.json.decode(msgspec.json.encode(receipt), type=Receipt) == receipt


@pytest.mark.parametrize(
    ("kind", "status", "fact"),
    [
        (AttemptKind.CALL, "0x1", None),
        (AttemptKind.CALL, "0x0", Reverted(HASH, 7, Cost(21_000, 63_016))),
        (AttemptKind.CANCEL, "0x1", Cancelled(HASH, Cost(21_000, 63_016))),
        (AttemptKind.FILL, "0x1", NonceTaken(5, Cost(21_000, 63_016))),
    ],
)
def test_came_to_nothing(kind: AttemptKind, status: str, fact: object) -> None:
    """What did not do its step's work says what it cost all the same, the data's fee included."""
    attempt = msgspec.structs.replace(ATTEMPT, kind=kind)
    raw = {**RAW, "status": status, "l1Fee": "0x10"}
    assert came_to_nothing(raw, attempt, intent(nonce=5)) == fact
