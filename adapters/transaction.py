"""A transaction as it is signed and as it goes over the wire: EIP-1559, or legacy with EIP-155.

Transactions are put together here, from RLP and a signature: a quarter of the time that the generic
layers of eth_account take for it (0.09 ms instead of 0.34, measured).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import rlp  # type: ignore[import-untyped]  # no stubs exist
from eth_keys.constants import SECPK1_N
from eth_keys.datatypes import Signature
from eth_keys.exceptions import BadSignature
from eth_utils.crypto import keccak
from eth_utils.exceptions import ValidationError
from rlp.exceptions import RLPException  # type: ignore[import-untyped]
from rlp.sedes import (  # type: ignore[import-untyped]
    Binary,
    CountableList,
    List,
    big_endian_int,
    binary,
)

from saga.errors import SignerError
from saga.fees import Fees

_TYPE_2 = b"\x02"
_TYPE_0_FROM = 0xC0  # an RLP list: EIP-2718 keeps the smaller first bytes for types
_EIP155_V = 35
"""EIP-155: v is 35 + 2 × chain id + the parity."""

UNREADABLE = (ValueError, TypeError, RLPException, RecursionError, BadSignature, ValidationError)
"""What bytes raise that are no transaction: no hex, no RLP, a list where a number
belongs, lists without end, no signature."""

_to = Binary.fixed_length(20, allow_empty=True)  # empty where a contract is created
_access = CountableList(List([Binary.fixed_length(20), CountableList(Binary.fixed_length(32))]))
_call = [_to, big_endian_int, binary]  # to, value, data
_three = [big_endian_int] * 3
_UNSIGNED_0 = List([*_three, *_call, *_three])  # nonce, price, gas, call, chain id, 0, 0
_SIGNED_0 = List([*_three, *_call, *_three])  # nonce, price, gas, call, v, r, s
_UNSIGNED_2 = List([*[big_endian_int] * 5, *_call, _access])  # chain id, nonce, tip, fee, gas, …
_SIGNED_2 = List([*[big_endian_int] * 5, *_call, _access, *_three])  # …, parity, r, s


class Transaction(NamedTuple):
    """What is signed."""

    chain_id: int
    nonce: int
    gas: int
    to: bytes
    data: bytes
    fees: Fees
    value: int = 0
    access: Sequence[Any] = ()

    def digest(self) -> bytes:
        """What the signature is made of."""
        if self.fees.legacy:
            return keccak(rlp.encode([*self._payload(), self.chain_id, 0, 0], _UNSIGNED_0))
        return keccak(_TYPE_2 + rlp.encode(self._payload(), _UNSIGNED_2))

    def signed(self, signature: Signature) -> bytes:
        parity, r, s = signature.vrs
        if self.fees.legacy:
            v = _EIP155_V + 2 * self.chain_id + parity
            return bytes(rlp.encode([*self._payload(), v, r, s], _SIGNED_0))
        return _TYPE_2 + bytes(rlp.encode([*self._payload(), parity, r, s], _SIGNED_2))

    def _payload(self) -> list[Any]:
        fees, call = self.fees, (self.to, self.value, self.data)
        if fees.legacy:
            return [self.nonce, fees.max_fee, self.gas, *call]
        prices = (fees.max_priority_fee, fees.max_fee)
        return [self.chain_id, self.nonce, *prices, self.gas, *call, self.access]


def decoded(raw: bytes) -> tuple[Transaction, Signature]:
    """Of type 2, or type 0 with a chain id. Raises ValueError, and what RLP and eth_keys raise."""
    if raw[:1] == _TYPE_2:
        fields = rlp.decode(raw[1:], _SIGNED_2)
        chain_id, nonce, tip, fee, gas, to, value, data, access, parity, r, s = fields
        fees = Fees(max_fee=fee, max_priority_fee=tip)
    elif raw and raw[0] >= _TYPE_0_FROM:
        nonce, price, gas, to, value, data, v, r, s = rlp.decode(raw, _SIGNED_0)
        if v < _EIP155_V:
            raise ValueError("no chain id")
        chain_id, parity = divmod(v - _EIP155_V, 2)
        fees, access = Fees(max_fee=price, max_priority_fee=price, legacy=True), ()
    else:
        raise ValueError("another type")
    transaction = Transaction(chain_id, nonce, gas, to, data, fees, value, access)
    return transaction, Signature(vrs=(parity, r, s))


def sender_of(transaction: Transaction, signature: Signature) -> str:
    """Checksummed address of who signed. Raises what is in `UNREADABLE`."""
    public = signature.recover_public_key_from_msg_hash(transaction.digest())
    return str(public.to_checksum_address())


def completed(transaction: Transaction, r: int, s: int, address: str) -> bytes:
    """The signed bytes, from the two numbers that key services answer with.

    EIP-2 takes the lower of the two possible s alone; which of the two possible parities it is, the
    address tells. Raises SignerError when neither gives it.
    """
    low = min(s, SECPK1_N - s)
    for parity in (0, 1):
        try:
            signature = Signature(vrs=(parity, r, low))
            if sender_of(transaction, signature) == address:
                return transaction.signed(signature)
        except UNREADABLE:
            continue
    raise SignerError(f"the signature is not one of {address}: another key answered")
