"""One attempt of a step: what became of it, as log lines and as the later span's name and facts.

A span says ids, states and what the chain made public; nothing of the message, no URL, no signed
bytes. Why a saga failed may quote its message: the log line says it, the span its error class.

SIDE EFFECTS: log lines.
"""

import functools
from collections.abc import Callable
from contextlib import suppress
from typing import Final, ParamSpec

import structlog
from opentelemetry.trace import Status, StatusCode

from saga.actions import Advance, Fail, Outcome, Skip
from saga.errors import LeaseLostError, StoreUnavailableError
from saga.model import Intent, Receipt, Saga
from saga.redaction import redact

MAX_DESCRIPTION: Final = 200
P = ParamSpec("P")
Value = str | int | float | bool
Facts = dict[str, Value | None]
_log = structlog.get_logger("saga")


def quiet(method: Callable[P, None]) -> Callable[P, None]:
    """Telemetry never fails a saga: what goes wrong in it becomes a log line."""

    @functools.wraps(method)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            method(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - whatever it is, the saga goes on
            with suppress(Exception):
                _log.warning("telemetry.failed", where=method.__name__, exc_info=error)

    return guarded


def failed(description: str | None) -> Status:
    return Status(StatusCode.ERROR, description or "failed")


class Attempt:
    """`saga.telemetry.Span`."""

    def __init__(
        self, saga: Saga, worker: str, started_ns: int, on_hold: Callable[[str], None]
    ) -> None:
        self.saga = saga
        self._on_hold = on_hold
        self.started_ns = started_ns
        self.lost = False
        """True when the saga is another worker's by now: there is no span to send."""
        self.name = f"saga.step after {saga.state.value}"
        self.status = Status()
        self.attributes: Facts = {
            "saga.id": saga.id,
            "saga.attempt": saga.attempts + 1,
            "saga.from": saga.state.value,
            "saga.fence": saga.lease.fence,
            "saga.worker": worker,
            "saga.resumed": saga.resumed,
            "saga.model_id": saga.model_id,
        }

    @quiet
    def outcome(self, before: Saga, after: Saga, action: Outcome) -> None:
        reason = action.note if isinstance(action, Advance) else action.reason
        line = {"from": before.state.value, "to": after.state.value}
        _log.info("saga.moved", **line, **({} if reason is None else {"reason": reason}))
        self.name = f"saga.step {after.state.value}"
        self.attributes |= {"saga.to": after.state.value, "saga.model_id": after.model_id}
        match action:
            case Advance():
                self.attributes |= _results(after, action)
            case Skip(error_class):
                self.attributes["saga.error_class"] = error_class.value
            case Fail(error_class):
                self.attributes["saga.error_class"] = error_class.value
                self.status = failed(error_class.value)

    @quiet
    def retry(self, saga: Saga, reason: str, *, hold: str | None = None) -> None:
        log, word = (_log.info, "held") if hold else (_log.warning, "retry")
        if hold == "node" and saga.error:
            log = _log.debug  # the outage has lines of its own; a saga's first wait is told
        log(f"saga.{word}", state=saga.state.value, reason=reason, attempt=saga.attempts + 1)
        self.name = f"saga.step after {saga.state.value} ({word})"
        intent = saga.deploy if saga.deployment is None else saga.register
        self.attributes |= {"saga.reason": _described(reason)} | _intended(intent)
        if hold:
            self.attributes["saga.hold"] = hold
            self._on_hold(hold)
        else:
            self.status = failed(_described(reason))

    @quiet
    def broken_by(self, error: BaseException) -> None:
        """The attempt ended by an exception."""
        if isinstance(error, LeaseLostError):
            self.lost = True
            return
        after = f"saga.step after {self.saga.state.value}"
        if not isinstance(error, Exception):
            self.name = f"{after} (interrupted)"
            return
        away = isinstance(error, StoreUnavailableError)
        self.name = f"{after} ({'store unavailable' if away else 'crashed'})"
        self.attributes["error.type"] = type(error).__name__
        self.status = failed(type(error).__name__)


def _described(reason: str) -> str:
    """A reason of ours or of a node, without anything like a URL."""
    words = ("<url>" if "://" in word else word for word in redact(reason).split())
    return " ".join(words)[:MAX_DESCRIPTION]


def _results(after: Saga, action: Advance) -> Facts:
    """What the chain now holds by this attempt, or was found to hold."""
    result = action.deployment or action.registration
    if result is None:
        return {}
    intent = after.register if action.deployment is None else after.deploy
    return _mined(result.receipt, None if result.adopted else intent) | {
        "saga.adopted": result.adopted,
        "saga.token": None if after.deployment is None else after.deployment.token,
    }


def _mined(receipt: Receipt, intent: Intent | None) -> Facts:
    return _intended(intent) | {
        "saga.tx.hash": receipt.tx_hash,
        "saga.tx.block_number": receipt.block_number,
        "saga.tx.gas_used": receipt.gas_used,
    }


def _intended(intent: Intent | None) -> Facts:
    if intent is None:
        return {}
    return {
        "saga.tx.hash": intent.attempts[-1].hash if intent.attempts else None,
        "saga.tx.nonce": intent.nonce,
        "saga.chain_id": intent.chain_id,
    }
