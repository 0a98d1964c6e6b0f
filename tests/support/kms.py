"""AWS KMS for tests: moto's server on a free port of the loopback interface, and its bad days.

moto 5.2 does not do what AWS documents in three places, which `KmsServer` puts right in the only
two methods that it replaces (`_get_public_key`, `_sign`):

- Sign with MessageType=DIGEST signs the 32 bytes themselves; moto hashes them once more.
- Sign and GetPublicKey refuse a key that is disabled or pending deletion; moto does not look.
- GetPublicKey refuses a symmetric key; moto invents an RSA key for it.
"""

import base64
import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any, NamedTuple, Self
from unittest.mock import patch

from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from eth_keys.constants import SECPK1_N
from eth_keys.datatypes import PublicKey
from moto.core.exceptions import JsonRESTError
from moto.kms.models import KmsBackend, kms_backends
from moto.kms.responses import KmsResponse
from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from werkzeug.serving import make_server

REGION = "eu-central-1"
ACCOUNT = "123456789012"
"""moto's own."""
ACCESS_KEY_ID = "AKIAPLANTEDACCESSKEY"
SECRET_ACCESS_KEY = "plantedSecretAccessKey/abcdefghijklmnop+"
SESSION_TOKEN = "plantedSessionToken0123456789"
AWS_SECRETS = (SECRET_ACCESS_KEY, SESSION_TOKEN, ACCESS_KEY_ID)
WAIT_SECONDS = 30.0
"""For what comes at once, unless a law is broken."""
LOOK_SECONDS = 0.02

_public_key = KmsResponse.get_public_key
_signed = KmsResponse.sign


class Refusal(NamedTuple):
    """An error of AWS, and how often it is given."""

    code: str
    times: int
    message: str


class _Quiet(MotoRequestHandler):
    """Logs nothing: what is on stderr is what is tested."""

    def log(self, type: str, message: str, *args: object) -> None:  # noqa: A002 - werkzeug's
        pass


class KmsServer:
    """A server until the block is left. One at a time in a process: moto's keys are global."""

    def __init__(self) -> None:
        self.high_s: bool | None = None
        """Every signature has the higher of the two s, the lower, or whichever it happens to be."""
        self.delay = 0.0
        """Seconds before each answer."""
        self.signed_by: str | None = None
        """A key's id: its signature is given for every other key's."""
        self.answer: str | None = None
        """The body of every answer, as it is."""
        self.requests: list[dict[str, Any]] = []
        """The bodies of Sign, in order."""
        self.signatures: list[bytes] = []
        """What was answered to Sign, in DER."""
        self.side_by_side: threading.Barrier | None = None
        """Where requests to sign wait until so many are there."""
        self._refusals: list[Refusal] = []
        self._lock = threading.Lock()
        self._going = threading.Event()
        self._going.set()
        self._closing = threading.Event()
        self._held = threading.Semaphore(0)
        app = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=_Quiet)
        self.url = f"http://127.0.0.1:{self._server.port}"
        # As moto's ThreadedMotoServer, which takes half a second to end.
        self._thread = threading.Thread(target=self._server.serve_forever, args=(LOOK_SECONDS,))
        self._patches = ExitStack()

    # --- What a test sets up.

    def create_key(
        self,
        spec: str = "ECC_SECG_P256K1",
        usage: str = "SIGN_VERIFY",
        *,
        alias: str | None = None,
    ) -> str:
        """Its ARN, or its alias."""
        key = self._backend.create_key(None, usage, spec, "of a test", None)
        if alias is None:
            return str(key.arn)
        self._backend.create_alias(key.id, alias)
        return alias

    def move_alias(self, alias: str, key_id: str) -> None:
        self._backend.delete_alias(alias)
        self._backend.create_alias(self._backend.any_id_to_key_id(key_id), alias)

    def disable(self, key_id: str) -> None:
        self._backend.disable_key(self._backend.any_id_to_key_id(key_id))

    def schedule_deletion(self, key_id: str) -> None:
        self._backend.schedule_key_deletion(self._backend.any_id_to_key_id(key_id), 7)

    def enable(self, key_id: str) -> None:
        self._backend.enable_key(self._backend.any_id_to_key_id(key_id))

    def refuse(self, code: str, times: int = 1, message: str = "no") -> None:
        """Answer the next requests with an error of AWS."""
        with self._lock:
            self._refusals.append(Refusal(code, times, message))

    def forgive(self) -> None:
        """Refuse nothing any more."""
        with self._lock:
            self._refusals.clear()

    def hold(self) -> None:
        """Answer nothing until `go`."""
        self._going.clear()

    def go(self) -> None:
        self._going.set()

    def stop(self) -> None:
        """From now on nobody is there."""
        self._closing.set()
        self._going.set()
        self._server.shutdown()
        self._thread.join()

    def until_held(self) -> None:
        """Wait until one more request is held."""
        assert self._held.acquire(timeout=WAIT_SECONDS)

    def address(self, key_id: str) -> str:
        """Checksummed, by the key's numbers: nothing of ours computes it."""
        held: Any = self._backend.describe_key(key_id).private_key
        public = held.private_key.public_key()
        point = public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        return str(PublicKey(point[1:]).to_checksum_address())

    def environment(self, key_id: str) -> dict[str, str]:
        """What a replica needs to sign with the key. Nothing of this machine's AWS is left."""
        return {
            "DEPLOYER_KMS_KEY_ID": key_id,
            "AWS_REGION": REGION,
            "AWS_ENDPOINT_URL_KMS": self.url,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY_ID,
            "AWS_SECRET_ACCESS_KEY": SECRET_ACCESS_KEY,
            "AWS_SESSION_TOKEN": SESSION_TOKEN,
            **NO_MACHINE,
        }

    # --- The server.

    def __enter__(self) -> Self:
        server = self

        def get_public_key(response: KmsResponse) -> str:
            return server._get_public_key(response)

        def sign(response: KmsResponse) -> str:
            return server._sign(response)

        self._patches.enter_context(patch.object(KmsResponse, "get_public_key", get_public_key))
        self._patches.enter_context(patch.object(KmsResponse, "sign", sign))
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.stop()
        self._patches.close()
        self._backend.reset()

    @property
    def _backend(self) -> KmsBackend:
        return kms_backends[ACCOUNT][REGION]

    def _get_public_key(self, response: KmsResponse) -> str:
        if (answer := self._before()) is not None:
            return answer
        key = self._usable(response)
        if key.key_spec == "SYMMETRIC_DEFAULT":
            raise JsonRESTError("UnsupportedOperationException", f"{key.arn} is symmetric.")
        return _public_key(response)

    def _sign(self, response: KmsResponse) -> str:
        body = json.loads(response.body)
        self.requests.append(body)
        if self.side_by_side is not None:
            self.side_by_side.wait(WAIT_SECONDS)
        if (instead := self._before()) is not None:
            return instead
        key = self._usable(response)
        answer: dict[str, Any] = json.loads(_signed(response))
        if body.get("MessageType") == "DIGEST":
            if self.signed_by is not None:
                key = self._backend.describe_key(self.signed_by)
            digest = base64.b64decode(body["Message"])
            if len(digest) != SHA256.digest_size:
                raise JsonRESTError("ValidationException", "Digest is invalid length.")
            signature = self._signature(key.private_key.private_key, digest)
            answer["Signature"] = base64.b64encode(signature).decode()
        self.signatures.append(base64.b64decode(answer["Signature"]))
        return json.dumps(answer)

    def _signature(self, key: ec.EllipticCurvePrivateKey, digest: bytes) -> bytes:
        der = key.sign(digest, ec.ECDSA(utils.Prehashed(SHA256())))
        r, s = utils.decode_dss_signature(der)
        if self.high_s is not None and self.high_s is not is_high(s):
            s = SECPK1_N - s
        return utils.encode_dss_signature(r, s)

    def _before(self) -> str | None:
        """The bad day that a request meets; what it is answered instead, if anything."""
        if not self._going.is_set():
            self._held.release()
            self._going.wait(WAIT_SECONDS)
        if self.delay:
            self._closing.wait(self.delay)
        if (refusal := self._next_refusal()) is not None:
            raise JsonRESTError(refusal.code, refusal.message)
        return self.answer

    def _next_refusal(self) -> Refusal | None:
        with self._lock:
            if not self._refusals:
                return None
            refusal = self._refusals.pop(0)
            if refusal.times > 1:
                self._refusals.insert(0, refusal._replace(times=refusal.times - 1))
            return refusal

    def _usable(self, response: KmsResponse) -> Any:
        """The request's key. As in "Key states of AWS KMS keys", notes 1 and 3 of the table."""
        key_id = str(response._get_param("KeyId"))
        response._validate_key_id(key_id)
        key = self._backend.describe_key(key_id)
        if key.key_state == "PendingDeletion":
            raise JsonRESTError("KMSInvalidStateException", f"{key.arn} is pending deletion.")
        if not key.enabled:
            raise JsonRESTError("DisabledException", f"{key.arn} is disabled.")
        return key


NO_MACHINE = {
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}
"""AWS's own settings that keep a test off this machine's files and role."""


def is_high(s: int) -> bool:
    """As Ethereum refuses it since EIP-2."""
    return s > SECPK1_N // 2


@contextmanager
def aws_environment(changes: Mapping[str, str]) -> Iterator[None]:
    """This process's environment with these AWS settings, and no others."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    with patch.dict(os.environ, {**kept, **NO_MACHINE, **changes}, clear=True):
        yield
