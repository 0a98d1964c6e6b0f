"""Prometheus metrics of one replica, by a registry of its own.

SIDE EFFECTS: none but counting.
"""

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from adapters.price_feed import PriceFeed
from adapters.rpc_health import EndpointHealth
from saga.backpressure import REASONS, Reason
from saga.costs import MICRO, raised
from saga.model import Saga

COST_BUCKETS = (*(0.01, 0.02, 0.05, 0.1, 0.2, 0.5), *(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000))
"""US dollars: a layer-2 chain takes cents, Ethereum on a bad day hundreds."""


class Metrics:
    """What is counted. Names are permanent; the README tells what each means."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._watched: dict[type[Collector], Collector] = {}
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
        self._fenced = Counter(
            "saga_fenced",
            "Runs of sagas dropped because the lease is another's, by what found it out.",
            ["found"],
            registry=self.registry,
        )
        self._paused = Gauge(
            "saga_intake_paused",
            "1 while no new messages are taken for this reason.",
            ["reason"],
            registry=self.registry,
        )
        self.intake({})
        self._alerts = Counter(
            "saga_alerts",
            "Alerts by what became of them: sent, elsewhere, failed, dropped.",
            ["kind", "outcome"],
            registry=self.registry,
        )
        self._balance = self._lane_gauge("balance_wei", "Of the signer, as last seen.")
        self._low = self._lane_gauge(
            "balance_low", "1 while nothing new is sent because the balance is too low."
        )
        self._lanes = {
            name: self._lane_gauge(name, text)
            for name, text in (
                ("next_nonce", "The nonce that the lane gives next."),
                ("outstanding", "Nonces given and not yet spent on the chain."),
                ("oldest_seconds", "Age of the lowest outstanding nonce's bytes."),
                ("keeper", "1 while this replica is the lane's keeper."),
                ("held", "1 while the keeper may not raise a price that it must."),
                ("retired", "1 while the lane is handed over to another key, or about to be."),
            )
        }
        self._replaced = Counter(
            "saga_lane_replacements",
            "Transactions sent in the place of another, or of none: bump, fill, cancel.",
            ["signer", "kind"],
            registry=self.registry,
        )

        self._deployments = Counter(
            "saga_deployments", "Tokens deployed by sagas, not adopted.", registry=self.registry
        )
        self._gas = Counter(
            "saga_gas_used",
            "Of the sagas' own steps, whatever came of them.",
            registry=self.registry,
        )
        self._fees = Counter(
            "saga_fees_wei",
            "Paid for the sagas' own steps, whatever came of them.",
            registry=self.registry,
        )
        self._cost = Histogram(
            "saga_deployment_cost_usd",
            "Of a deployment with its registration, where a price was known.",
            buckets=COST_BUCKETS,
            registry=self.registry,
        )

    def _lane_gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"saga_lane_{name}", text, ["signer"], registry=self.registry)

    def rpc(self, method: str, outcome: str) -> None:
        """One JSON-RPC request came to an end: `ok`, `error` or `unavailable`."""
        self._rpc.labels(method, outcome).inc()

    def held(self, hold: str) -> None:
        self._holds.labels(hold).inc()

    def alert(self, kind: str, outcome: str) -> None:
        self._alerts.labels(kind, outcome).inc()

    def intake(self, stops: Mapping[Reason, str]) -> None:
        """What stops the intake now."""
        for reason in REASONS:
            self._paused.labels(reason).set(reason in stops)

    def fenced(self, found: str) -> None:
        """A run was dropped, its lease being another's: see `saga.orchestrator.Orchestrator`."""
        self._fenced.labels(found).inc()

    def written(self, before: Saga, after: Saga) -> None:
        """A saga was written: what it did and paid by that."""
        more = raised(before, after)
        self._deployments.inc(more.deployments)
        self._gas.inc(more.gas)
        self._fees.inc(after.fees_wei - before.fees_wei)
        if more.priced:
            self._cost.observe(more.usd_micro / MICRO)

    def balance(self, address: str, wei: int, *, low: bool) -> None:
        """A signer's balance was seen."""
        self._balance.labels(address).set(wei)
        self._low.labels(address).set(low)

    def lane(self, address: str) -> "LaneMeter":
        """What the keeper of a signer's lane counts."""
        gauges = {name: gauge.labels(address) for name, gauge in self._lanes.items()}
        return LaneMeter(gauges, lambda kind: self._replaced.labels(address, kind).inc())

    def watch_endpoints(self, health: Callable[[], Iterable[EndpointHealth]]) -> None:
        """Show the endpoints' health as of each scrape; a start may find them more than once."""
        self._watch(_Endpoints(health))

    def watch_price(self, feed: PriceFeed) -> None:
        """Show the native token's price as of each scrape, while one is known."""
        self._watch(_Price(feed))

    def _watch(self, collector: Collector) -> None:
        """In the place of the one of its kind."""
        if (former := self._watched.get(type(collector))) is not None:
            self.registry.unregister(former)
        self.registry.register(collector)
        self._watched[type(collector)] = collector

    def exposition(self) -> tuple[bytes, str]:
        """The text of `/metrics`, and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST


class LaneMeter:
    """The gauges of one lane."""

    def __init__(self, gauges: Mapping[str, Gauge], replaced: Callable[[str], None]) -> None:
        self._gauges = gauges
        self.replaced = replaced

    def stands(
        self,
        *,
        next_nonce: int,
        out: int,
        oldest_seconds: float,
        keeping: bool,
        hold: str,
        retired: bool,
    ) -> None:
        """As the keeper has seen it in its last round."""
        self._gauges["next_nonce"].set(next_nonce)
        self._gauges["outstanding"].set(out)
        self._gauges["oldest_seconds"].set(oldest_seconds)
        self._gauges["keeper"].set(keeping)
        self._gauges["held"].set(bool(hold))
        self._gauges["retired"].set(retired)

    def resigned(self) -> None:
        """The lane was given up: what was said of it is another replica's to say."""
        for name in ("outstanding", "oldest_seconds", "keeper", "held"):
            self._gauges[name].set(0)


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


class _Price(Collector):
    def __init__(self, feed: PriceFeed) -> None:
        self._feed = feed

    def collect(self) -> Iterable[Metric]:
        usd, age = self._feed.usd, self._feed.age_seconds
        if usd is not None:
            text = "Price of the chain's native token, US dollars."
            yield GaugeMetricFamily("saga_native_token_usd", text, value=float(usd))
        if age is not None:
            text = "Since the source gave that price; absent where it is fixed."
            yield GaugeMetricFamily("saga_native_token_usd_age_seconds", text, value=age)
