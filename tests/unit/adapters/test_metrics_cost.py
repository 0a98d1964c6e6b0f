import itertools

import msgspec

from adapters.metrics import Metrics
from saga.costs import Cost, charged
from saga.model import Deployment, Registration, State
from tests.support.sagas import LATER, RECEIPT, TOKEN, make


def shown(metrics: Metrics) -> dict[str, float]:
    """The samples of what sagas did and paid."""
    lines = metrics.exposition()[0].decode().splitlines()
    found = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {
        name: float(value)
        for name, value in found.items()
        if name.startswith(("saga_deploy", "saga_gas", "saga_fees")) and "_created" not in name
    }


def test_fresh() -> None:
    """Before anything is done all counters are there, at zero, up to the last bucket."""
    found = shown(Metrics())
    assert set(found.values()) == {0.0}
    assert {"saga_deployments_total", "saga_gas_used_total", "saga_fees_wei_total"} < found.keys()
    buckets = [name for name in found if "_bucket" in name]
    assert buckets[0] == 'saga_deployment_cost_usd_bucket{le="0.01"}'
    assert buckets[-2] == 'saga_deployment_cost_usd_bucket{le="1000.0"}'


def test_written() -> None:
    """Each write counts what it did and paid; one that did nothing counts nothing."""
    metrics = Metrics()
    deploy, register = (msgspec.structs.replace(r, native_usd="3000") for r in (RECEIPT, LATER))
    start = make(State.VALIDATED)
    failed = charged(start, Cost(50_000, 10**14))
    deployed = msgspec.structs.replace(
        charged(failed, Cost(1_000_000, 2 * 10**15)),
        deployment=Deployment(token=TOKEN, receipt=deploy),
    )
    registered = msgspec.structs.replace(
        charged(deployed, Cost(1_000_000, 2 * 10**15)),
        registration=Registration(receipt=register),
    )
    path = [start, failed, deployed, deployed, registered, registered]
    for before, after in itertools.pairwise(path):
        metrics.written(before, after)
    found = shown(metrics)
    assert found["saga_deployments_total"] == 1
    assert found["saga_gas_used_total"] == 2_050_000
    assert found["saga_fees_wei_total"] == 4.1e15
    assert (found["saga_deployment_cost_usd_count"], found["saga_deployment_cost_usd_sum"]) == (
        1,
        12,
    )
    assert found['saga_deployment_cost_usd_bucket{le="10.0"}'] == 0
    assert found['saga_deployment_cost_usd_bucket{le="20.0"}'] == 1
