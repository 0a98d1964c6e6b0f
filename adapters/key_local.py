"""A private key in this process's memory."""

import re

from eth_keys.datatypes import PrivateKey

from adapters.transaction import Transaction

_KEY = re.compile(r"(0[xX])?[0-9a-fA-F]{64}")
_WHAT = (
    "is no private key: 64 hex digits, with or without 0x, not zero and below the order of "
    "secp256k1"
)


class LocalKey:
    """`adapters.signer.Key`. The one object that holds the key; nothing shows it."""

    def __init__(self, private_key: str, *, kind: str = "private key") -> None:
        """Raises ValueError, without the key in its text: what follows a setting's name."""
        if not _KEY.fullmatch(private_key):
            raise ValueError(_WHAT)
        try:
            self._key = PrivateKey(bytes.fromhex(private_key[-64:]))
            public = self._key.public_key
        except Exception:  # noqa: BLE001 - the cause may quote the key
            raise ValueError(_WHAT) from None
        self.address = str(public.to_checksum_address())
        self.kind = kind

    def __repr__(self) -> str:
        return f"LocalKey({self.address})"

    def __reduce__(self) -> str:
        raise TypeError("a private key is never copied")

    async def sign(self, transaction: Transaction) -> bytes:
        return transaction.signed(self._key.sign_msg_hash(transaction.digest()))

    async def close(self) -> None:
        pass
