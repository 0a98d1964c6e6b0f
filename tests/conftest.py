"""Shared fixtures: one real Valkey and real EVM nodes per test process."""

from collections.abc import Iterator

import pytest
import structlog

from adapters.embedded import EmbeddedAnvil, EmbeddedHardhat, EmbeddedValkey


@pytest.fixture(autouse=True)
def _unconfigured_logs() -> None:
    """Each test logs as a process that has configured nothing, whatever the one before did."""
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def anvil() -> Iterator[EmbeddedAnvil]:
    """An EVM node that mines each transaction at once."""
    with EmbeddedAnvil() as node:
        yield node


@pytest.fixture(scope="session")
def anvil_blocks() -> Iterator[EmbeddedAnvil]:
    """An EVM node with a block each second."""
    with EmbeddedAnvil(block_seconds=1) as node:
        yield node


@pytest.fixture(scope="session")
def hardhat() -> Iterator[EmbeddedHardhat]:
    """A Hardhat node that mines each transaction at once."""
    with EmbeddedHardhat() as node:
        yield node


@pytest.fixture(scope="session")
def valkey() -> Iterator[EmbeddedValkey]:
    """A Valkey server with the append-only file on."""
    with EmbeddedValkey() as server:
        yield server
