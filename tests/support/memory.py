"""Who holds a secret in this process's memory."""

import gc
import secrets
from typing import Final

_MASK: Final = 0xFF
KEY_BYTES: Final = 32


class Hidden:
    """A secret that this object does not hold itself, but with every bit turned."""

    def __init__(self, secret: bytes) -> None:
        self._turned = bytes(byte ^ _MASK for byte in secret)

    @classmethod
    def key(cls) -> "Hidden":
        """A new private key, below the order of secp256k1 for certain."""
        return cls(b"\x5e" + secrets.token_bytes(KEY_BYTES - 1))

    def bytes(self) -> "bytes":
        return bytes(byte ^ _MASK for byte in self._turned)

    def hex(self) -> str:
        return self.bytes().hex()


def holders(hidden: Hidden) -> "list[object]":
    """The strings, bytes and numbers that have the secret in them: its bytes, hex or number.

    All that the collector knows is walked, and all that it leads to: containers of plain values are
    not tracked. The locals of functions that run, this one's among them, are in neither.
    """
    gc.collect()
    raw, text, number = hidden.bytes(), hidden.hex(), int.from_bytes(hidden.bytes(), "big")
    plain, text_bytes, decimal = raw.decode("latin-1"), text.encode(), str(number)
    found: list[object] = []
    seen: set[int] = set()
    waiting = gc.get_objects()
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, str):
            if len(thing) >= len(raw) and (
                plain in thing or text in thing.lower() or decimal in thing
            ):
                found.append(thing)
        elif isinstance(thing, bytes | bytearray):
            if len(thing) >= len(raw) and (raw in thing or text_bytes in thing.lower()):
                found.append(thing)
        elif isinstance(thing, int):
            if thing == number:
                found.append(thing)
        elif thing is not seen and thing is not found:
            waiting.extend(gc.get_referents(thing))
    return found
