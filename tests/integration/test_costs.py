"""What transactions cost, as the chain and an operator's commands tell it."""

import json
from collections.abc import Callable, Sequence
from decimal import Decimal
from fractions import Fraction

import msgspec

from adapters.embedded import EmbeddedValkey
from saga.actions import Advance
from saga.audit import audit
from saga.change import change_of, left_behind
from saga.costs import Cost, Totals, receipt_cost
from saga.facts import Mined
from saga.fees import GWEI
from saga.model import Intent, Saga, State, Step
from states.registered import event_of
from states.table import TABLE
from tests.integration.lua.store import Corner, Worker, opened
from tests.integration.test_cli import saga as command
from tests.support.chain import ChainSide, Node, StrategyName, chain_side, content_of, new_saga
from tests.support.fleet import Fleet, message
from tests.support.sagas import POLICY

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


async def left_and_mined(
    corner: Corner, worker: Worker, side: ChainSide, known: Callable[[Intent], Intent]
) -> Saga:
    """A saga that has left its pair to the lane, of which the nodes then mined both. `known`: an
    intent as the saga had stored it."""
    saga = await corner.begin_in(worker, State.VALIDATED, message("left"))
    signed = await side.pair(saga)
    assert signed.deploy is not None
    assert signed.register is not None
    pair = known(signed.deploy), known(signed.register)
    nonce = signed.deploy.nonce
    stored = (await worker.propose(saga, *pair, spent=nonce, known=nonce)).saga
    assert stored is not None
    left = left_behind(stored, Step.DEPLOY)
    await worker.abandon(stored, list(Step), attempts=0, note="no funds", left=left)
    await side.chain.send(signed, Step.DEPLOY)
    for step in Step:
        assert isinstance(await side.settle(signed, step), Mined)
    return await corner.read(saga)  # as another replica finds it after a crash


async def found(worker: Worker, side: ChainSide, saga: Saga) -> Saga:
    """The saga registered, by what its look-ups find."""
    for step, state in ((Step.DEPLOY, State.TOKEN_DEPLOYED), (Step.REGISTER, State.REGISTERED)):
        fact = await side.chain.look_up(saga, step, content_of(saga))
        action = TABLE[saga.state].decide(saga, fact, POLICY)
        assert isinstance(action, Advance), action
        saga = await worker.move(saga, state, change_of(saga, action))
    return saga


def summed(costs: Sequence[Cost]) -> Cost:
    return Cost(sum(cost.gas for cost in costs), sum(cost.wei for cost in costs))


async def test_left_and_mined(node: Node, valkey: EmbeddedValkey, strategy: StrategyName) -> None:
    """What a saga has left to a lane and is mined after all is its own: it has paid for it, and the
    totals count it as deployed and registered."""
    async with opened(valkey.url) as corner, chain_side(node, strategy) as side:
        with node.rolled_back():
            worker = corner.worker()
            saga = await left_and_mined(corner, worker, side, lambda intent: intent)
            assert len(saga.left) == 2
            saga = await found(worker, side, saga)
            totals = await corner.views.totals()
            cost = summed([node.cost(tx) for tx in saga.left])
    results = (saga.deployment, saga.registration)
    assert [each.adopted for each in results if each is not None] == [False, False]
    assert (saga.gas_used, saga.fees_wei) == (cost.gas, cost.wei)
    fees = round(Fraction(cost.wei, GWEI))
    assert totals == Totals(deployments=1, registrations=1, gas=cost.gas, fees_gwei=fees)
    event = event_of(saga, POLICY)
    assert (event.deployment_cost_wei, event.deployment_cost_usd) == (str(cost.wei), None)


def unknown(intent: Intent) -> Intent:
    """As if what was mined was a replacement that the lane's keeper had signed later."""
    (attempt,) = intent.attempts
    replaced = "0x" + attempt.hash[-64:][::-1]
    return msgspec.structs.replace(
        intent, attempts=(msgspec.structs.replace(attempt, hash=replaced),)
    )


async def test_left_and_replaced(node: Node, valkey: EmbeddedValkey) -> None:
    """What a replacement of the keeper's has made of that stays adopted, and costs the saga
    nothing; the event says what the chain took all the same."""
    async with opened(valkey.url) as corner, chain_side(node) as side:
        with node.rolled_back():
            worker = corner.worker()
            saga = await found(worker, side, await left_and_mined(corner, worker, side, unknown))
            totals = await corner.views.totals()
    assert (totals, saga.gas_used, saga.fees_wei) == (Totals(adopted=1), 0, 0)
    event = event_of(saga, POLICY)
    assert int(event.deployment_cost_wei or 0) > 0
    assert event.deployment_cost_usd is None


def test_stats_of_a_fresh_redis(fleet_of: MakeFleet) -> None:
    """`saga stats` of a Redis without anything says zero, and divides by nothing."""
    environment = fleet_of().clean_environment()
    ended = command(environment, "stats", "--json")
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert json.loads(ended.stdout) == {
        "sagas": {state.value: 0 for state in State},
        "lists": {"inbound": 0, "processing": 0, "outbound": 0, "dead_letters": 0},
        "intake": {},
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
