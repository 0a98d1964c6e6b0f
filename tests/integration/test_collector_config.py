"""Laws of otel-collector.yaml, by the documented schema of the collector's configuration."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

FILE = Path(__file__).parents[2] / "otel-collector.yaml"
KINDS = ("receivers", "processors", "exporters")
_VARIABLE = re.compile(r"\$\{env:([A-Z_]+):-([^}]*)\}")


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    loaded = yaml.safe_load(FILE.read_text("utf-8"))
    assert isinstance(loaded, dict)
    return loaded


def test_sections(config: dict[str, Any]) -> None:
    """The file has the collector's own top-level sections, and no other."""
    assert set(config) == {*KINDS, "service"}


def test_pipelines(config: dict[str, Any]) -> None:
    """Every component of a pipeline is defined, and every one defined is in a pipeline."""
    pipelines = config["service"]["pipelines"]
    assert set(pipelines) == {"traces"}
    for kind in KINDS:
        used = {name for pipeline in pipelines.values() for name in pipeline[kind]}
        assert used == set(config[kind])


def test_receiver(config: dict[str, Any]) -> None:
    """OTLP is taken by gRPC on 4317 and by HTTP on 4318, from other containers too."""
    assert config["receivers"]["otlp"] == {
        "protocols": {"grpc": {"endpoint": "0.0.0.0:4317"}, "http": {"endpoint": "0.0.0.0:4318"}}
    }


def test_processors(config: dict[str, Any]) -> None:
    """The memory limiter comes first and checks within its documented bounds; batching is last."""
    assert config["service"]["pipelines"]["traces"]["processors"] == ["memory_limiter", "batch"]
    limiter = config["processors"]["memory_limiter"]
    assert set(limiter) == {"check_interval", "limit_percentage", "spike_limit_percentage"}
    assert limiter["check_interval"] == "1s"
    assert 0 < limiter["spike_limit_percentage"] < limiter["limit_percentage"] < 100
    assert set(config["processors"]["batch"]) <= {
        "timeout",
        "send_batch_size",
        "send_batch_max_size",
    }


def test_exporter(config: dict[str, Any]) -> None:
    """Spans go to Jaeger by OTLP without TLS, wherever JAEGER_OTLP_ENDPOINT says it is."""
    exporter = config["exporters"]["otlp/jaeger"]
    variable = _VARIABLE.fullmatch(exporter["endpoint"])
    assert variable is not None
    assert variable.groups() == ("JAEGER_OTLP_ENDPOINT", "jaeger:4317")
    assert exporter["tls"] == {"insecure": True}
