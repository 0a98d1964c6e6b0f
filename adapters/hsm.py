"""A private key in a token of an HSM, over PKCS#11. Needs the extra `[hsm]`. All of it blocks."""

import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import pkcs11
from asn1crypto.keys import ECDomainParameters  # type: ignore[import-untyped]  # no stubs exist
from eth_keys.datatypes import Signature
from eth_utils.crypto import keccak
from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass

from adapters.hsm_errors import HsmError, PinError, alternatives, error_of
from adapters.hsm_library import Loaded
from adapters.transaction import UNREADABLE

T = TypeVar("T")

CURVE = "secp256k1"
CURVE_PARAMS = bytes.fromhex("06052b8104000a")
"""Its object identifier in DER, 1.3.132.0.10 (SEC 2, A.2.1)."""
NUMBER_BYTES = 32
"""Of r and of s; PKCS#11 2.40, mechanisms, 2.3.1: a signature is both in a row."""
# EIP-191: what begins with 0x19 is no transaction, so these signatures can do no harm.
_PROBES = tuple(keccak(b"\x19contract-deploy-listener: whose key is it? %d" % n) for n in (1, 2))


class Library:
    """A PKCS#11 library, shared by all keys of the process in it. One thread at a time is in it.

    A token has one session for all its keys: PKCS#11 logs whole processes in and out.
    """

    def __init__(self, path: Path) -> None:
        self._loaded = Loaded(path)
        self._lock = threading.Lock()  # C_Initialize(NULL) promises it to the library
        self._users: set[HsmKey] = set()
        self._sessions: dict[str, pkcs11.Session] = {}
        self.generation = 0
        """Another one than before: all sessions and handles of before are void."""

    def call(self, user: "HsmKey", call: Callable[[], T]) -> T:
        """What the call gives. Then the keys leave that are closed by now, also of other threads:
        a key may be closed while its own thread hangs in here."""
        with self._lock:
            self._users.add(user)
            try:
                return call()
            finally:
                self._let_go()

    def session(self, token: str, pin: str) -> pkcs11.Session:
        """Logged in, whose PIN ever it was that opened it. Raises HsmError."""
        if token not in self._sessions:
            self._sessions[token] = self._loaded.login(token, pin)
        return self._sessions[token]

    def stop(self) -> None:
        """The next use starts it again; SoftHSM does not see a token that came back before that."""
        self._sessions.clear()
        self._loaded.stop()
        self.generation += 1

    def _let_go(self) -> None:
        self._users = {user for user in self._users if not user.closed}
        if not self._users:
            self.stop()
            return
        for token in self._sessions.keys() - {user.token for user in self._users}:
            with suppress(pkcs11.PKCS11Error):
                self._sessions.pop(token).close()


class HsmKey:
    """Holds the PIN, to log in again, and never shows it."""

    def __init__(self, library: Library, token: str, label: str, pin: str) -> None:
        self._library = library
        self.token = token
        self._label = label
        self._pin = pin
        self._key: Any = None
        self._each_time = False  # the PIN is asked for with each signature
        self._generation = -1
        self._failed = False
        self._refused: str | None = None
        self.closed = False

    def __repr__(self) -> str:
        return f"HsmKey({self._label!r} in token {self.token!r})"

    def __reduce__(self) -> str:
        raise TypeError("a PIN is never copied")

    def address(self) -> str:
        """Checksummed: of the one key that two signatures may be of.

        Raises HsmError, and is closed then.
        It is the private key's, whatever public key lies beside it; and the key has signed.
        """
        return self._library.call(self, self._address)

    def sign(self, digest: bytes) -> bytes:
        """r and s, maybe a high one. Raises HsmError; after that the next call begins anew."""
        return self._library.call(self, lambda: self._sign(digest))

    def leave(self) -> None:
        """Log out with the last key of a token; stop the library with the last key in it."""
        self.closed = True
        self._library.call(self, lambda: None)

    @property
    def _named(self) -> str:
        return f"key {self._label!r} of token {self.token!r}"

    def _address(self) -> str:
        try:
            first, second = (candidates(probe, self._sign(probe)) for probe in _PROBES)
        except HsmError:
            self.closed = True
            raise
        if len(common := first & second) == 1:
            return common.pop()
        self.closed = True
        raise HsmError(f"the HSM does not sign with {self._named} as {CURVE} does")

    def _sign(self, digest: bytes) -> bytes:
        if self._refused:
            raise PinError(self._refused)
        try:
            key = self._found()
            pin = self._pin if self._each_time else None
            signature: bytes = key.sign(digest, mechanism=Mechanism.ECDSA, pin=pin)
        except pkcs11.PKCS11Error as error:
            raise self._failure(error_of(error, self.token)) from error
        except HsmError as error:
            self._failure(error)
            raise
        if len(signature) != 2 * NUMBER_BYTES:
            raise HsmError(
                f"the HSM gives signatures of {len(signature)} bytes with {self._named}, not 64"
            )
        return signature

    def _failure(self, error: HsmError) -> HsmError:
        self._failed = True
        if isinstance(error, PinError):
            self._refused = str(error)
        return error

    def _found(self) -> Any:
        """The key in the session of now. Raises HsmError, PKCS11Error."""
        if self._failed:
            self._failed = False
            self._library.stop()
        if self._generation != self._library.generation:
            session = self._library.session(self.token, self._pin)
            self._key = self._only(session)
            self._each_time = bool(_attribute(self._key, Attribute.ALWAYS_AUTHENTICATE))
            self._generation = self._library.generation
        return self._key

    def _only(self, session: pkcs11.Session) -> Any:
        """Raises HsmError, PKCS11Error."""
        private = {Attribute.CLASS: ObjectClass.PRIVATE_KEY}
        found = list(session.get_objects({**private, Attribute.LABEL: self._label}))
        where = f"in token {self.token!r}"
        if not found:
            others = [_attribute(key, Attribute.LABEL) for key in session.get_objects(private)]
            raise HsmError(
                f"the HSM has no private key labelled {self._label!r} {where}"
                f"{alternatives(others, 'DEPLOYER_PKCS11_KEY')}"
            )
        if len(found) > 1:
            raise HsmError(
                f"the HSM has {len(found)} private keys labelled {self._label!r} {where}: give "
                "each its own label"
            )
        if problem := _unfit(found[0]):
            raise HsmError(f"the HSM cannot sign transactions with {self._named}: {problem}")
        return found[0]


def candidates(digest: bytes, signature: bytes) -> set[str]:
    """The addresses whose key may have made this signature: two, or none when it is none."""
    r, s = (int.from_bytes(signature[at : at + NUMBER_BYTES], "big") for at in (0, NUMBER_BYTES))
    found = set()
    for parity in (0, 1):
        try:
            public = Signature(vrs=(parity, r, s)).recover_public_key_from_msg_hash(digest)
        except UNREADABLE:
            continue
        found.add(str(public.to_checksum_address()))
    return found


def _unfit(key: Any) -> str | None:
    """What is wrong with a private key, as far as the token tells."""
    if _attribute(key, Attribute.KEY_TYPE) != KeyType.EC:
        return f"it is none of an elliptic curve; make one of {CURVE}"
    curve = _attribute(key, Attribute.EC_PARAMS)
    if curve is not None and curve != CURVE_PARAMS and (name := _curve_name(curve)) != CURVE:
        return f"its curve is {name}; make one of {CURVE}"
    if not isinstance(key, pkcs11.SignMixin):
        return "its CKA_SIGN is false; make one that may sign"
    return None


def _curve_name(params: bytes) -> str:
    try:
        parameters = ECDomainParameters.load(params)
        return str(parameters.native) if parameters.name == "named" else CURVE
    except ValueError:
        return f"unknown (0x{params.hex()})"


def _attribute(key: Any, name: Attribute) -> Any:
    """None where the token does not tell, or what it tells is none of the values known."""
    try:
        return key[name]
    except (pkcs11.PKCS11Error, ValueError):
        return None


_libraries: dict[Path, Library] = {}


def library_at(path: Path) -> Library:
    """The one of this path: C_Initialize is once in a process."""
    return _libraries.setdefault(path.resolve(), Library(path))
