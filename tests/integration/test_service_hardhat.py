"""The real service on a Hardhat node, which does not know eth_getBlockReceipts."""

from collections.abc import Callable, Iterator

import pytest

from adapters.embedded import EmbeddedHardhat
from saga.audit import audit
from saga.model import State
from tests.support.chain import Node
from tests.support.fleet import Fleet, message


@pytest.fixture
def hardhat_node() -> Iterator[Node]:
    """A node of the test's own with a block a second."""
    with EmbeddedHardhat() as hardhat:
        node = Node(hardhat.url)
        node.request("evm_setAutomine", False)
        node.request("evm_setIntervalMining", 1000)
        yield node


async def test_pairs_on_hardhat(hardhat_node: Node, fleet_on: Callable[..., Fleet]) -> None:
    """Deployments and their registrations share blocks, and every saga ends with its event."""
    sent = [message(f"hardhat-{number}") for number in range(10)]
    fleet = fleet_on(hardhat_node)
    fleet.start()
    await fleet.until_started()
    fleet.send(sent)
    evidence = await fleet.settled(sent, seconds=60)
    assert audit(evidence) == []
    assert {saga.state for saga in evidence.sagas.values()} == {State.ACKED}
    together = [
        saga.deployment.receipt.block_hash == saga.registration.receipt.block_hash
        for saga in evidence.sagas.values()
        if saga.deployment is not None and saga.registration is not None
    ]
    assert together.count(True) >= 9
