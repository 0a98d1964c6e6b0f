"""Bytes to JSON fields, and the wording of every refusal; what fields mean is for `messages`.

- A field named twice is refused, at any depth: readers disagree on which value counts, and a
  token cannot be taken back.
- Nesting deeper than MAX_DEPTH is refused: a fixed number, because the interpreter's own limit
  depends on the caller's stack.
- Python's json writes NaN and Infinity, which are not JSON. They are read, so that a required
  number can be refused by name, and a field that nobody needs can hold one.

SIDE EFFECTS: none.
"""

import json
import math
import re
from typing import Final

MAX_TEXT: Final = 256
MAX_DEPTH: Final = 64
SHOWN: Final = 80  # characters of a refused value that an error text repeats
MAX_DIGITS: Final = 400  # of an integer: past any double, before int() turns quadratic

# Unicode category Cc; spelled so that ECMA-262 reads it too, for the JSON Schemas.
CC: Final = r"\u0000-\u001f\u007f-\u009f"
UNSAFE: Final = re.compile(rf"[{CC}\ud800-\udfff]")

Object = dict[str, object]
MISSING: Final = object()


class InvalidMessage(ValueError):  # noqa: N818 - a verdict on the message, no fault of ours
    """A message that can never be acted on; the producer's fault. str() is one printable line."""

    def __init__(self, reason: str, field: str | None = None) -> None:
        super().__init__(reason)
        self.field = field


class NotFinite:
    """A number that no double holds. Not a str or float, so that msgspec refuses to encode it."""

    def __init__(self, text: str) -> None:
        self.text = text


def decode(raw: bytes) -> Object:
    """The JSON object in the bytes. Raises InvalidMessage, and nothing else."""
    try:
        text = raw.decode()
    except UnicodeDecodeError as fault:
        at = fault.start
        raise InvalidMessage(f"message is not UTF-8: byte 0x{raw[at]:02x} at offset {at}") from None
    if not text or text.isspace():
        raise InvalidMessage("message is empty: a JSON object is needed")
    if text[0] == "\ufeff":
        raise InvalidMessage("message starts with a byte order mark: JSON is sent without one")
    if too_deep(raw):
        raise InvalidMessage(f"message is nested too deep: at most {MAX_DEPTH} levels are read")
    try:
        value: object = _DECODER.decode(text)
    except json.JSONDecodeError as fault:
        at, near = fault.pos, shown(text[fault.pos : fault.pos + SHOWN + 1])
        raise InvalidMessage(
            f"message is not JSON: {fault.msg.removesuffix(' at')} at character {at}: {near}"
        ) from None
    if not isinstance(value, dict):
        raise refusal("message", value, "a JSON object is needed", about_field=False)
    return value


def too_deep(raw: bytes) -> bool:
    """Whether JSON nests deeper than MAX_DEPTH: to be asked before foreign bytes are decoded."""
    if raw.count(b"{") + raw.count(b"[") <= MAX_DEPTH:
        return False
    return _deeper(raw.decode("utf-8", "replace"))


def text(fields: Object, name: str) -> str:
    """A required field of 1 to MAX_TEXT characters, not all space, none of them unsafe."""
    needed = f"a string of 1 to {MAX_TEXT} characters is needed"
    value = fields.get(name, MISSING)
    if not isinstance(value, str) or not value:
        raise refusal(name, value, needed)
    if len(value) > MAX_TEXT:
        raise refusal(name, value, f"{needed}, not {len(value)}")
    if UNSAFE.search(value):
        raise refusal(name, value, f"{needed}, without control characters and lone surrogates")
    if value.isspace():
        raise refusal(name, value, f"{needed}, not only spaces")
    return value


def number(fields: Object, name: str) -> float:
    """A required field that a double holds."""
    value = fields.get(name, MISSING)
    needed = "a finite number is needed"
    try:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
    except OverflowError:
        value = NotFinite(str(value))
    if isinstance(value, NotFinite) and value.text[-1].isdigit():
        needed += ", this one is too large for a double"
    raise refusal(name, value, needed)


def matching(fields: Object, name: str, pattern: re.Pattern[str], needed: str) -> str:
    """A required field that matches the whole pattern."""
    value = fields.get(name, MISSING)
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise refusal(name, value, needed)
    return value


def refusal(name: str, value: object, needed: str, *, about_field: bool = True) -> InvalidMessage:
    """The error that names the field, its value, and what would be right."""
    return InvalidMessage(f"{name} is {shown(value)}: {needed}", name if about_field else None)


def shown(value: object) -> str:
    """The value in JSON's spelling, on one printable line, at most SHOWN characters of it."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            return f'the string "{_cut(value)}"'
        case dict():
            return "an object"
        case list():
            return "an array"
        case NotFinite():
            return _cut(value.text)
        case int() | float():
            return _cut(repr(value))
        case _:
            return "missing"


def escaped(value: str) -> str:
    """The text with everything a terminal or a log might act on spelled out."""
    if value.isprintable():
        return value
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in value
    )


def _cut(value: str) -> str:
    safe = escaped(value[: SHOWN + 1])
    return safe if len(safe) <= SHOWN else safe[:SHOWN] + "…"


# A whole string, or one bracket outside strings. Possessive, so that nothing backtracks.
_BRACKETS: Final = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"|([\[{])|([\]}])', re.DOTALL)


def _deeper(text: str) -> bool:
    """Whether objects and arrays nest deeper than MAX_DEPTH; asked before anything recurses.

    Some libraries raise the interpreter's recursion limit so far that a deep document overflows
    the stack of the process instead of raising RecursionError.
    """
    depth = 0
    for found in _BRACKETS.finditer(text):
        if found[1]:
            depth += 1
            if depth > MAX_DEPTH:
                return True
        elif found[2]:
            depth -= 1
    return False


def _each_once(pairs: list[tuple[str, object]]) -> Object:
    fields = dict(pairs)
    if len(fields) == len(pairs):
        return fields
    for name, _ in pairs:
        if fields.pop(name, MISSING) is MISSING:
            raise InvalidMessage(f"{_cut(name)} is given twice in one object", _cut(name))
    raise AssertionError


def _integer(literal: str) -> int | NotFinite:
    return int(literal) if len(literal) <= MAX_DIGITS else NotFinite(literal)


def _float(literal: str) -> float | NotFinite:
    value = float(literal)
    return value if math.isfinite(value) else NotFinite(literal)


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_each_once,
    parse_int=_integer,
    parse_float=_float,
    parse_constant=NotFinite,
)
