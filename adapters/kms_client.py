"""AWS KMS by boto3, the extra `[aws]`: two requests, blocking, from any thread.

Region, credentials and endpoint are AWS's own business: its environment variables, files, roles.
"""

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import boto3
from botocore.config import Config

from adapters.kms_errors import ATTEMPTS, call_problem, settings_problem
from adapters.rpc import host_of
from saga.errors import SignerError


class _GivenUpError(Exception):
    """Stops the retries of a request whose caller has gone."""


class KmsPublicKey(NamedTuple):
    """What GetPublicKey says; empty where it does not."""

    spec: str
    usage: str
    der: bytes


class KmsClient:
    """One key. All methods raise SignerError, one line without a secret."""

    def __init__(
        self,
        key_id: str,
        *,
        region: str | None,
        timeout: float,
        connections: int,
        given_up: Callable[[], bool],
    ) -> None:
        """Blocks while AWS's library looks for credentials, on a machine without any for seconds.

        `timeout` in seconds; `given_up` says within a call whether anybody waits for it.
        """
        self._key_id = key_id
        self._given_up = given_up
        config = Config(
            # All tries of a connection have to fit; one answer may take the whole time.
            connect_timeout=timeout / ATTEMPTS,
            read_timeout=timeout,
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            max_pool_connections=connections,
        )
        # boto3 knows the older AWS_DEFAULT_REGION alone; AWS's other tools go by this one first.
        region = region or os.environ.get("AWS_REGION") or None
        try:
            self._client: Any = boto3.Session(region_name=region).client("kms", config=config)
            self._host = host_of(self._client.meta.endpoint_url)
        except Exception as error:  # noqa: BLE001 - botocore raises ValueError and others too
            raise SignerError(settings_problem(error)) from None
        self._region = str(self._client.meta.region_name)
        self._client.meta.events.register("before-send.kms", self._before_send)

    def public_key(self) -> KmsPublicKey:
        answer = self._ask("kms:GetPublicKey", self._client.get_public_key)
        spec = answer.get("KeySpec") or answer.get("CustomerMasterKeySpec") or ""
        return KmsPublicKey(spec, answer.get("KeyUsage") or "", answer.get("PublicKey") or b"")

    def sign(self, digest: bytes) -> bytes:
        """The DER signature of 32 bytes, which KMS takes as they are: no hash is made of them."""
        answer = self._ask(
            "kms:Sign",
            self._client.sign,
            Message=digest,
            MessageType="DIGEST",
            SigningAlgorithm="ECDSA_SHA_256",
        )
        return bytes(answer.get("Signature") or b"")

    def close(self) -> None:
        """Close the connections. One in use is closed when its answer has come."""
        self._client.close()

    def _ask(self, action: str, request: Callable[..., Any], **fields: Any) -> dict[str, Any]:
        try:
            return dict(request(KeyId=self._key_id, **fields))
        except Exception as error:  # noqa: BLE001 - an answer without sense may raise anything
            problem = call_problem(error, action=action, region=self._region, host=self._host)
            raise SignerError(problem) from None

    def _before_send(self, **_: object) -> None:
        if self._given_up():
            raise _GivenUpError
