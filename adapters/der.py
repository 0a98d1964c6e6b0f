"""The two DER forms that key services answer with: a secp256k1 public key, an ECDSA signature.

Read strictly: whatever is not exactly such a form is refused.
"""

from coincurve import PublicKey
from eth_keys.constants import SECPK1_N

_POINT_BYTES = 64
# RFC 5480, SubjectPublicKeyInfo: SEQUENCE (86) of SEQUENCE (16) of the OIDs id-ecPublicKey and
# secp256k1 (SEC 2), then BIT STRING (66) without unused bits; 04 for an uncompressed point.
_SPKI = bytes.fromhex("3056301006072a8648ce3d020106052b8104000a03420004")
_SEQUENCE, _INTEGER = 0x30, 0x02
_MOST = 0x80
"""Lengths from here on take more than one byte: no signature of secp256k1 is so long."""


def secp256k1_point(spki: bytes) -> bytes:
    """The 64 bytes x and y. Raises ValueError for anything but an uncompressed point of the curve
    in a SubjectPublicKeyInfo."""
    point = spki[len(_SPKI) :]
    if not spki.startswith(_SPKI) or len(point) != _POINT_BYTES:
        raise ValueError("is no public key of secp256k1")
    try:
        PublicKey(b"\x04" + point)
    except ValueError:
        raise ValueError("is no point of secp256k1") from None
    return point


def ecdsa_numbers(der: bytes) -> tuple[int, int]:
    """r and s of an ECDSA-Sig-Value (RFC 3279, 2.2.3). Raises ValueError for anything else."""
    body, rest = _element(der, _SEQUENCE)
    r, body = _element(body, _INTEGER)
    s, body = _element(body, _INTEGER)
    if rest or body:
        raise ValueError("bytes follow the signature")
    return _number(r), _number(s)


def _element(data: bytes, tag: int) -> tuple[bytes, bytes]:
    """The first element's content, and what follows it."""
    if len(data) < 2 or data[0] != tag or data[1] >= _MOST or len(data) < 2 + data[1]:
        raise ValueError("is no ECDSA signature in DER")
    end = 2 + data[1]
    return data[2:end], data[end:]


def _number(content: bytes) -> int:
    """DER writes an integer with a sign bit, in as few bytes as it takes."""
    number = int.from_bytes(content, signed=True)
    if not 0 < number < SECPK1_N or len(content) != number.bit_length() // 8 + 1:
        raise ValueError("holds no number of secp256k1")
    return number
