"""A private key in AWS KMS, which never leaves it. Needs the extra `[aws]`.

boto3 blocks: it is called in threads of the key's own, and given up after the time-out even where
it hangs.
"""

import asyncio
import functools
import re
from contextlib import ExitStack
from typing import TYPE_CHECKING

from eth_keys.datatypes import PublicKey

from adapters.blocking import BlockingCalls, ClosedError
from adapters.der import ecdsa_numbers, secp256k1_point
from adapters.transaction import Transaction, completed
from saga.errors import SignerError

if TYPE_CHECKING:  # it imports boto3, which is an extra
    from adapters.kms_client import KmsClient, KmsPublicKey

THREADS = 4
"""Signatures at once."""
NO_ANSWER = "the answer is not one of AWS KMS: check AWS_ENDPOINT_URL_KMS and proxies"
SPEC, USAGE = "ECC_SECG_P256K1", "SIGN_VERIFY"

# AWS KMS Developer Guide, "Key identifiers": a UUID, or mrk- and 32 hex digits; alias/…; an ARN.
_KEY_ID = re.compile(
    r"[0-9a-f-]{36}|mrk-[0-9a-f]{32}|alias/[\w/-]{1,250}"
    r"|arn:aws[a-z-]*:kms:(?P<region>[a-z0-9-]+):\d{12}:(key|alias)/[\w/-]{1,250}",
    re.ASCII,
)


class KmsKey:
    """`adapters.signer.Key`. Made by `open_kms`."""

    kind = "aws kms"

    def __init__(
        self, key_id: str, address: str, client: "KmsClient", calls: BlockingCalls, timeout: float
    ) -> None:
        self.address = address
        self._key_id = key_id
        self._client = client
        self._calls = calls
        self._timeout = timeout

    def __repr__(self) -> str:
        return f"KmsKey({self._key_id} of {self.address})"

    async def sign(self, transaction: Transaction) -> bytes:
        try:
            r, s = await self._numbers(transaction.digest())
        except SignerError as error:
            raise SignerError(f"AWS KMS does not sign with {self._key_id}: {error}") from None
        try:
            return completed(transaction, r, s, self.address)
        except SignerError as error:
            raise SignerError(
                f"AWS KMS does not sign with {self._key_id}: {error}; move a moved alias back, or "
                "restart to sign with its new key"
            ) from None

    async def close(self) -> None:
        self._calls.close()
        self._client.close()

    async def _numbers(self, digest: bytes) -> tuple[int, int]:
        """r and s. Raises SignerError."""
        from adapters.kms_errors import slow_problem  # noqa: PLC0415 - with the extra alone

        try:
            async with asyncio.timeout(self._timeout):
                signature = await self._calls.run(functools.partial(self._client.sign, digest))
            return ecdsa_numbers(signature)
        except TimeoutError:
            raise SignerError(slow_problem(self._timeout)) from None
        except ClosedError:
            raise SignerError("the key was closed: this replica is ending") from None
        except ValueError:
            raise SignerError(NO_ANSWER) from None


async def open_kms(key_id: str, *, timeout: float) -> KmsKey:
    """Ask KMS for the public key, within `timeout` seconds: the same that a signature may take.

    Raises ValueError, what follows a setting's name: one line.
    """
    match = _KEY_ID.fullmatch(key_id)
    if match is None:
        # Not quoted: somebody may have put a private key there.
        raise ValueError("is no key of AWS KMS: give its id, its ARN, or its alias as alias/…")
    try:
        import boto3  # noqa: F401, PLC0415 - an extra
    except ImportError:
        raise ValueError(
            "needs the extra [aws]: pip install 'contract-deploy-listener[aws]'"
        ) from None
    with ExitStack() as undo:
        calls = BlockingCalls("kms", threads=THREADS)
        undo.callback(calls.close)
        try:
            client, found = await _connected(key_id, match["region"], timeout, calls, undo)
            address = _address_of(found)
        except SignerError as error:
            raise ValueError(f"cannot be used: {error}") from None
        undo.pop_all()
    return KmsKey(key_id, address, client, calls, timeout)


async def _connected(
    key_id: str, region: str | None, timeout: float, calls: BlockingCalls, undo: ExitStack
) -> "tuple[KmsClient, KmsPublicKey]":
    """A client, closed by `undo`, and what it was told. Raises SignerError."""
    from adapters.kms_client import KmsClient  # noqa: PLC0415 - with the extra alone
    from adapters.kms_errors import slow_problem  # noqa: PLC0415 - with the extra alone

    connect = functools.partial(
        KmsClient,
        key_id,
        region=region,
        timeout=timeout,
        connections=THREADS,
        given_up=calls.given_up,
    )
    try:
        async with asyncio.timeout(timeout):
            client = await calls.run(connect)
            undo.callback(client.close)
            return client, await calls.run(client.public_key)
    except TimeoutError:
        raise SignerError(slow_problem(timeout)) from None


def _address_of(found: "KmsPublicKey") -> str:
    """Checksummed. Raises SignerError for a key that cannot sign transactions."""
    wanted = f"create one with KeySpec {SPEC} and KeyUsage {USAGE}"
    try:
        if found.spec == SPEC and found.usage == USAGE:
            return str(PublicKey(secp256k1_point(found.der)).to_checksum_address())
    except ValueError:
        raise SignerError(NO_ANSWER) from None
    if not found.spec or not found.usage:
        raise SignerError(NO_ANSWER)
    if found.spec != SPEC:
        raise SignerError(f"its KeySpec is {found.spec}, not {SPEC}: {wanted}")
    raise SignerError(f"its KeyUsage is {found.usage}, not {USAGE}: {wanted}")
