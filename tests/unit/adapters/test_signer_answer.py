"""Laws of a remote signer's answer: what is trusted is what was asked, to the last bit."""

from typing import Any

import pytest
import rlp  # type: ignore[import-untyped]  # no stubs exist
from eth_account import Account
from eth_keys.constants import SECPK1_N
from eth_keys.datatypes import Signature

from adapters.embedded import DEV_ACCOUNT, DEV_MNEMONIC_KEY
from adapters.key_local import LocalKey
from adapters.signer_answer import UntrustedError, trusted
from adapters.transaction import Transaction, decoded, sender_of
from saga.fees import GWEI, Fees

RECIPIENT = "0x5FbDB2315678afecb367f032d93F642f64180aa3"
TO = bytes.fromhex(RECIPIENT[2:])
FEES = Fees(max_fee=30 * GWEI, max_priority_fee=GWEI)
LEGACY_FEES = Fees(max_fee=30 * GWEI, max_priority_fee=30 * GWEI, legacy=True)
ASKED = Transaction(31337, 7, 100_000, TO, bytes.fromhex("deadbeef"), FEES)
LEGACY = ASKED._replace(fees=LEGACY_FEES)
LISTED = ASKED._replace(access=((TO, (b"\x01" * 32,)),))
EACH = pytest.mark.parametrize("asked", [ASKED, LEGACY, LISTED])
HUGE = 2**30_000
"""More digits than Python writes."""


async def signed(transaction: Transaction) -> bytes:
    return await LocalKey(DEV_MNEMONIC_KEY).sign(transaction)


def refusal(asked: Transaction, answer: object) -> str:
    with pytest.raises(UntrustedError) as caught:
        trusted(asked, answer, DEV_ACCOUNT)
    return str(caught.value)


@EACH
async def test_right(asked: Transaction) -> None:
    """The right answer is taken as it is, as hex or as an object's `raw`."""
    raw = await signed(asked)
    assert trusted(asked, "0x" + raw.hex(), DEV_ACCOUNT) == raw
    assert trusted(asked, raw.hex(), DEV_ACCOUNT) == raw
    assert trusted(asked, {"raw": "0x" + raw.hex(), "tx": {"nonce": "0x8"}}, DEV_ACCOUNT) == raw


@EACH
@pytest.mark.parametrize("flipped", [True, False])
async def test_high_s(asked: Transaction, *, flipped: bool) -> None:
    """A high s becomes the low one with the parity that belongs to it, whatever was answered."""
    raw = await signed(asked)
    _, signature = decoded(raw)
    parity, r, s = signature.vrs
    high = Signature(vrs=(1 - parity if flipped else parity, r, SECPK1_N - s))
    ours = trusted(asked, asked.signed(high).hex(), DEV_ACCOUNT)
    assert ours == raw
    found, signature = decoded(ours)
    assert signature.s <= SECPK1_N // 2
    assert sender_of(found, signature) == DEV_ACCOUNT


STRANGER = "0x1111111111111111111111111111111111111111"
CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "chain id": ({"chain_id": 1}, "asked 31337, got 1"),
    "nonce": ({"nonce": 8}, "asked 7, got 8"),
    "recipient": ({"to": b"\x11" * 20}, f"asked {RECIPIENT}, got {STRANGER}"),
    "value": ({"value": 10**18}, "asked 0, got 1000000000000000000"),
    "data": ({"data": b"\x01"}, "asked 0xdeadbeef, got 0x01"),
    "gas": ({"gas": 100_001}, "asked 100000, got 100001"),
}


@EACH
@pytest.mark.parametrize("name", CHANGES)
async def test_changed(asked: Transaction, name: str) -> None:
    """An answer that differs in one field is refused by its name, though the key is the right one.

    So is a contract made where a call was asked for.
    """
    changes, shown = CHANGES[name]
    answer = await signed(asked._replace(**changes))
    assert refusal(asked, answer.hex()) == f"changed the {name}: {shown}; nothing was sent"


@pytest.mark.parametrize(
    ("asked", "changes", "said"),
    [
        (ASKED, {"to": b""}, f"recipient: asked {RECIPIENT}, got none;"),
        (ASKED, {"fees": Fees(max_fee=1, max_priority_fee=1)}, "max fee per gas: asked 3000"),
        (ASKED, {"fees": Fees(max_fee=30 * GWEI, max_priority_fee=2)}, "max priority fee: asked 1"),
        (ASKED, {"fees": LEGACY_FEES}, "type: asked 2, got 0;"),
        (LEGACY, {"fees": FEES}, "type: asked 0, got 2;"),
        (LEGACY, {"fees": Fees(max_fee=7, max_priority_fee=7, legacy=True)}, "gas price: asked 30"),
        (ASKED, {"access": LISTED.access}, "access list: asked 0 entries (hash 0x"),
        (LISTED, {"access": ()}, "access list: asked 1 entries (hash 0x"),
        (LISTED, {"access": ((TO, (b"\x02" * 32,)),)}, "access list: asked 1 entries (hash 0x"),
        (ASKED, {"data": b"\xde\xad\xbe\xef" * 9}, "data: asked 0xdeadbeef, got 0xdeadbeef… (36 b"),
        (ASKED, {"nonce": HUGE}, "nonce: asked 7, got a number of 30001 bits"),
        (LEGACY, {"chain_id": HUGE}, "chain id: asked 31337, got a number of 30001 bits"),
    ],
)
async def test_changed_to(asked: Transaction, changes: dict[str, Any], said: str) -> None:
    """The error says what was asked and what came, each short, whatever its size."""
    said_whole = refusal(asked, (await signed(asked._replace(**changes))).hex())
    assert said_whole.startswith(f"changed the {said}")
    assert len(said_whole) < 200


@EACH
async def test_other_key(asked: Transaction) -> None:
    """The right transaction, signed by another key, is refused by the sender's name."""
    other = LocalKey("11" * 32)
    answer = (await other.sign(asked)).hex()
    said = f"changed the sender: asked {DEV_ACCOUNT}, got {other.address}; nothing was sent"
    assert refusal(asked, answer) == said


def test_other_types() -> None:
    """A transaction of a type that was not asked for is refused, whatever else it says."""
    fields = {"nonce": 7, "gas": 1, "to": RECIPIENT, "value": 0, "data": "0x", "gasPrice": 1}
    access = fields | {"type": 1, "chainId": 31337, "accessList": []}
    raw = Account.sign_transaction(access, DEV_MNEMONIC_KEY).raw_transaction
    assert "type: asked 2, got 1;" in refusal(ASKED, raw.hex())
    unprotected = Account.sign_transaction(fields, DEV_MNEMONIC_KEY).raw_transaction
    assert refusal(LEGACY, unprotected.hex()).startswith("answered with no signed transaction")


def bomb(prefix: bytes, depth: int) -> str:
    """Lists in lists, as deep as asked, each with a true length."""
    inner: Any = b""
    for _ in range(depth):
        inner = [inner]
    return (prefix + bytes(rlp.encode(inner))).hex()


@EACH
@pytest.mark.parametrize(
    "answer",
    [
        None, 7, True, "", "0x", "0xzz", "0x0", "hello", [], {}, {"raw": None}, {"raw": [1]},
        {"tx": "0x02"}, "0x02", "0xc0", "0x02c0", "0x80", "0x7f", "c1" * 4000, "02" + "c1" * 4000,
        bomb(b"", 300), bomb(b"\x02", 300), "02b9ffff", "bfffffffffffffffff", "ä", "0x\u0660\u0661",
    ],
)  # fmt: skip
def test_garbage(asked: Transaction, answer: object) -> None:
    """What is no transaction is refused in one line."""
    said = refusal(asked, answer)
    assert said.endswith("nothing was sent")
    assert "\n" not in said


@EACH
async def test_mangled(asked: Transaction) -> None:
    """No byte of an answer can be changed, cut off or added so that other bytes are trusted."""
    raw = await signed(asked)
    for at in range(len(raw)):
        for mangled in (raw[:at], raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]):
            try:
                assert trusted(asked, mangled.hex(), DEV_ACCOUNT) == raw
            except UntrustedError:
                continue
    refusal(asked, raw.hex() + "00")


@EACH
async def test_too_long(asked: Transaction) -> None:
    """An answer far longer than what was asked for is refused unread."""
    longer = await signed(asked._replace(data=b"\x00" * 400_000))
    assert refusal(asked, longer.hex()).startswith("answered with 400")
    assert refusal(asked, "f9" * 500_000).startswith("answered with 500000 bytes")
