"""Log lines: one JSON object each on stderr, whatever is logged and by whom; no secret in any.

`configure_logging` routes structlog and the standard library's loggers through one chain. The chain
masks secrets last, so that it sees exception texts and foreign messages too. JSON escapes what
could break or forge a line; console lines are escaped here.

SIDE EFFECTS: writes to stderr, and replaces the handlers of the root logger.
"""

import json
import logging
import math
import os
import re
import sys
from collections.abc import Mapping
from typing import Any, Final

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from saga.redaction import MASK, redact

MAX_TEXT: Final = 16_384
MAX_DEPTH: Final = 6
MAX_BITS: Final = 4096  # Python refuses to write integers of more than 4300 digits

# Whatever stands under such a name is masked.
_SECRET_NAME: Final = re.compile(
    r"pass(word|wd|phrase)|secret|mnemonic|authorization"
    r"|(private|priv|api|deployer|signer)[_ -]?key",
    re.IGNORECASE,
)
# Under such a name only what has the shape of a private key is: tokens also are addresses here.
_DUBIOUS_NAME: Final = re.compile(r"token|key|credential|auth", re.IGNORECASE)
_KEY_SHAPE: Final = re.compile(r"(?<![0-9a-fA-F])(0[xX])?[0-9a-fA-F]{64}(?![0-9a-fA-F])")
# C0 and C1 controls, DEL, and the line separators of Unicode.
_CONTROLS: Final = {
    code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"
} | {0x2028: "\\u2028", 0x2029: "\\u2029"}
_CONTROLS_AND_NEWLINES: Final = _CONTROLS | {0x09: "\\t", 0x0A: "\\n"}


def configure_logging(level: str, log_format: str | None = None) -> None:
    """Log at `level` and above, foreign loggers at WARNING and above. Safe to call again.

    `log_format` is `json` or `console`; without it the environment's LOG_FORMAT decides.
    """
    console = (log_format or os.environ.get("LOG_FORMAT", "json")) == "console"
    first: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[Processor] = [
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        _cleaned_for_console if console else _cleaned,
        _console_renderer() if console else _render_json,
    ]
    threshold = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[*first, *last],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=_LineLoggerFactory(),
        cache_logger_on_first_use=False,
    )
    _route_standard_library(first, last, threshold)


def _route_standard_library(first: list[Processor], last: list[Processor], threshold: int) -> None:
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*first, structlog.stdlib.add_logger_name],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
    )
    handler = _LineHandler()
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(logging.WARNING, threshold))
    logging.captureWarnings(capture=True)


# --- Writing. A reader of stderr that went away must not stop a saga.


def _write_line(line: str) -> None:
    try:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        pass


class _LineLogger:
    """What structlog ends in: each level is the same write."""

    def msg(self, line: str) -> None:
        _write_line(line)

    debug = info = warning = warn = error = err = critical = fatal = exception = failure = log = msg


class _LineLoggerFactory:
    def __call__(self, *_args: object) -> _LineLogger:
        return _LineLogger()


class _LineHandler(logging.Handler):
    """Where the standard library's records end."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception as error:  # noqa: BLE001 - a foreign record may hold anything
            broken = {"level": "warning", "event": "log.unformattable", "logger": record.name}
            line = json.dumps(broken | {"error": type(error).__name__})
        _write_line(line)


# --- Cleaning: every value becomes what JSON can say, masked and of bounded size.


def _cleaned(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return {str(name): _clean(str(name), value) for name, value in event.items()}


def _cleaned_for_console(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """The same, with control characters escaped: they could drive a terminal."""
    return {
        name: _escaped(value, _CONTROLS if name == "exception" else _CONTROLS_AND_NEWLINES)
        for name, value in _cleaned(logger, method, event).items()
    }


def _escaped(value: Any, table: dict[int, str]) -> Any:
    if isinstance(value, str):
        return value.translate(table)
    if isinstance(value, dict | list):
        return json.dumps(value).translate(table)
    return value


def _clean(name: str, value: object, depth: int = 0) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if _SECRET_NAME.search(name):
        return MASK
    if isinstance(value, int):
        return value if value.bit_length() <= MAX_BITS else f"<{value.bit_length()} bits>"
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    if depth < MAX_DEPTH and isinstance(value, Mapping):
        return {str(key): _clean(str(key), item, depth + 1) for key, item in value.items()}
    if depth < MAX_DEPTH and isinstance(value, list | tuple | set | frozenset):
        return [_clean(name, item, depth + 1) for item in value]
    return _clean_text(name, value)


def _clean_text(name: str, value: object) -> str:
    try:
        text = redact(str(value))
    except Exception as error:  # noqa: BLE001 - a foreign __str__ may raise anything
        return f"<{type(value).__name__}: {type(error).__name__}>"
    if _DUBIOUS_NAME.search(name):
        text = _KEY_SHAPE.sub(MASK, text)
    if len(text) > MAX_TEXT:
        return f"{text[:MAX_TEXT]}… ({len(text)} characters)"
    return text


# --- Rendering.


def _render_json(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    """ASCII only: no character of a value can end a line, or reach a terminal as it is."""
    line = {name: event.get(name) for name in ("timestamp", "level", "event")} | dict(event)
    return json.dumps(line, separators=(",", ":")).replace("\x7f", "\\u007f")


def _console_renderer() -> Processor:
    return structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(),
        exception_formatter=structlog.dev.plain_traceback,
        pad_event_to=24,
    )
