"""Real OTLP receivers on a free loopback port, gRPC and HTTP, which keep the spans they get."""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    add_TraceServiceServicer_to_server,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2

Attributes = dict[str, str | int | float | bool]


@dataclass(frozen=True, kw_only=True)
class ReceivedSpan:
    """One span as it came over the wire. Ids in hex; `parent` is empty for a root."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent: str
    links: tuple[tuple[str, str], ...]
    attributes: Attributes
    status: str
    """UNSET, OK or ERROR."""
    description: str
    start_ns: int
    end_ns: int
    resource: Attributes
    wire: bytes
    """The span and its resource as encoded: equal for equal spans."""


class SpanStore:
    """Spans in order of arrival; any thread may add, any thread may wait."""

    def __init__(self) -> None:
        self._spans: list[ReceivedSpan] = []
        self._changed = threading.Condition()

    @property
    def spans(self) -> list[ReceivedSpan]:
        with self._changed:
            return list(self._spans)

    def named(self, name: str) -> list[ReceivedSpan]:
        return [span for span in self.spans if span.name == name]

    def wait_for(
        self, predicate: Callable[[list[ReceivedSpan]], bool], timeout: float = 10.0
    ) -> list[ReceivedSpan]:
        """The spans as soon as the predicate holds for them. Raises TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(lambda: predicate(self._spans), timeout):
                names = [span.name for span in self._spans]
                raise TimeoutError(f"after {timeout} s the receiver has only {names}")
            return list(self._spans)

    def add(self, request: ExportTraceServiceRequest) -> None:
        received = list(_received(request))
        with self._changed:
            self._spans += received
            self._changed.notify_all()


class OtlpReceiver(SpanStore):
    """OTLP/gRPC: the TraceService of opentelemetry.proto.collector.trace.v1."""

    def __init__(self) -> None:
        super().__init__()
        self._server: Any = grpc.server(ThreadPoolExecutor(max_workers=4))
        add_TraceServiceServicer_to_server(  # type: ignore[no-untyped-call]  # generated code
            self, self._server
        )
        port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()
        self.endpoint = f"http://127.0.0.1:{port}"

    def Export(  # noqa: N802 - the name of the remote procedure
        self, request: ExportTraceServiceRequest, _context: object
    ) -> ExportTraceServiceResponse:
        self.add(request)
        return ExportTraceServiceResponse()

    def stop(self) -> None:
        self._server.stop(grace=None).wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


class OtlpHttpReceiver(SpanStore):
    """OTLP/HTTP with protobuf: POST /v1/traces."""

    def __init__(self) -> None:
        super().__init__()
        store = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                known = self.path == "/v1/traces"
                if known:
                    store.add(ExportTraceServiceRequest.FromString(body))
                self.send_response(200 if known else 404)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_args: object) -> None:
                """Nothing on stderr."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def _received(request: ExportTraceServiceRequest) -> Iterable[ReceivedSpan]:
    for group in request.resource_spans:
        for scope in group.scope_spans:
            for span in scope.spans:
                yield ReceivedSpan(
                    name=span.name,
                    kind=trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent=span.parent_span_id.hex(),
                    links=tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
                    attributes=_attributes(span.attributes),
                    status=trace_pb2.Status.StatusCode.Name(span.status.code).removeprefix(
                        "STATUS_CODE_"
                    ),
                    description=span.status.message,
                    start_ns=span.start_time_unix_nano,
                    end_ns=span.end_time_unix_nano,
                    resource=_attributes(group.resource.attributes),
                    wire=span.SerializeToString(deterministic=True)
                    + group.resource.SerializeToString(deterministic=True),
                )


def _attributes(pairs: Iterable[KeyValue]) -> Attributes:
    return {
        pair.key: getattr(pair.value, str(pair.value.WhichOneof("value")))  # scalars alone
        for pair in pairs
    }
