"""The real service when the chain asks for more than was offered, or than the operator allows."""

import json
from collections.abc import Callable, Sequence

import pytest

from adapters.embedded import DEV_ACCOUNT
from saga.audit import Evidence, audit
from saga.fees import GWEI
from saga.model import Saga, State, Step
from tests.integration.test_service import saga_command
from tests.support.chain import Node
from tests.support.fleet import Fleet, message

MakeFleet = Callable[..., Fleet]
SOON = {"BUMP_AFTER_SECONDS": "1", "BUMP_AFTER_BLOCKS": "1", "RETRY_MAX_SECONDS": "1"}
LOW, HIGH = 1 * GWEI, 50 * GWEI
"""Base fees. The limits below lie between them."""
LANE = 16
"""MAX_IN_FLIGHT: so many nonces are out once the lane is full."""


@pytest.fixture
def held_node(own_node: Node) -> Node:
    """The test's node without any block but those of `mining`."""
    own_node.request("evm_setIntervalMining", 0)
    own_node.hold_blocks()
    mining(own_node, LOW)()
    return own_node


def mining(node: Node, base_fee: int) -> Callable[[], None]:
    """Mines a block at a base fee, however empty the blocks before it were."""

    def mine() -> None:
        node.request("anvil_setNextBlockBaseFeePerGas", hex(base_fee))
        node.mine()
        node.request("anvil_setNextBlockBaseFeePerGas", hex(base_fee))

    return mine


def out(node: Node, fleet: Fleet) -> int:
    """How many nonces were given and are not spent."""
    return int(fleet.lane().get("next", node.nonce())) - node.nonce()


def assert_all_done(evidence: Evidence) -> None:
    assert audit(evidence) == []
    assert {saga.state for saga in evidence.sagas.values()} == {State.ACKED}
    assert evidence.dead_letters == []


def replaced(node: Node, saga: Saga) -> list[Step]:
    """The steps whose mined transaction is not the first that was signed, on the same nonce."""
    found = []
    for step in Step:
        intent, receipt = saga.intent(step), saga.receipt(step)
        assert intent is not None
        assert receipt is not None
        if receipt.tx_hash != intent.attempts[0].hash:
            mined = node.request("eth_getTransactionByHash", receipt.tx_hash)
            assert int(mined["nonce"], 16) == intent.nonce
            found.append(step)
    return found


async def started(node: Node, fleet: Fleet, sent: Sequence[bytes]) -> None:
    """The lane is full of transactions priced at the low base fee, none of them mined."""
    fleet.start_measured()
    await fleet.until_started()
    fleet.send(sent)
    await fleet.until(lambda *_: out(node, fleet) == LANE)


async def test_stuck_transactions_are_replaced(held_node: Node, fleet_on: MakeFleet) -> None:
    """What a risen base fee has priced out is replaced on the same nonce, and all sagas finish."""
    sent = [message(f"stuck-{number}") for number in range(12)]
    fleet = fleet_on(held_node, **SOON)
    await started(held_node, fleet, sent)
    evidence = await fleet.settled(sent, each=mining(held_node, HIGH))
    assert_all_done(evidence)
    assert any(replaced(held_node, saga) for saga in evidence.sagas.values())
    assert await fleet.metric("saga_lane_replacements_total", kind="bump") >= 1
    assert held_node.nonce() == int(fleet.lane()["next"])


@pytest.mark.parametrize(
    ("limit", "amount", "hold"),
    [
        ("MAX_FEE_GWEI", "20", "max_fee"),
        # A model takes about two million gas.
        ("MAX_DEPLOYMENT_COST_WEI", str(20 * GWEI * 2_000_000), "max_cost"),
    ],
)
async def test_above_the_limit_all_hold(
    held_node: Node, fleet_on: MakeFleet, limit: str, amount: str, hold: str
) -> None:
    """While the chain asks for more than the operator allows, all wait with the reason, no try is
    counted, nothing is dead-lettered; when it asks for less, all go on by themselves."""
    early = [message(f"early-{number}") for number in range(LANE // 2)]
    late = [message(f"late-{number}") for number in range(4)]
    fleet = fleet_on(held_node, **SOON, **{limit: amount})
    await started(held_node, fleet, early)
    await fleet.until(lambda sagas, _: all(s.deploy is not None for s in sagas.values()))
    mining(held_node, HIGH)()
    fleet.send(late)

    def all_hold(sagas: dict[str, Saga], _depths: dict[str, int]) -> bool:
        told = [saga for saga in sagas.values() if (saga.error or "").startswith("held: ")]
        return len(told) == len(late) and limit in fleet.lane().get("hold", "")

    await fleet.until(all_hold, each=mining(held_node, HIGH))
    assert await fleet.metric("saga_holds_total", hold=hold) >= len(late)
    assert await fleet.metric("saga_lane_held") == 1
    for model in ("early-0", "late-0"):
        shown = json.loads(saga_command(fleet, "show", model, "--json").stdout)
        assert limit in (shown.get("error") or shown["held"])
        assert (shown["state"], shown["attempts"]) == ("VALIDATED", 0)
    assert await fleet.dead_letters() == []
    evidence = await fleet.settled([*early, *late], each=mining(held_node, LOW))
    assert_all_done(evidence)
    await fleet.until(lambda *_: "hold" not in fleet.lane())


async def test_without_funds_all_hold(held_node: Node, fleet_on: MakeFleet) -> None:
    """Sagas of a key that has run out of funds are held, and go on once it has some."""
    early = [message(f"poor-{number}") for number in range(LANE // 2)]
    late = [message(f"poorer-{number}") for number in range(4)]
    fleet = fleet_on(held_node, **SOON, DEPLOYMENT_TIMEOUT="6")
    balance = held_node.request("eth_getBalance", DEV_ACCOUNT, "latest")
    await started(held_node, fleet, early)
    held_node.request("anvil_setBalance", DEV_ACCOUNT, "0x0")
    mine = mining(held_node, LOW)
    mine()  # the node throws out what is in its pool
    assert out(held_node, fleet) == LANE
    fleet.send(late)
    await fleet.until(lambda sagas, _: held_for_funds(sagas) >= len(early), each=mine)
    assert DEV_ACCOUNT in fleet.lane()["hold"]
    assert await fleet.metric("saga_lane_held") == 1
    assert await fleet.dead_letters() == []
    held_node.request("anvil_setBalance", DEV_ACCOUNT, balance)
    assert_all_done(await fleet.settled([*early, *late], each=mine))
    assert held_node.nonce() == int(fleet.lane()["next"])


def held_for_funds(sagas: dict[str, Saga]) -> int:
    errors = [saga.error or "" for saga in sagas.values()]
    return sum(error.startswith("held: ") and "nsufficient funds" in error for error in errors)
