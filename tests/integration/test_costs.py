"""What transactions cost, as the chain and an operator's commands tell it."""

import json
from collections.abc import Callable
from decimal import Decimal

from saga.audit import audit
from saga.costs import receipt_cost
from saga.facts import Mined
from saga.model import State, Step
from tests.integration.test_cli import saga as command
from tests.support.chain import Node, chain_side, new_saga
from tests.support.fleet import Fleet, message

MakeFleet = Callable[..., Fleet]


async def test_receipt(node: Node) -> None:
    """A mined transaction of ours keeps its cost, and the price of the moment it was seen; without
    a price it keeps none."""
    async with chain_side(node) as side:
        for number, price in enumerate((Decimal("3000.25"), None)):
            side.watcher.native_usd = lambda price=price: price  # type: ignore[misc]
            saga = await side.broadcast(new_saga(f"cost-{number}"), Step.DEPLOY)
            fact = await side.settle(saga, Step.DEPLOY)
            assert isinstance(fact, Mined)
            assert receipt_cost(fact.receipt) == node.cost(fact.receipt.tx_hash)
            assert fact.receipt.native_usd == (None if price is None else str(price))


def test_stats_of_a_fresh_redis(fleet_of: MakeFleet) -> None:
    """`saga stats` of a Redis without anything says zero, and divides by nothing."""
    environment = fleet_of().clean_environment()
    ended = command(environment, "stats", "--json")
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert json.loads(ended.stdout) == {
        "sagas": {state.value: 0 for state in State},
        "lists": {"inbound": 0, "processing": 0, "outbound": 0, "dead_letters": 0},
        "deployments": 0,
        "adopted": 0,
        "registrations": 0,
        "gas_used": 0,
        "gas_used_average": None,
        "fees_ether": "0.000000000",
        "fees_ether_average": None,
        "priced": 0,
        "usd": "0.000000",
        "usd_average": None,
    }
    table = command(environment, "stats")
    assert table.returncode == 0
    assert b"no price was known for any deployment" in table.stdout


async def test_stats(fleet_of: MakeFleet) -> None:
    """The totals are the sums of what the sagas paid, which is what the events say."""
    sent = [message(f"stats-{number}") for number in range(3)]
    fleet = fleet_of()
    fleet.start()
    fleet.send([*sent, message("stats-bad", token_symbol="no good")])
    evidence = await fleet.settled([*sent, message("stats-bad", token_symbol="no good")])
    assert audit(evidence) == []
    stats = json.loads(command(fleet.clean_environment(), "stats", "--json").stdout)
    sagas = list(evidence.sagas.values())
    assert (stats["deployments"], stats["registrations"], stats["adopted"]) == (3, 3, 0)
    assert (stats["sagas"]["ACKED"], stats["sagas"]["DEAD_LETTERED"]) == (3, 1)
    assert (stats["lists"]["outbound"], stats["lists"]["dead_letters"]) == (3, 1)
    assert stats["gas_used"] == sum(saga.gas_used for saga in sagas)
    assert stats["gas_used_average"] == round(stats["gas_used"] / 3)
    wei = sum(int(json.loads(event)["deployment_cost_wei"]) for event in evidence.events)
    assert wei == sum(saga.fees_wei for saga in sagas)
    # Each saga is rounded to a gwei.
    assert abs(Decimal(stats["fees_ether"]) * 10**18 - wei) <= 3 * 10**9 / 2
    text = command(fleet.clean_environment(), "show", "stats-0").stdout.decode()
    (line,) = [line for line in text.splitlines() if line.startswith("cost")]
    shown = next(saga for saga in sagas if saga.model_id == "stats-0")
    assert line.startswith(f"cost       gas {shown.gas_used}, ")
    assert line.endswith(" ether")
