"""Laws of what is said about an HSM's answers, those too that SoftHSM never gives."""

import pkcs11
import pytest
from pkcs11 import TokenFlag

from adapters.hsm_errors import HsmError, PinError, error_of, pin_problem

NO_MORE_TRIES = [
    pkcs11.PinIncorrect(),
    pkcs11.PinInvalid(),
    pkcs11.PinLenRange(),
    pkcs11.PinLocked(),
    pkcs11.PinExpired(),
    pkcs11.UserPinNotInitialized(),
]
OTHERS = [
    pkcs11.DeviceError(),
    pkcs11.DeviceRemoved(),
    pkcs11.MechanismInvalid(),
    pkcs11.PKCS11Error("Unmapped error code 0x80000001"),
    pkcs11.SessionHandleInvalid(),
    pkcs11.TokenNotPresent(),
    pkcs11.UserNotLoggedIn(),
]


@pytest.mark.parametrize("error", NO_MORE_TRIES, ids=lambda error: type(error).__name__)
def test_pin(error: pkcs11.PKCS11Error) -> None:
    """What the PIN is to blame for allows no other try, and names the token."""
    told = error_of(error, "hokusai")
    assert isinstance(told, PinError)
    assert "'hokusai'" in str(told)


@pytest.mark.parametrize("error", OTHERS, ids=lambda error: type(error).__name__)
def test_others(error: pkcs11.PKCS11Error) -> None:
    """Everything else may pass, and is one line that names the token."""
    told = error_of(error, "hokusai")
    assert type(told) is HsmError
    assert "'hokusai'" in str(told)
    assert "\n" not in str(told)


def test_code_is_told() -> None:
    """An answer without a name of its own is told by its number."""
    told = str(error_of(pkcs11.PKCS11Error("Unmapped error code 0x80000001"), "hokusai"))
    assert told == (
        "the HSM failed (PKCS11Error Unmapped error code 0x80000001): is token 'hokusai' plugged "
        "in, and the key in it?"
    )


def test_last_try() -> None:
    """The last try for a PIN is the operator's: restarts must not lock a token."""
    good = TokenFlag.TOKEN_INITIALIZED | TokenFlag.USER_PIN_COUNT_LOW
    assert pin_problem(good, "hokusai") is None
    assert "leaves one try" in str(pin_problem(good | TokenFlag.USER_PIN_FINAL_TRY, "hokusai"))
    locked = good | TokenFlag.USER_PIN_FINAL_TRY | TokenFlag.USER_PIN_LOCKED
    assert "has locked the PIN" in str(pin_problem(locked, "hokusai"))
