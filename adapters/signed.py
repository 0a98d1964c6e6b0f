"""Whether stored bytes are what was stored."""

from eth_utils.crypto import keccak

from saga.model import Attempt


def genuine(attempt: Attempt) -> bool:
    """Whether the bytes are those of the stored hash. Others are never sent."""
    try:
        digest = keccak(bytes.fromhex(attempt.raw.removeprefix("0x")))
    except ValueError:
        return False
    return "0x" + digest.hex() == attempt.hash
