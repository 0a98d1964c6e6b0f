"""What a remote signer gave back, against what it was asked for. Pure.

A signer may be another operator's, or have been taken over: of its answer nothing is kept but the
two numbers of the signature, and these only where every field is the one that was asked for.
"""

from typing import Any

import rlp  # type: ignore[import-untyped]  # no stubs exist
from eth_keys.datatypes import Signature
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

from adapters.transaction import UNREADABLE, Transaction, completed, decoded, sender_of
from saga.errors import SignerError

SLACK_BYTES = 4096
"""An answer longer than the transaction by more is refused unread: half a megabyte of nested lists
keeps the RLP decoder busy for two seconds, measured."""

_TYPE_0_FROM = 0x80  # EIP-2718: smaller first bytes are types; a legacy transaction is an RLP list
_WORD_BITS = 256  # of the EVM: what any number of a transaction has at most
_SHOWN_BYTES = 32
_ANY_SIGNATURE = Signature(vrs=(0, 1, 1))


class UntrustedError(Exception):
    """How the answer is not what was asked for, as it follows the signer's name."""


def trusted(asked: Transaction, answer: object, address: str) -> bytes:
    """The signed bytes of exactly `asked`, put together here, with a low s. Raises UntrustedError.

    The answer is hex (Web3Signer, anvil), or an object with it as `raw` (Clef, geth).
    """
    raw = _bytes(answer, len(asked.signed(_ANY_SIGNATURE)) + SLACK_BYTES)
    kind, wanted = (raw[0] if raw[0] < _TYPE_0_FROM else 0), (0 if asked.fees.legacy else 2)
    if kind != wanted:
        raise UntrustedError(_changed("type", wanted, kind))
    try:
        found, signature = decoded(raw)
    except UNREADABLE:
        raise UntrustedError(_NONE) from None
    got = _fields(found)
    for name, value in _fields(asked).items():
        if got[name] != value:
            raise UntrustedError(_changed(name, value, got[name]))
    try:
        return completed(asked, signature.r, signature.s, address)
    except SignerError:
        raise UntrustedError(_changed("sender", address, _sender(found, signature))) from None


_NONE = "answered with no signed transaction of type 2, or 0 with a chain id; nothing was sent"


def _bytes(answer: object, limit: int) -> bytes:
    text = answer.get("raw") if isinstance(answer, dict) else answer
    if not isinstance(text, str):
        raise UntrustedError(_NONE)
    digits = text.removeprefix("0x")
    if len(digits) > 2 * limit:
        raise UntrustedError(
            f"answered with {len(digits) // 2} bytes, where at most {limit} were asked for; "
            "nothing was sent"
        )
    try:
        raw = bytes.fromhex(digits)
    except ValueError:
        raise UntrustedError(_NONE) from None
    if not raw:
        raise UntrustedError(_NONE)
    return raw


def _fields(transaction: Transaction) -> dict[str, Any]:
    """All that is signed, by the names in the error. Those of two of one type are the same."""
    fees = transaction.fees
    prices = {"gas price": fees.max_fee}
    if not fees.legacy:
        prices = {"max fee per gas": fees.max_fee, "max priority fee": fees.max_priority_fee}
    return {
        "chain id": transaction.chain_id,
        "nonce": transaction.nonce,
        "recipient": to_checksum_address(transaction.to) if transaction.to else "none",
        "value": transaction.value,
        "data": transaction.data,
        "gas": transaction.gas,
        **prices,
        "access list": [(entry, [*keys]) for entry, keys in transaction.access],
    }


def _changed(name: str, asked: object, got: object) -> str:
    return f"changed the {name}: asked {_shown(asked)}, got {_shown(got)}; nothing was sent"


def _shown(value: object) -> str:
    """Short, whatever its size: Python itself refuses to write integers of thousands of digits."""
    if isinstance(value, int) and value.bit_length() > _WORD_BITS:
        return f"a number of {value.bit_length()} bits"
    if isinstance(value, list):
        return f"{len(value)} entries (hash 0x{keccak(rlp.encode(value))[:4].hex()}…)"
    if isinstance(value, bytes) and len(value) > _SHOWN_BYTES:
        mark = keccak(value)[:4].hex()
        return f"0x{value[:4].hex()}… ({len(value)} bytes, hash 0x{mark}…)"
    return f"0x{value.hex()}" if isinstance(value, bytes) else str(value)


def _sender(found: Transaction, signature: Signature) -> str:
    try:
        return sender_of(found, signature)
    except UNREADABLE:
        return "no address"
