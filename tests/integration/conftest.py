"""Chains with the contracts on them: mining at once, and a block a second for the service."""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis import Redis

from adapters.embedded import EmbeddedAnvil, EmbeddedValkey
from tests.support.chain import STRATEGIES, Node, StrategyName
from tests.support.fleet import Fleet


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    """A node of the module's own that mines each transaction at once."""
    with EmbeddedAnvil() as anvil:
        yield Node(anvil.url)


@pytest.fixture(params=STRATEGIES)
def strategy(request: pytest.FixtureRequest) -> StrategyName:
    """Each strategy, for laws that hold with both."""
    name: StrategyName = request.param
    return name


@pytest.fixture(scope="module")
def service_anvil() -> Iterator[EmbeddedAnvil]:
    """A node of the module's own."""
    with EmbeddedAnvil() as anvil:
        yield anvil


@pytest.fixture(scope="module")
def service_node(service_anvil: EmbeddedAnvil) -> Node:
    """The same with the contracts deployed and a block a second."""
    node = Node(service_anvil.url)
    node.request("evm_setIntervalMining", 1)
    return node


@pytest.fixture
def own_anvil() -> Iterator[EmbeddedAnvil]:
    """A node of one test's own, whose blocks have room for all that a test sends."""
    with EmbeddedAnvil("--gas-limit", "1000000000") as anvil:
        yield anvil


@pytest.fixture
def own_node(own_anvil: EmbeddedAnvil) -> Node:
    """The same with the contracts deployed and a block a second."""
    node = Node(own_anvil.url)
    node.request("evm_setIntervalMining", 1)
    return node


@pytest.fixture
def fleet_on(valkey: EmbeddedValkey, tmp_path: Path) -> Iterator[Callable[..., Fleet]]:
    """Makes a fleet on a node, on an empty Redis; all its processes end with the test."""
    with Redis.from_url(valkey.url) as client:
        client.flushall()
    made: list[Fleet] = []

    def make(node: Node, **settings: str) -> Fleet:
        made.append(Fleet(valkey.url, node.url, node.contracts, tmp_path, **settings))
        return made[-1]

    yield make
    for fleet in made:
        fleet.end()


@pytest.fixture
def fleet_of(service_node: Node, fleet_on: Callable[..., Fleet]) -> Callable[..., Fleet]:
    """Makes the fleet of a test on the module's node."""
    return functools.partial(fleet_on, service_node)
