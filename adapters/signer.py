"""Signs for one address, whatever holds its key."""

from typing import Protocol

from eth_utils.crypto import keccak

from adapters.transaction import UNREADABLE, Transaction, decoded, sender_of
from saga.errors import TamperedError
from saga.facts import Call
from saga.fees import Fees
from saga.model import Attempt, AttemptKind

SELF_SEND_GAS = 21_000
"""What a transaction without data costs: the yellow paper's G_transaction."""
PROBE_NONCE = 2**64 - 1
"""No transaction with it is ever valid (EIP-2681): what is signed to try a key can do no harm."""


class Key(Protocol):
    """What holds a private key and signs with it. It is never shown: not by repr, not in an error.

    The classes that implement it are in `adapters/key_*.py`.
    """

    @property
    def kind(self) -> str:
        """As `saga keys show` names it: `private key`, `aws kms`, ..."""

    @property
    def address(self) -> str:
        """Checksummed."""

    async def sign(self, transaction: Transaction) -> bytes:
        """The signed bytes of exactly this transaction, with a low s, recovering to the address.

        Raises SignerError when the key cannot be used now, or answers with something else.
        """

    async def close(self) -> None:
        """Give up connections and sessions."""


class Signer:
    """Signs EIP-1559 transactions, and legacy ones on a chain without base fee. Sends nothing.

    All methods raise SignerError while the key cannot be used.
    """

    def __init__(self, key: Key) -> None:
        self._key = key
        self.address = key.address
        self.kind = key.kind

    def __repr__(self) -> str:
        return f"Signer({self.kind} of {self.address})"

    async def sign(self, call: Call, nonce: int, chain_id: int) -> Attempt:
        """The signed bytes and their hash."""
        fees = Fees(
            max_fee=call.max_fee, max_priority_fee=call.max_priority_fee, legacy=call.legacy
        )
        to, data = bytes.fromhex(call.to[2:]), bytes.fromhex(call.data[2:])
        return await self._attempt(
            Transaction(chain_id, nonce, call.gas, to, data, fees), AttemptKind.CALL
        )

    async def resign(
        self, raw: str, fees: Fees, *, kind: AttemptKind = AttemptKind.CALL
    ) -> Attempt:
        """The transaction of these signed bytes, 0x hex, with other fees and nothing else changed.

        Its type stays too. Raises TamperedError when the bytes are no transaction of this key.
        """
        try:
            last, signature = decoded(bytes.fromhex(raw.removeprefix("0x")))
            sender = sender_of(last, signature)
        except UNREADABLE as error:
            raise TamperedError("the stored bytes are no signed transaction") from error
        if sender != self.address:
            raise TamperedError(f"the stored bytes were not signed by {self.address}")
        legacy = last.fees.legacy
        tip = fees.max_fee if legacy else fees.max_priority_fee
        fees = Fees(max_fee=fees.max_fee, max_priority_fee=tip, legacy=legacy)
        return await self._attempt(last._replace(fees=fees), kind)

    async def self_send(self, nonce: int, chain_id: int, fees: Fees, kind: AttemptKind) -> Attempt:
        """A transaction that does nothing but spend the nonce."""
        to = bytes.fromhex(self.address[2:])
        return await self._attempt(Transaction(chain_id, nonce, SELF_SEND_GAS, to, b"", fees), kind)

    async def prove(self, chain_id: int, *, legacy: bool = False) -> None:
        """Sign a transaction that can never be mined. Raises SignerError when the key cannot."""
        one = Fees(max_fee=1, max_priority_fee=1, legacy=legacy)
        await self.self_send(PROBE_NONCE, chain_id, one, AttemptKind.FILL)

    async def close(self) -> None:
        """Give up what the key holds open."""
        await self._key.close()

    async def _attempt(self, transaction: Transaction, kind: AttemptKind) -> Attempt:
        raw = await self._key.sign(transaction)
        return Attempt(
            hash="0x" + keccak(raw).hex(),
            raw="0x" + raw.hex(),
            max_fee=transaction.fees.max_fee,
            max_priority_fee=transaction.fees.max_priority_fee,
            gas=transaction.gas,
            kind=kind,
        )
