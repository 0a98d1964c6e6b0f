"""Traces and log lines of sagas: `saga.telemetry.Telemetry` on OpenTelemetry and structlog.

A saga has one trace, in whatever processes it runs, because every id follows from the saga itself:

    process <inbound queue>            the root, near-zero, at admission
    saga.step <state>                  an attempt that moved the saga to <state>
    saga.step after <state> (retry)    an attempt that left it in <state>: it failed, and is tried
                                       again later; an error
    saga.step after <state> (held)     the same, because something outside was away; no error
    saga.step after <state> (interrupted | store unavailable | crashed)
                                       an attempt that was cancelled, or ended by an exception
    saga.end                           near-zero, when nothing more happens by itself

Steps and the end are children of the root. Spans are made when they are over: an attempt whose
lease was lost leaves none, since the saga and its story are the successor's. They are built as
ReadableSpan, without the SDK's tracer, which would choose ids and sample by itself.

The root depends on the saga alone, worker and host left out. A worker that takes over from a dead
one sends it again, in case it died with the dead one; backends keep one of equal spans.

SIDE EFFECTS: log lines, and spans to an OTLP collector from a thread of their own.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

import msgspec
import structlog
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status

from adapters import otel_ids as ids
from adapters.otel_attempt import Attempt, Facts, failed, quiet
from adapters.otel_export import resource_of, shared_by_workers, span_exporter
from saga.messages import Identity
from saga.model import Saga, State
from saga.telemetry import Span

SCHEDULE_DELAY_MS: Final = 500
"""The spans of this long are what a kill -9 costs."""
QUEUE_SPANS: Final = 8192
BATCH_SPANS: Final = 512
MAX_HINT_BYTES: Final = 65_536
MAX_HINT_LENGTH: Final = 200
_SCOPE: Final = InstrumentationScope("saga")
_log = structlog.get_logger("saga")


def ignore(_hold: str) -> None:
    """Counts no hold."""


def build_telemetry(
    *, inbound_queue: str, worker: str, on_hold: Callable[[str], None] = ignore
) -> "OtelTelemetry":
    """Telemetry as the environment's OTEL_* ask for it; without an endpoint, log lines alone."""
    return OtelTelemetry(
        inbound_queue=inbound_queue,
        worker=worker,
        resource=resource_of(worker),
        exporter=span_exporter(),
        on_hold=on_hold,
    )


class OtelTelemetry:
    """`saga.telemetry.Telemetry`. Without an exporter it only logs."""

    def __init__(
        self,
        *,
        inbound_queue: str,
        worker: str,
        resource: Resource,
        exporter: SpanExporter | None,
        now_ns: Callable[[], int] = time.time_ns,
        on_hold: Callable[[str], None] = ignore,
    ) -> None:
        self._queue = inbound_queue
        self._worker = worker
        self._resource = resource
        self._shared_resource = shared_by_workers(resource)
        self._exporter = exporter
        self._processor = None if exporter is None else _processor(exporter)
        self._now_ns = now_ns
        self._on_hold = on_hold

    def traceparent(self, identity: Identity) -> str:
        return ids.traceparent(identity)

    @quiet
    def admitted(self, saga: Saga) -> None:
        with structlog.contextvars.bound_contextvars(**_log_context(saga)):
            if saga.version > 1:
                _log.info("saga.reopened", state=saga.state.value)
                return
            _log.info("saga.admitted", **_known({"message_id": saga.message_id}))
        self._emit_root(saga)

    @quiet
    def duplicate(self, saga_id: str) -> None:
        _log.info("saga.duplicate", saga_id=saga_id)

    @contextmanager
    def attempt(self, saga: Saga) -> Iterator[Span]:
        """A span from now to the end of the block; the saga's log context with it."""
        attempt = Attempt(saga, self._worker, self._now_ns(), self._on_hold)
        with structlog.contextvars.bound_contextvars(**_log_context(saga)):
            try:
                yield attempt
            except BaseException as error:
                attempt.broken_by(error)
                raise
            finally:
                self._emit_attempt(attempt)

    @quiet
    def ended(self, saga: Saga) -> None:
        dead = saga.state is State.DEAD_LETTERED
        facts: Facts = {
            "state": saga.state.value,
            "seconds": round(max(self._now_ns() / 1e9 - saga.created_ms / 1e3, 0.0), 3),
            "token": None if saga.deployment is None else saga.deployment.token,
            "error_class": saga.error_class,
        }
        with structlog.contextvars.bound_contextvars(**_log_context(saga)):
            (_log.warning if dead else _log.info)("saga.ended", **_known(facts))
        attributes: Facts = {f"saga.{name}": value for name, value in facts.items()}
        attributes |= {
            "saga.id": saga.id,
            "saga.phase": "end",
            "saga.worker": self._worker,
            "saga.takeovers": saga.takeovers,
            "saga.model_id": saga.model_id,
        }
        status = failed(saga.error_class) if dead else Status()
        self._emit(self._child(saga, "saga.end", ids.end_id(saga), None, attributes, status))

    async def shutdown(self, deadline_seconds: float) -> None:
        """Send what is queued, for as long as the deadline allows; the event loop goes on."""
        processor, exporter = self._processor, self._exporter
        if processor is None or exporter is None:
            return
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def flush() -> None:
            processor.shutdown()  # type: ignore[no-untyped-call]  # the SDK's own omission
            with suppress(RuntimeError):  # the loop is closed by now
                loop.call_soon_threadsafe(done.set)

        # Daemons, not the loop's executor: asyncio.run waits for that one without a deadline.
        threading.Thread(target=flush, name="otel-flush", daemon=True).start()
        try:
            await asyncio.wait_for(done.wait(), deadline_seconds)
        except TimeoutError:
            _log.warning("telemetry.unflushed", deadline_seconds=deadline_seconds)
            threading.Thread(target=exporter.shutdown, name="otel-abort", daemon=True).start()

    def _emit_root(self, saga: Saga) -> None:
        if self._processor is not None:
            self._emit(_root_span(saga, self._queue, self._shared_resource))

    @quiet
    def _emit_attempt(self, attempt: Attempt) -> None:
        saga = attempt.saga
        if attempt.lost:
            return
        if saga.resumed and saga.takeovers:
            self._emit_root(saga)
        self._emit(
            self._child(
                saga,
                attempt.name,
                ids.attempt_id(saga),
                attempt.started_ns,
                attempt.attributes,
                attempt.status,
            )
        )

    def _child(
        self,
        saga: Saga,
        name: str,
        span_id: int,
        started_ns: int | None,
        attributes: Facts,
        status: Status,
    ) -> ReadableSpan:
        """A span of the saga's trace that ends now, and began now where no start is given."""
        now, root = self._now_ns(), ids.root_of(saga)
        return ReadableSpan(
            name=name,
            context=ids.context(root.trace_id, span_id),
            parent=root,
            resource=self._resource,
            attributes=_known(attributes),
            status=status,
            start_time=now if started_ns is None else started_ns,
            end_time=now if started_ns is None else max(now, started_ns),
            instrumentation_scope=_SCOPE,
        )

    def _emit(self, span: ReadableSpan) -> None:
        if self._processor is not None:
            self._processor.on_end(span)


def _root_span(saga: Saga, queue: str, resource: Resource) -> ReadableSpan:
    """The same bytes whoever makes it, and however often."""
    producer: SpanContext | None = ids.producer_of(saga)
    root = ids.root_of(saga)
    start = saga.created_ms * 1_000_000
    return ReadableSpan(
        name=f"process {queue}",
        context=ids.context(root.trace_id, root.span_id),
        parent=producer,
        links=() if producer is None else (Link(producer),),
        kind=SpanKind.CONSUMER,
        resource=resource,
        attributes=_known(
            {
                "messaging.system": "redis",
                "messaging.operation.name": "process",
                "messaging.operation.type": "process",
                "messaging.destination.name": queue,
                "messaging.message.id": saga.message_id,
                "saga.id": saga.id,
                "saga.phase": "start",
            }
        ),
        start_time=start,
        end_time=start + 1_000,  # a microsecond, the least that Jaeger shows
        instrumentation_scope=_SCOPE,
    )


def _known(facts: Facts) -> dict[str, str | int | float | bool]:
    return {name: value for name, value in facts.items() if value is not None}


def _processor(exporter: SpanExporter) -> BatchSpanProcessor:
    return BatchSpanProcessor(
        exporter,
        max_queue_size=QUEUE_SPANS,
        max_export_batch_size=BATCH_SPANS,
        schedule_delay_millis=SCHEDULE_DELAY_MS,
    )


# --- What every log line of a saga says.


class _RunId(msgspec.Struct):
    mlflow_run_id: str | None = None


class _Hint(_RunId):
    payload: _RunId | None = None


_hints: Final = msgspec.json.Decoder(_Hint)


def _log_context(saga: Saga) -> dict[str, str]:
    found = {
        "saga_id": saga.id,
        "trace_id": f"{ids.root_of(saga).trace_id:032x}",
        "model_id": saga.model_id,
        "mlflow_run_id": _mlflow_run_id(saga.message),
    }
    return {name: value for name, value in found.items() if value is not None}


def _mlflow_run_id(message: bytes) -> str | None:
    """As the message has it, unchecked: 2 microseconds, where parsing all of it takes 30."""
    if len(message) > MAX_HINT_BYTES:
        return None
    try:
        hint = _hints.decode(message)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    found = hint.mlflow_run_id if hint.payload is None else hint.payload.mlflow_run_id
    return None if found is None else found[:MAX_HINT_LENGTH]
