"""One trace for a saga, whatever happens to the processes: over real OTLP gRPC."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from adapters.embedded import EmbeddedAnvil, EmbeddedValkey
from saga.messages import identify
from saga.model import Saga, State
from tests.support.chain import Node
from tests.support.fleet import Fleet, message
from tests.support.otlp import OtlpReceiver

STATES = ["VALIDATED", "TOKEN_DEPLOYED", "REGISTERED", "PUBLISHED", "ACKED"]


@pytest.fixture
def node() -> Iterator[Node]:
    with EmbeddedAnvil() as anvil:
        node = Node(anvil.url)
        node.request("evm_setIntervalMining", 1)
        yield node


async def test_a_killed_saga_is_one_trace(
    node: Node, valkey: EmbeddedValkey, tmp_path: Path
) -> None:
    """After a SIGKILL in the deployment, its spans are one trace, its states in order."""
    raw = message("traced")
    with (
        OtlpReceiver() as receiver,
        Fleet(valkey.url, node.url, node.contracts, tmp_path) as fleet,
    ):
        with fleet.redis as client:
            client.flushall()
        fleet.environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = receiver.endpoint
        replica = fleet.start()
        await fleet.until_started()
        fleet.send([raw])
        # The span of the first step is exported within half a second of its end.
        node.request("evm_setIntervalMining", 0)
        await fleet.until(in_flight)
        receiver.wait_for(lambda spans: any("VALIDATED" in span.name for span in spans), 10)
        fleet.kill(replica)
        node.request("evm_setIntervalMining", 1)
        fleet.start()
        evidence = await fleet.settled([raw])
        receiver.wait_for(lambda spans: any(span.name == "saga.end" for span in spans), 10)
        spans = receiver.spans
    saga = evidence.sagas[identify(raw).saga_id]
    assert saga.state is State.ACKED
    assert saga.traceparent is not None
    _, trace_id, root_id, _ = saga.traceparent.split("-")
    assert {span.trace_id for span in spans} == {trace_id}
    roots = [span for span in spans if span.name.startswith("process ")]
    assert {span.span_id for span in roots} == {root_id}
    assert all(span.parent == root_id for span in spans if span not in roots)
    steps = sorted(
        (span for span in spans if span.attributes.get("saga.to") in STATES),
        key=lambda span: span.end_ns,
    )
    assert [span.attributes["saga.to"] for span in steps] == STATES
    workers = {span.attributes["saga.worker"] for span in steps}
    assert len(workers) == 2


def in_flight(sagas: dict[str, Saga], _depths: dict[str, int]) -> bool:
    return any(saga.deploy is not None and saga.deployment is None for saga in sagas.values())
