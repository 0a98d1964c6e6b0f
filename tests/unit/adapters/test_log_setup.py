"""Laws of log lines: one JSON object each, no secret in any, and nobody's value breaks one."""

import json
import logging
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from adapters.log_setup import configure_logging
from saga.redaction import redact

KEY = "4c0883a69102937d6231471b5dbb6204fe512961708279b1d4f1d6b2f0a1c3e5"
HASH = "0x" + "ab" * 32
ADDRESS = "0x5FbDB2315678afecb367f032d93F642f64180aa3"
RAW = "0x02f8" + "1c" * 150


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """Leave the process's logging as it was found."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    logging.captureWarnings(capture=False)
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def written(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """The lines on stderr, each of which must be a JSON object; nothing may be on stdout."""
    out, err = capsys.readouterr()
    assert out == ""
    return [json.loads(line) for line in err.splitlines()]


def one_line(capsys: pytest.CaptureFixture[str], **fields: object) -> dict[str, Any]:
    configure_logging("INFO")
    structlog.get_logger("saga").info("thing.happened", **fields)
    (line,) = written(capsys)
    return line


def test_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A line has a UTC time, a level, the event, its fields and the bound context."""
    with structlog.contextvars.bound_contextvars(saga_id="s1"):
        line = one_line(capsys, count=3, seconds=0.5, ok=True, nothing=None)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "level": "info",
        "event": "thing.happened",
        "saga_id": "s1",
        "count": 3,
        "seconds": 0.5,
        "ok": True,
        "nothing": None,
    }


def test_level(capsys: pytest.CaptureFixture[str]) -> None:
    """What is below the level is not written."""
    configure_logging("warning")
    log = structlog.get_logger("saga")
    log.info("low")
    log.warning("high")
    assert [line["event"] for line in written(capsys)] == ["high"]


def test_foreign_loggers(capsys: pytest.CaptureFixture[str]) -> None:
    """The standard library's loggers share the chain, from WARNING up, under their names."""
    configure_logging("DEBUG")
    logging.getLogger("aiohttp.client").info("chatter")
    logging.getLogger("aiohttp.client").warning("lost %s", "redis://u:hunter2@h:1/0")
    (line,) = written(capsys)
    assert line["event"] == "lost redis://***@h:1/0"
    assert (line["level"], line["logger"]) == ("warning", "aiohttp.client")


def test_warnings_are_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """A Python warning is a line too."""
    configure_logging("INFO")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=True)
        warnings.warn("old", UserWarning, stacklevel=1)
        logging.captureWarnings(capture=False)
    (line,) = written(capsys)
    assert line["logger"] == "py.warnings"


def test_broken_foreign_record(capsys: pytest.CaptureFixture[str]) -> None:
    """A record that cannot be formatted becomes a line that says so."""
    configure_logging("INFO")
    logging.getLogger("other").warning("%d apples", "many")
    (line,) = written(capsys)
    assert (line["event"], line["logger"]) == ("log.unformattable", "other")


def test_exception_is_one_field(capsys: pytest.CaptureFixture[str]) -> None:
    """An exception is rendered into one field of the same line, masked like any text."""

    def fail() -> None:
        raise ValueError("cannot reach https://user:hunter2@node.example/")

    configure_logging("INFO")
    try:
        fail()
    except ValueError as error:
        structlog.get_logger().error("saga.crashed", exc_info=error)
        logging.getLogger("other").exception("it broke")
    for line in written(capsys):
        assert "Traceback" in line["exception"]
        assert "https://***@node.example/" in line["exception"]
        assert "hunter2" not in json.dumps(line)


@pytest.mark.parametrize(
    "name", ["private_key", "PRIVATE-KEY", "deployer_private_key", "password", "api_key", "secret"]
)
def test_secret_names(capsys: pytest.CaptureFixture[str], name: str) -> None:
    """Whatever stands under a secret's name is masked."""
    line = one_line(capsys, **{name: KEY, "nested": {name: [KEY, 12345]}})
    assert line[name] == "***"
    assert line["nested"] == {name: "***"}


def test_dubious_names(capsys: pytest.CaptureFixture[str]) -> None:
    """Under `token` a private key is masked and an address is not; hashes elsewhere stay."""
    line = one_line(capsys, token=f"0x{KEY}", tokens=[KEY, ADDRESS], tx_hash=HASH, at=ADDRESS)
    assert line["token"] == "***"
    assert line["tokens"] == ["***", ADDRESS]
    assert (line["tx_hash"], line["at"]) == (HASH, ADDRESS)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("redis://:hunter2@host:6379/0 is away", "redis://***@host:6379/0 is away"),
        ("rediss://me:hun@ter2@host", "rediss://***@host"),
        ("at https://apitoken@node/ and ws://a:b@c", "at https://***@node/ and ws://***@c"),
        ("https://node.example/v3/0123456789abcdef", "https://node.example/v3/***"),
        ("https://node.example/?apikey=0123456789", "https://node.example/?apikey=***"),
        ("http://localhost:8545 said no", "http://localhost:8545 said no"),
        (f"DEPLOYER_PRIVATE_KEY=0x{KEY}", "DEPLOYER_PRIVATE_KEY=***"),
        (f"{{'private_key': '{KEY}'}}", "{'private_key': '***'}"),
        (f"hash {HASH} is known", f"hash {HASH} is known"),
        (f"sent {RAW} twice", "sent 0x02f81c…*** twice"),
        ("sent 0x02f9" + "Aa" * 400, "sent 0x02f9Aa…***"),
        ("ordinary text", "ordinary text"),
    ],
)
def test_redaction(text: str, shown: str) -> None:
    """Credentials, named keys and signed bytes are masked in any text; the rest is left alone."""
    assert redact(text) == shown


def test_redaction_everywhere(capsys: pytest.CaptureFixture[str]) -> None:
    """Masking reaches the event, the bound context, containers, and what is no string."""
    url = "redis://u:hunter2@h/0"

    class Thing:
        def __str__(self) -> str:
            return url

    configure_logging("INFO")
    with structlog.contextvars.bound_contextvars(where=url):
        structlog.get_logger().info(
            f"lost {url}", items=[url, {"x": (url,)}], thing=Thing(), error=OSError(url)
        )
    (line,) = written(capsys)
    assert "hunter2" not in json.dumps(line)
    assert line["items"] == ["redis://***@h/0", {"x": ["redis://***@h/0"]}]


def test_bytes_are_never_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """Of bytes only the length is said: they may be a message, or signed."""
    assert one_line(capsys, message=b"abc")["message"] == "<3 bytes>"


@pytest.mark.parametrize(
    "evil",
    [
        'x\n{"level":"error","event":"forged"}',
        "\r\x00\x1b[2J\x1b]0;title\x07\x9b31m\x7f",
        "\u2028\u2029\x85",
        "\ud800 lone",
        '"}\\',
    ],
)
def test_values_cannot_break_a_line(capsys: pytest.CaptureFixture[str], evil: str) -> None:
    """Any text stays inside its line, and reaches a terminal as printable ASCII alone."""
    configure_logging("INFO")
    structlog.get_logger().info(evil, value=evil, **{evil: evil})
    out = capsys.readouterr().err
    assert out.endswith("\n")
    assert all(" " <= character <= "~" for character in out[:-1])
    assert json.loads(out)["value"] == evil


def test_any_value_makes_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Values that JSON cannot say, or that refuse to be shown, still make a line."""

    class Broken:
        def __str__(self) -> str:
            raise RuntimeError

    deep: list[Any] = []
    deep.append(deep)
    line = one_line(
        capsys,
        nan=float("nan"),
        wei=2**200,
        huge=2**20_000,
        broken=Broken(),
        deep=deep,
        keys={1: {2}},
    )
    assert line["nan"] == "nan"
    assert line["wei"] == 2**200
    assert line["huge"] == "<20001 bits>"
    assert line["broken"] == "<Broken: RuntimeError>"
    assert line["keys"] == {"1": [2]}


def test_length_is_bounded(capsys: pytest.CaptureFixture[str]) -> None:
    """A huge text is cut, and says so."""
    text = one_line(capsys, text="x y " * 50_000)["text"]
    assert len(text) < 17_000
    assert text.endswith("… (200000 characters)")


def test_console(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """With LOG_FORMAT=console a line is for people: masked, and still one line without escapes."""
    monkeypatch.setenv("LOG_FORMAT", "console")
    configure_logging("INFO")
    evil = "a\nb\x1b[2J redis://u:hunter2@h"
    structlog.get_logger().info("thing.happened", value=evil, items=[evil])
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "thing.happened" in lines[0]
    assert "\x1b[2J" not in lines[0]
    assert "hunter2" not in lines[0]


def test_argument_wins_over_environment(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A format that is given as an argument comes before the environment's."""
    monkeypatch.setenv("LOG_FORMAT", "console")
    configure_logging("INFO", "json")
    structlog.get_logger().info("thing.happened")
    assert written(capsys)[0]["event"] == "thing.happened"


def test_configured_twice(capsys: pytest.CaptureFixture[str]) -> None:
    """Configuring again doubles no line."""
    configure_logging("INFO")
    assert one_line(capsys)["event"] == "thing.happened"
    logging.getLogger("other").warning("once")
    assert len(written(capsys)) == 1


def test_closed_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stderr that nobody reads any more stops nobody."""

    class Gone:
        def write(self, _text: str) -> int:
            raise BrokenPipeError

        def isatty(self) -> bool:
            return False

    configure_logging("INFO")
    monkeypatch.setattr(sys, "stderr", Gone())
    structlog.get_logger().info("thing.happened")
    logging.getLogger("other").warning("too")
