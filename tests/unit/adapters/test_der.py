"""Laws of DER: what another library writes is read, and nothing else is."""

import pytest
from coincurve import PrivateKey
from eth_keys.constants import SECPK1_N
from hypothesis import given
from hypothesis import strategies as st

from adapters.der import ecdsa_numbers, secp256k1_point

NUMBERS = st.integers(1, SECPK1_N - 1) | st.sampled_from([1, 127, 128, 255, 256, 2**255])
KEY = PrivateKey(bytes(31) + b"\7")
POINT = KEY.public_key.format(compressed=False)[1:]
# `openssl ec -pubout -outform DER` of the same key.
SPKI = bytes.fromhex(
    "3056301006072a8648ce3d020106052b8104000a034200045cbdf0646e5db4eaa398f365f2ea7a0e3d419b7e0330e3"
    "9ce92bddedcac4f9bc6aebca40ba255960a3178d6d861a54dba813d0b813fde7b5a5082628087264da"
)


def integer(number: int) -> bytes:
    content = number.to_bytes(number.bit_length() // 8 + 1)
    return bytes([0x02, len(content)]) + content


def signature(r: int, s: int) -> bytes:
    body = integer(r) + integer(s)
    return bytes([0x30, len(body)]) + body


@given(NUMBERS, NUMBERS)
def test_numbers(r: int, s: int) -> None:
    """Any two numbers below the order come back."""
    assert ecdsa_numbers(signature(r, s)) == (r, s)


def test_real_signature() -> None:
    """A signature of libsecp256k1 is read, and verifies as the same bytes written again."""
    der = KEY.sign(b"message")
    assert signature(*ecdsa_numbers(der)) == der
    assert KEY.public_key.verify(der, b"message")


GOOD = signature(5, 2**255)
BAD = {
    "nothing": b"",
    "text": b"<html>",
    "no sequence": b"\x31" + GOOD[1:],
    "cut": GOOD[:-1],
    "bytes behind": GOOD + b"\0",
    "bytes within": bytes([0x30, GOOD[1] + 1]) + GOOD[2:] + b"\0",
    "one number": bytes([0x30, 3]) + integer(5),
    "three numbers": bytes([0x30, 9]) + integer(5) * 3,
    "long length": bytes([0x30, 0x81, GOOD[1]]) + GOOD[2:],
    "endless length": bytes([0x30, 0x80]) + GOOD[2:] + b"\0\0",
    "zero": signature(0, 5),
    "the order": signature(5, SECPK1_N),
    "negative": bytes([0x30, 6]) + b"\x02\x01\x85" + integer(5),
    "padded": bytes([0x30, 7]) + b"\x02\x02\x00\x05" + integer(5),
    "empty number": bytes([0x30, 5]) + b"\x02\x00" + integer(5),
    "no integer": bytes([0x30, 6]) + b"\x04\x01\x05" + integer(5),
}


@pytest.mark.parametrize("der", BAD.values(), ids=BAD)
def test_no_signature(der: bytes) -> None:
    """What is not exactly a signature is refused."""
    with pytest.raises(ValueError, match=r"ECDSA|number|bytes follow"):
        ecdsa_numbers(der)


@given(st.binary(max_size=80))
def test_any_bytes(data: bytes) -> None:
    """Any bytes are refused by ValueError, or are a signature to the last bit."""
    try:
        numbers = ecdsa_numbers(data)
    except ValueError:
        return
    assert signature(*numbers) == data


def test_point() -> None:
    """The point of a public key as every other tool writes it."""
    assert secp256k1_point(SPKI) == POINT


P256 = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004") + POINT
NO_POINTS = {
    "nothing": b"",
    "another curve": P256,
    "cut": SPKI[:-1],
    "bytes behind": SPKI + b"\0",
    "compressed": SPKI[:-65] + b"\x02" + POINT[:32],
    "off the curve": SPKI[:-1] + bytes([SPKI[-1] ^ 1]),
    "zero": SPKI[:-64] + bytes(64),
}


@pytest.mark.parametrize("spki", NO_POINTS.values(), ids=NO_POINTS)
def test_no_point(spki: bytes) -> None:
    """What is not exactly an uncompressed point of secp256k1 is refused."""
    with pytest.raises(ValueError, match="secp256k1"):
        secp256k1_point(spki)
