"""What PKCS#11 libraries answer when they do not do what was asked, in one line.

Needs the extra `[hsm]`.
"""

from collections.abc import Iterable

import pkcs11
from pkcs11 import TokenFlag

from saga.errors import SignerError

MOST_LISTED = 10
LOCKS = "a token locks itself after a few wrong PINs"


class HsmError(SignerError):
    """The HSM does not do what it should."""


class PinError(HsmError):
    """The login failed in a way that another try makes worse: there is none before a restart."""


def error_of(error: pkcs11.PKCS11Error, token: str) -> HsmError:
    """The names of the answers are those of PKCS#11 2.40, 5.1.6, without CKR_."""
    match error:
        case pkcs11.PinIncorrect() | pkcs11.PinInvalid() | pkcs11.PinLenRange():
            return PinError(
                f"the HSM refuses the PIN of token {token!r}: correct DEPLOYER_PKCS11_PIN_FILE "
                f"before the next start, for {LOCKS}"
            )
        case pkcs11.PinLocked():
            return _locked(token)
        case pkcs11.PinExpired():
            return PinError(f"the HSM wants a new PIN for token {token!r}: the old one has expired")
        case pkcs11.UserPinNotInitialized():
            return PinError(f"the HSM has no user PIN for token {token!r} yet: set one first")
        case pkcs11.MechanismInvalid():
            return HsmError(
                f"the HSM does no CKM_ECDSA in token {token!r}: it cannot sign transactions"
            )
        case _:
            said = " ".join([type(error).__name__, *str(error).split()])
            return HsmError(
                f"the HSM failed ({said}): is token {token!r} plugged in, and the key in it?"
            )


def pin_problem(flags: TokenFlag, token: str) -> PinError | None:
    """Why not even to try to log in."""
    if TokenFlag.USER_PIN_LOCKED in flags:
        return _locked(token)
    if TokenFlag.USER_PIN_FINAL_TRY in flags:
        # A replica that is started again and again must not be what locks it.
        return PinError(
            f"the HSM leaves one try for the PIN of token {token!r}, which is not used here, for "
            f"{LOCKS}: log in once with another tool, then start again"
        )
    return None


def _locked(token: str) -> PinError:
    return PinError(
        f"the HSM has locked the PIN of token {token!r} after wrong ones: let its security officer "
        "set a new one, then start again"
    )


def alternatives(labels: Iterable[str | None], setting: str) -> str:
    """What a text about a missing label ends with."""
    names = sorted({repr(label) for label in labels if label is not None})
    if not names:
        return ", nor any other"
    more = ", …" if len(names) > MOST_LISTED else ""
    return f"; there are: {', '.join(names[:MOST_LISTED])}{more}; set {setting} to one of them"
