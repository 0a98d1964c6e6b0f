"""A chain with a block a second and the contracts on it, for tests that run the real service."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis import Redis

from adapters.embedded import EmbeddedAnvil, EmbeddedValkey
from tests.support.chain import Node
from tests.support.fleet import Fleet


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
def fleet_of(
    service_node: Node, valkey: EmbeddedValkey, tmp_path: Path
) -> Iterator[Callable[..., Fleet]]:
    """Makes the fleet of a test, on an empty Redis; all its processes end with the test."""
    with Redis.from_url(valkey.url) as client:
        client.flushall()
    made: list[Fleet] = []

    def make(**settings: str) -> Fleet:
        made.append(
            Fleet(valkey.url, service_node.url, service_node.contracts, tmp_path, **settings)
        )
        return made[-1]

    yield make
    for fleet in made:
        fleet.end()
