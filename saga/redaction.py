"""What no text for others may hold: credentials, keys named as such, signed bytes. Pure.

Log lines, spans, stored reasons, failure events and alerts all pass through here.
"""

import re
from typing import Final

MASK: Final = "***"
MAX_REASON: Final = 2000
"""Characters of a reason that are kept: a node's answer, or a revert's reason, may be as long as
somebody likes. A failure event holds as many."""
_TAIL: Final = 100

_NAMED_KEY: Final = re.compile(
    r"((?:private|priv|deployer|signer)[_ -]?key|secret|passw(?:or)?d|mnemonic)"
    r"(\W{0,8}(?:is|of|was)?\W{0,8})(?:0x)?[0-9a-f]{64}(?![0-9a-f])",
    re.IGNORECASE,
)
_CREDENTIALS: Final = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]{0,30}://)[^\s\"'<>]{0,512}@")
_URL_KEY: Final = re.compile(
    r"(/v[0-9]/|[?&](?:api_?key|key|token|secret|password)=)[^\s/?&#\"'<>]{8,}", re.IGNORECASE
)
# Longer than any hash: signed transactions (0x02f8…, 0x02f9…, 0xf8…), creation code, calldata.
_BLOB: Final = re.compile(r"(?<![0-9a-fA-F])((?:0[xX])?[0-9a-fA-F]{6})[0-9a-fA-F]{194,}")
_PATH: Final = re.compile(r"(://[^\s/?#\"'<>]{1,512})[/?#][^\s\"'<>]{1,2048}")


def redact(text: str) -> str:
    """The text without credentials, keys named as such, and signed bytes."""
    if "://" in text:
        text = _CREDENTIALS.sub(rf"\1{MASK}@", text)
        text = _URL_KEY.sub(rf"\1{MASK}", text)
    if len(text) >= 64:
        text = _NAMED_KEY.sub(rf"\1\2{MASK}", text)
        text = _BLOB.sub(rf"\1…{MASK}", text)
    return text


def for_strangers(text: str, most: int) -> str:
    """The same for what leaves the operator's own systems: of a URL the host
    alone, since a path may be a key, and at most `most` characters and a mark."""
    text = _PATH.sub(rf"\1/{MASK}", redact(text))
    return text if len(text) <= most else f"{text[:most]}…"


def kept(reason: str) -> str:
    """A reason as the record keeps it, so that all that is told of it later says the same: masked,
    and of more than MAX_REASON characters the first and the last, since the last say how often it
    was tried. What is kept already stays as it is."""
    text = _PATH.sub(rf"\1/{MASK}", redact(reason))
    if len(text) <= MAX_REASON:
        return text
    return f"{text[: MAX_REASON - _TAIL - 1]}…{text[-_TAIL:]}"
