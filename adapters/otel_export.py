"""Where spans go, as the environment's OTEL_* say, and what is logged when they cannot.

SIDE EFFECTS: reads the environment, and takes over the `opentelemetry` logger.
"""

import logging
import os
import socket
import time
from collections.abc import Callable
from typing import Final

import structlog
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace.export import SpanExporter

SERVICE_NAME: Final = "contract-deploy-listener"
SECONDS_BETWEEN_LINES: Final = 60.0
_OF_ONE_WORKER: Final = ("service.instance.", "host.", "process.", "container.", "k8s.")
_log = structlog.get_logger("saga")


def span_exporter() -> SpanExporter | None:
    """The OTLP exporter that the environment asks for; None when it asks for none, or wrongly."""
    if not _wanted():
        return None
    protocol = _setting("PROTOCOL") or "grpc"
    _quieten()
    try:
        if protocol == "grpc":
            return _grpc()
        if protocol == "http/protobuf":
            return _http()
    except Exception as error:  # noqa: BLE001 - tokens are deployed without traces too
        _log.warning("telemetry.disabled", reason=f"{type(error).__name__}: {error}")
        return None
    _log.warning(
        "telemetry.disabled",
        reason=f"OTEL_EXPORTER_OTLP_PROTOCOL={protocol} is unknown: grpc or http/protobuf",
    )
    return None


def resource_of(worker: str) -> Resource:
    """Who sends: OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES win, but for the instance."""
    given = OTELResourceDetector().detect().attributes
    return Resource.create(
        {
            "service.name": given.get("service.name") or SERVICE_NAME,
            "service.instance.id": worker,
            "host.name": given.get("host.name") or socket.gethostname(),
        }
    )


def shared_by_workers(resource: Resource) -> Resource:
    """Without what tells one worker from another."""
    shared = {
        name: value
        for name, value in resource.attributes.items()
        if not name.startswith(_OF_ONE_WORKER)
    }
    return Resource(shared)


def _wanted() -> bool:
    off = os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    none = os.environ.get("OTEL_TRACES_EXPORTER", "").strip().lower() == "none"
    return bool(_setting("ENDPOINT")) and not off and not none


def _setting(name: str) -> str:
    """A setting of the trace exporter, else that of all exporters."""
    special = os.environ.get(f"OTEL_EXPORTER_OTLP_TRACES_{name}", "").strip()
    return special or os.environ.get(f"OTEL_EXPORTER_OTLP_{name}", "").strip()


# Imported when asked for: the two cost 0.2 seconds of start-up, also of every `saga` command.


def _grpc() -> SpanExporter:
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (  # noqa: PLC0415
        OTLPSpanExporter,
    )

    return OTLPSpanExporter()


def _http() -> SpanExporter:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
        OTLPSpanExporter,
    )

    return OTLPSpanExporter()


# --- The SDK logs each failed export, and each span it drops.


class SparseHandler(logging.Handler):
    """Passes on one record a minute, with the number of those kept back since the last."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(logging.WARNING)
        self._clock = clock
        self._next = float("-inf")
        self._kept_back = 0

    def emit(self, record: logging.LogRecord) -> None:
        if self._clock() < self._next:
            self._kept_back += 1
            return
        self._next = self._clock() + SECONDS_BETWEEN_LINES
        kept_back, self._kept_back = self._kept_back, 0
        _log.warning("telemetry.trouble", detail=record.getMessage(), kept_back=kept_back)


def _quieten() -> None:
    """Give all loggers of the SDK and its exporters this one handler."""
    logger = logging.getLogger("opentelemetry")
    logger.handlers[:] = [SparseHandler()]
    logger.setLevel(logging.WARNING)
    logger.propagate = False
