"""The only holder of the deployer's key."""

import re
from typing import Protocol

from eth_account import Account
from eth_account.signers.local import LocalAccount
from eth_typing import HexStr

from saga.facts import Call
from saga.model import Attempt

_KEY = re.compile(r"(0[xX])?[0-9a-fA-F]{64}")
_WHAT = (
    "DEPLOYER_PRIVATE_KEY is no private key: 64 hex digits, with or without 0x, not zero and below "
    "the order of secp256k1"
)


class Signer(Protocol):
    """Signs EIP-1559 transactions for one address."""

    @property
    def address(self) -> str: ...

    async def sign(self, call: Call, nonce: int, chain_id: int) -> Attempt:
        """The signed bytes and their hash. Nothing is sent."""


class LocalSigner:
    """A private key in memory. It is never shown: not by repr, not in an error."""

    def __init__(self, private_key: str) -> None:
        """Raises ValueError, without the key in its text."""
        if not _KEY.fullmatch(private_key):
            raise ValueError(_WHAT)
        try:
            self._account: LocalAccount = Account.from_key(private_key)
        except Exception:  # noqa: BLE001 - the cause may quote the key
            raise ValueError(_WHAT) from None

    def __repr__(self) -> str:
        return f"LocalSigner({self.address})"

    @property
    def address(self) -> str:
        return str(self._account.address)

    async def sign(self, call: Call, nonce: int, chain_id: int) -> Attempt:
        signed = self._account.sign_transaction(
            {
                "type": 2,
                "chainId": chain_id,
                "nonce": nonce,
                "to": HexStr(call.to),
                "value": 0,
                "data": HexStr(call.data),
                "gas": call.gas,
                "maxFeePerGas": call.max_fee,
                "maxPriorityFeePerGas": call.max_priority_fee,
            }
        )
        return Attempt(
            hash=signed.hash.to_0x_hex(),
            raw=signed.raw_transaction.to_0x_hex(),
            max_fee=call.max_fee,
            max_priority_fee=call.max_priority_fee,
            gas=call.gas,
        )
