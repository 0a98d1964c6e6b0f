import subprocess
import sys

import pytest

from saga.wire import InvalidMessage, Object, decode, escaped, number, shown, text

TEXT = "a string of 1 to 256 characters is needed"
NUMBER = "a finite number is needed"
TOO_LARGE = f"{NUMBER}, this one is too large for a double"
TOO_DEEP = "message is nested too deep: at most 64 levels are read"
UNSAFE = f"{TEXT}, without control characters and lone surrogates"


def refused(fields: Object | bytes) -> InvalidMessage:
    with pytest.raises(InvalidMessage) as caught:
        decode(fields) if isinstance(fields, bytes) else text(fields, "x")
    return caught.value


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "message is empty: a JSON object is needed"),
        (b" \r\n", "message is empty: a JSON object is needed"),
        (b"hello", 'message is not JSON: Expecting value at character 0: the string "hello"'),
        (
            b'{"a": \x1b[2J',
            'message is not JSON: Expecting value at character 6: the string "\\x1b[2J"',
        ),
        (b"{} x", 'message is not JSON: Extra data at character 3: the string "x"'),
        (b"null", "message is null: a JSON object is needed"),
        (b"42", "message is 42: a JSON object is needed"),
        (b"NaN", "message is NaN: a JSON object is needed"),
        (b"[]", "message is an array: a JSON object is needed"),
        (b'"x"', 'message is the string "x": a JSON object is needed'),
        (b'{"a": "\xff"}', "message is not UTF-8: byte 0xff at offset 7"),
        (b"\xef\xbb\xbf{}", "message starts with a byte order mark: JSON is sent without one"),
        (b"[" * 100_000, TOO_DEEP),
        (b"[" * 65 + b"]" * 65, TOO_DEEP),
        (b'{"a":' * 65 + b"1" + b"}" * 65, TOO_DEEP),
        (b"[" * 64 + b"]" * 64, "message is an array: a JSON object is needed"),
    ],
)
def test_refused_bytes(raw: bytes, reason: str) -> None:
    """Bytes that are no JSON object are refused with the exact reason."""
    error = refused(raw)
    assert (error.field, str(error)) == (None, reason)


def test_depth_limit() -> None:
    """An object nested to exactly the limit is read, whatever else is beside it."""
    assert decode(b'{"a":' * 64 + b"1" + b"}" * 64)
    assert decode(b'{"a":[' + b"[]," * 500 + b"[]]}")


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        (b'{"a": 1, "b": 2, "a": 1}', "a"),
        (b'{"a": 1, "\\u0061": 2}', "a"),
        (b'{"x": [{"\\u001b": 1, "\\u001b": 2}]}', "\\x1b"),
    ],
)
def test_named_twice(raw: bytes, field: str) -> None:
    """A field named twice is refused by name, however it is spelled and wherever it is."""
    error = refused(raw)
    assert (error.field, str(error)) == (field, f"{field} is given twice in one object")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, f"x is null: {TEXT}"),
        ("", f'x is the string "": {TEXT}'),
        (" \u3000 ", f'x is the string " \\u3000 ": {TEXT}, not only spaces'),
        ("m" * 257, f'x is the string "{"m" * 80}…": {TEXT}, not 257'),
        ("a\x1b[31m\nb", f'x is the string "a\\x1b[31m\\nb": {UNSAFE}'),
        ("\x85", f'x is the string "\\x85": {UNSAFE}'),
        ("\ud800", f'x is the string "\\ud800": {UNSAFE}'),
        (2, f"x is 2: {TEXT}"),
        (True, f"x is true: {TEXT}"),
        ([], f"x is an array: {TEXT}"),
        ({}, f"x is an object: {TEXT}"),
    ],
)
def test_refused_text(value: object, reason: str) -> None:
    """A required text is refused with its value and what would be right."""
    assert str(refused({"x": value})) == reason


@pytest.mark.parametrize("value", ["a", "a b", "模型 🎨", "a\u2028b", "m" * 256])
def test_text(value: str) -> None:
    """A text of up to 256 characters of any script is taken as it is."""
    assert text({"x": value}, "x") == value


@pytest.mark.parametrize(
    ("literal", "value"), [("1", 1.0), ("-0.5e1", -5.0), ("1e-999", 0.0), ("9" * 308, 1e308)]
)
def test_number(literal: str, value: float) -> None:
    """A number is the double nearest to its literal."""
    assert number(decode(f'{{"x": {literal}}}'.encode()), "x") == value


@pytest.mark.parametrize(
    ("literal", "reason"),
    [
        ("NaN", f"x is NaN: {NUMBER}"),
        ("Infinity", f"x is Infinity: {NUMBER}"),
        ("-Infinity", f"x is -Infinity: {NUMBER}"),
        ("1e400", f"x is 1e400: {TOO_LARGE}"),
        ("-1e400", f"x is -1e400: {TOO_LARGE}"),
        ("9" * 309, f"x is {'9' * 80}…: {TOO_LARGE}"),
        ("9" * 5000, f"x is {'9' * 80}…: {TOO_LARGE}"),
        ("true", f"x is true: {NUMBER}"),
        ('"0.85"', f'x is the string "0.85": {NUMBER}'),
        ("null", f"x is null: {NUMBER}"),
        ("[1]", f"x is an array: {NUMBER}"),
    ],
)
def test_refused_number(literal: str, reason: str) -> None:
    """What is no finite number is refused in the producer's spelling."""
    with pytest.raises(InvalidMessage) as caught:
        number(decode(f'{{"x": {literal}}}'.encode()), "x")
    assert str(caught.value) == reason


def test_escaped() -> None:
    """Controls, line separators and text-direction marks are spelled out; other text is kept."""
    assert escaped("a\r\x9b\u2028\u202e é北🎨") == "a\\r\\x9b\\u2028\\u202e é北🎨"


def test_shown_is_short() -> None:
    """No more than 80 characters of a value are shown, escapes included."""
    assert shown("\x1b" * 100) == 'the string "' + "\\x1b" * 20 + '…"'
    assert shown("x" * 80) == f'the string "{"x" * 80}"'


def test_depth_never_reaches_the_stack() -> None:
    """Deep nesting is refused even where a library has raised the recursion limit."""
    code = (
        "import sys; sys.setrecursionlimit(10**6)\n"
        "from saga.messages import identify, parse\n"
        "raw = b'[' * 200_000\n"
        "identify(raw)\n"
        "try: parse(raw, max_bytes=10**6)\n"
        "except ValueError as error: print(error)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout.strip()) == (0, TOO_DEEP)


def test_brackets_in_strings_are_no_depth() -> None:
    """Brackets inside strings, escaped quotes among them, do not count as nesting."""
    inner = '[{\\"' * 200
    assert decode(f'{{"a": "{inner}"}}'.encode()) == {"a": '[{"' * 200}
