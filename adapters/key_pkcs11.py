"""A private key in an HSM, which never leaves it, over PKCS#11. Needs the extra `[hsm]`.

PKCS#11 blocks: it is called in a thread of the key's own, and given up after the time-out even
where it hangs.
"""

import asyncio
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from adapters.blocking import BlockingCalls, ClosedError
from adapters.transaction import Transaction, completed
from saga.errors import SignerError

if TYPE_CHECKING:  # it imports python-pkcs11, which is an extra
    from adapters.hsm import HsmKey

T = TypeVar("T")
LEAVE_SECONDS = 1.0
"""For logging out at the end: a library that hangs is left behind."""


class Pkcs11Key:
    """`adapters.signer.Key`. Made by `open_pkcs11`."""

    kind = "pkcs#11"

    def __init__(self, key: "HsmKey", address: str, calls: BlockingCalls, timeout: float) -> None:
        self.address = address
        self._key = key
        self._calls = calls
        self._timeout = timeout

    def __repr__(self) -> str:
        return f"Pkcs11Key({self._key} of {self.address})"

    async def sign(self, transaction: Transaction) -> bytes:
        digest = transaction.digest()
        signature = await _within(self._timeout, self._calls, lambda: self._key.sign(digest))
        half = len(signature) // 2
        r, s = int.from_bytes(signature[:half], "big"), int.from_bytes(signature[half:], "big")
        return completed(transaction, r, s, self.address)

    async def close(self) -> None:
        self._key.closed = True  # where a call hangs, the key leaves when that comes back
        with suppress(SignerError):
            await _within(min(self._timeout, LEAVE_SECONDS), self._calls, self._key.leave)
        self._calls.close()


async def open_pkcs11(
    module: Path, *, token: str, label: str, pin: str, timeout: float
) -> Pkcs11Key:
    """The private key of this label in the token of that label, with its address.

    `timeout` is in seconds, for this and for each signature. Raises ValueError, what follows a
    setting's name: one line.
    """
    try:
        from adapters.hsm import HsmKey, library_at  # noqa: PLC0415 - an extra
    except ImportError:
        raise ValueError(
            "needs the extra [hsm]: pip install 'contract-deploy-listener[hsm]'"
        ) from None
    calls = BlockingCalls("pkcs#11", threads=1)
    key = HsmKey(library_at(module), token, label, pin)
    with ExitStack() as undo:
        undo.callback(calls.close)
        undo.callback(setattr, key, "closed", True)  # noqa: FBT003 - its value
        try:
            address = await _within(timeout, calls, key.address)
        except SignerError as error:
            raise ValueError(f"cannot be used: {error}") from None
        undo.pop_all()
    return Pkcs11Key(key, address, calls, timeout)


async def _within(timeout: float, calls: BlockingCalls, call: Callable[[], T]) -> T:
    """Raises SignerError, also when the time is up."""
    try:
        async with asyncio.timeout(timeout):
            return await calls.run(call)
    except TimeoutError:
        raise SignerError(f"the HSM does not answer within {timeout:g} s") from None
    except ClosedError:
        raise SignerError("the key was closed: this replica is ending") from None
