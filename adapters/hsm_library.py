"""A PKCS#11 library in this process: loaded, started and stopped, and the tokens in it.

Needs the extra `[hsm]`. All of it blocks.
"""

import ctypes
from pathlib import Path
from typing import Any

import pkcs11
from pkcs11 import TokenFlag

from adapters.hsm_errors import HsmError, alternatives, error_of, pin_problem

_Call = ctypes.CFUNCTYPE(ctypes.c_ulong, ctypes.c_void_p)


class _Functions(ctypes.Structure):
    """How CK_FUNCTION_LIST begins (PKCS#11 2.40, 3.6)."""

    _fields_ = (("version", ctypes.c_ubyte * 2), ("initialize", _Call), ("finalize", _Call))


class Loaded:
    """The library of a path; only one thread at a time may be in it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._library: Any = None
        self._functions = _Functions()
        self._started = False

    def login(self, label: str, pin: str) -> pkcs11.Session:
        """A session of the token with this label. Raises HsmError."""
        try:
            token = self._token(label)
            if problem := pin_problem(token.flags, label):
                raise problem
            return token.open(user_pin=pin)
        except pkcs11.PKCS11Error as error:
            raise error_of(error, label) from error

    def stop(self) -> None:
        """Ends all sessions.

        Not by python-pkcs11, which holds the interpreter's lock meanwhile: a library that waits
        for its device would stop the event loop.
        """
        if self._started:
            self._started = False
            self._functions.finalize(None)

    def _token(self, label: str) -> pkcs11.Token:
        """Raises HsmError, PKCS11Error."""
        tokens = self._tokens()
        found = [token for token in tokens if token.label == label]
        if len(found) == 1:
            return found[0]
        if found:
            raise HsmError(
                f"the HSM has {len(found)} tokens labelled {label!r}: give each its own label"
            )
        others = alternatives([token.label for token in tokens], "DEPLOYER_PKCS11_TOKEN")
        raise HsmError(f"the HSM has no token labelled {label!r}{others}")

    def _tokens(self) -> list[pkcs11.Token]:
        tokens = []
        for slot in self._start().get_slots(token_present=True):
            try:
                tokens.append(slot.get_token())
            except pkcs11.PKCS11Error:  # another slot's trouble is not ours
                continue
        return [token for token in tokens if TokenFlag.TOKEN_INITIALIZED in token.flags]

    def _start(self) -> Any:
        """Raises HsmError."""
        if self._started:
            return self._library
        if self._library is None:
            self._functions = _functions_of(self._path)
            try:
                self._library = pkcs11.lib(str(self._path))  # which starts it, the first time
            except pkcs11.PKCS11Error as error:
                raise HsmError(_no_start(type(error).__name__)) from error
        elif code := self._functions.initialize(None):
            raise HsmError(_no_start(f"0x{code:x}"))
        self._started = True
        return self._library


def _no_start(answer: str) -> str:
    return f"the HSM's library does not start (C_Initialize: {answer}): check its configuration"


def _functions_of(path: Path) -> _Functions:
    """Raises HsmError."""
    if not path.is_file():
        raise HsmError(f"{path} is no file: name the PKCS#11 library of the HSM's vendor")
    functions = ctypes.POINTER(_Functions)()
    try:
        ctypes.CDLL(str(path)).C_GetFunctionList(ctypes.byref(functions))
    except OSError as error:
        raise HsmError(f"the HSM's library cannot be loaded: {error}") from None
    except AttributeError:
        raise HsmError(f"{path} is no PKCS#11 library: it has no C_GetFunctionList") from None
    return functions.contents
