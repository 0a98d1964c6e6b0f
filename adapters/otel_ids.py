"""Ids of traces and spans, each derived from the saga: any process finds the same ones.

No id is zero, which would mean none. All spans are sampled: half a saga's trace is worth nothing.

SIDE EFFECTS: none.
"""

from hashlib import sha256
from typing import Final

from opentelemetry.context import Context
from opentelemetry.trace import SpanContext, TraceFlags, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from saga.messages import Identity, identify
from saga.model import Saga

_propagator: Final = TraceContextTextMapPropagator()


def traceparent(identity: Identity) -> str:
    """Of the saga's root span: in the producer's trace when there is one."""
    producer = _context(identity.traceparent)
    trace_id = _trace_id(identity.saga_id) if producer is None else producer.trace_id
    return f"00-{trace_id:032x}-{_root_id(identity.saga_id):016x}-01"


def root_of(saga: Saga) -> SpanContext:
    """The saga's root span."""
    stored = _context(saga.traceparent)
    return stored or context(_trace_id(saga.id), _root_id(saga.id), remote=True)


def producer_of(saga: Saga) -> SpanContext | None:
    """The producer's span, read from the message again: the saga keeps only its own."""
    if root_of(saga).trace_id == _trace_id(saga.id):
        return None
    return _context(identify(saga.message).traceparent)


def attempt_id(saga: Saga) -> int:
    """Of the attempt that begins now. A successor has another fence, the next one a version."""
    return _derived(8, "attempt", saga.id, saga.version, saga.lease.fence)


def end_id(saga: Saga) -> int:
    return _derived(8, "end", saga.id, saga.version)


def context(trace_id: int, span_id: int, *, remote: bool = False) -> SpanContext:
    return SpanContext(
        trace_id, span_id, is_remote=remote, trace_flags=TraceFlags(TraceFlags.SAMPLED)
    )


def _trace_id(saga_id: str) -> int:
    return _derived(16, "trace", saga_id)


def _root_id(saga_id: str) -> int:
    return _derived(8, "root", saga_id)


def _derived(size: int, *parts: object) -> int:
    digest = sha256("\0".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:size]) or 1


def _context(text: str | None) -> SpanContext | None:
    """What a traceparent says, or None when it says nothing valid."""
    if text is None:
        return None
    found = get_current_span(_propagator.extract({"traceparent": text}, Context()))
    span_context = found.get_span_context()
    return span_context if span_context.is_valid else None
