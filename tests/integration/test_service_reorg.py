"""The real service when the chain takes blocks back."""

import json
from collections.abc import AsyncIterator, Callable

import pytest

from adapters.embedded import DEV_ACCOUNT
from saga.audit import Evidence, audit
from saga.messages import identify
from saga.model import Saga, State
from tests.support.chain import Node
from tests.support.fleet import Fleet, message
from tests.support.proxy import Proxy, open_proxy

MakeFleet = Callable[..., Fleet]
CONFIRMATIONS = 4
DEPTH = 3
"""Of the reorganisation: the deepest that confirmations of four must survive."""
SETTINGS = {
    "CONFIRMATIONS": str(CONFIRMATIONS),
    "BUMP_AFTER_SECONDS": "1",
    "BUMP_AFTER_BLOCKS": "1",
    "RETRY_MAX_SECONDS": "1",
}
MODEL = "reorganised"


@pytest.fixture
def held_node(own_node: Node) -> Node:
    """The test's node without any block but those that it mines."""
    own_node.request("evm_setIntervalMining", 0)
    own_node.hold_blocks()
    return own_node


@pytest.fixture
async def proxy(held_node: Node) -> AsyncIterator[Proxy]:
    """The way to the test's node, for knowing what has been asked."""
    async with open_proxy(held_node.url) as server:
        yield server


async def seen(proxy: Proxy, fleet: Fleet) -> None:
    """Two polls later, the second of which began after this call: the newest block is known."""
    before = proxy.forwarded.count("eth_getBlockByNumber")
    await fleet.until(lambda *_: proxy.forwarded.count("eth_getBlockByNumber") >= before + 2)


async def until_mined(node: Node, proxy: Proxy, fleet: Fleet, raw: bytes) -> Saga:
    """Deployment and registration are `DEPTH` blocks deep, and the service knows."""
    saga_id = identify(raw).saga_id
    found: dict[str, Saga] = {}

    def in_pool(sagas: dict[str, Saga], _depths: dict[str, int]) -> bool:
        found.update(sagas)
        return int(node.request("txpool_status")["pending"], 16) == 2

    await fleet.until(in_pool)
    for _ in range(DEPTH):
        node.mine()
        await seen(proxy, fleet)
    saga = found[saga_id]
    assert saga.deploy is not None
    assert saga.register is not None
    for intent in (saga.deploy, saga.register):
        assert node.request("eth_getTransactionReceipt", intent.attempts[0].hash) is not None
    return saga


def assert_canonical(node: Node, evidence: Evidence) -> None:
    """The one event tells what the chain holds now, and what is stored is the chain's own."""
    assert audit(evidence) == []
    assert len(evidence.contracts) == len(evidence.events) == 1
    (saga,) = evidence.sagas.values()
    event = json.loads(evidence.events[0])
    assert saga.state is State.ACKED
    assert saga.deployment is not None
    assert saga.registration is not None
    for tx_hash, receipt in (
        (event["transaction_hash"], saga.deployment.receipt),
        (event["registry_transaction_hash"], saga.registration.receipt),
    ):
        now = node.request("eth_getTransactionReceipt", tx_hash)
        block = node.request("eth_getBlockByNumber", now["blockNumber"], False)
        assert now["status"] == "0x1"
        assert receipt.tx_hash == tx_hash
        assert receipt.block_hash == now["blockHash"] == block["hash"]
        assert receipt.block_number == int(block["number"], 16)
    assert event["block_number"] == saga.deployment.receipt.block_number
    assert event["token_address"] == node.registered(MODEL)
    assert len(node.tokens()) == 1


async def test_reorganised(held_node: Node, proxy: Proxy, fleet_on: MakeFleet) -> None:
    """What three blocks taken back have thrown out is mined again, once, and told of as it is."""
    raw = message(MODEL)
    fleet = fleet_on(held_node, WEB3_PROVIDER_URL=proxy.url, **SETTINGS)
    fleet.start()
    await fleet.until_started()
    fleet.send([raw])
    before = await until_mined(held_node, proxy, fleet, raw)
    assert before.deploy is not None
    first = held_node.request("eth_getTransactionReceipt", before.deploy.attempts[0].hash)
    held_node.request("anvil_reorg", DEPTH, [])
    assert held_node.tokens() == set()
    evidence = await fleet.settled([raw], each=held_node.mine)
    assert_canonical(held_node, evidence)
    assert json.loads(evidence.events[0])["block_number"] > int(first["blockNumber"], 16)


async def test_replaced_by_a_reorganisation(
    held_node: Node, proxy: Proxy, fleet_on: MakeFleet
) -> None:
    """A deployment whose nonce another transaction has after a reorganisation is made anew."""
    raw = message(MODEL)
    fleet = fleet_on(held_node, WEB3_PROVIDER_URL=proxy.url, **SETTINGS)
    fleet.start()
    await fleet.until_started()
    fleet.send([raw])
    before = await until_mined(held_node, proxy, fleet, raw)
    assert before.deploy is not None
    # A request without a nonce gets the next one as of the common block: the deployment's.
    usurper = {"from": DEV_ACCOUNT, "to": DEV_ACCOUNT, "value": "0x0"}
    held_node.request("anvil_reorg", DEPTH, [[usurper, 0]])
    assert held_node.tokens() == set()
    assert held_node.nonce() == before.deploy.nonce + 1
    evidence = await fleet.settled([raw], each=held_node.mine)
    assert_canonical(held_node, evidence)
    (after,) = evidence.sagas.values()
    assert after.deploy is not None
    assert after.deploy.nonce > before.deploy.nonce
    assert held_node.nonce() == int(fleet.lane()["next"])
