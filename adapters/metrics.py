"""Prometheus metrics of one replica, by a registry of its own.

SIDE EFFECTS: none but counting.
"""

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from adapters.rpc_health import EndpointHealth


class Metrics:
    """What is counted. Names are permanent; the README tells what each means."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._rpc = Counter(
            "saga_rpc_requests",
            "JSON-RPC requests; each one of a batch counts.",
            ["method", "outcome"],
            registry=self.registry,
        )
        self._holds = Counter(
            "saga_holds",
            "Waits of sagas that used up no retry, by what held them.",
            ["hold"],
            registry=self.registry,
        )
        self._next = self._gauge("next_nonce", "The nonce that the lane gives next.")
        self._out = self._gauge("outstanding", "Nonces given and not yet spent on the chain.")
        self._oldest = self._gauge("oldest_seconds", "Age of the lowest outstanding nonce's bytes.")
        self._keeper = self._gauge("keeper", "1 while this replica is the lane's keeper.")
        self._held = self._gauge("held", "1 while the keeper may not raise a price that it must.")
        self._replaced = Counter(
            "saga_lane_replacements",
            "Transactions sent in the place of another, or of none: bump, fill, cancel.",
            ["kind"],
            registry=self.registry,
        )

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"saga_lane_{name}", text, registry=self.registry)

    def rpc(self, method: str, outcome: str) -> None:
        """One JSON-RPC request came to an end: `ok`, `error` or `unavailable`."""
        self._rpc.labels(method, outcome).inc()

    def held(self, hold: str) -> None:
        self._holds.labels(hold).inc()

    def lane(
        self, *, next_nonce: int, out: int, oldest_seconds: float, keeping: bool, hold: str
    ) -> None:
        self._next.set(next_nonce)
        self._out.set(out)
        self._oldest.set(oldest_seconds)
        self._keeper.set(keeping)
        self._held.set(bool(hold))

    def resigned(self) -> None:
        """The lane was given up: what was said of it is another replica's to say."""
        for gauge in (self._out, self._oldest, self._keeper, self._held):
            gauge.set(0)

    def replaced(self, kind: str) -> None:
        self._replaced.labels(kind).inc()

    def watch_endpoints(self, health: Callable[[], Iterable[EndpointHealth]]) -> None:
        """Show the endpoints' health as of each scrape."""
        self.registry.register(_Endpoints(health))

    def exposition(self) -> tuple[bytes, str]:
        """The text of `/metrics`, and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST


class _Endpoints(Collector):
    def __init__(self, health: Callable[[], Iterable[EndpointHealth]]) -> None:
        self._health = health

    def collect(self) -> Iterable[Metric]:
        families = {
            name: GaugeMetricFamily(f"saga_rpc_endpoint_{name}", text, labels=["endpoint"])
            for name, text in (
                ("usable", "1 unless refused, lagging, or with an open circuit."),
                ("latency_seconds", "Of its answers, smoothed."),
                ("error_ratio", "Of its requests, smoothed."),
                ("lag_blocks", "Blocks behind the best endpoint."),
            )
        }
        for number, each in enumerate(self._health()):
            label = [f"{number}:{each.host}"]
            families["usable"].add_metric(label, float(each.usable))
            families["latency_seconds"].add_metric(label, each.latency_seconds or 0.0)
            families["error_ratio"].add_metric(label, each.error_rate)
            families["lag_blocks"].add_metric(label, float(each.lag or 0))
        return families.values()
