"""A corner of the shared Valkey for each test of a script."""

from collections.abc import AsyncIterator

import pytest

from adapters.embedded import EmbeddedValkey
from tests.integration.lua.store import Corner, opened


@pytest.fixture
async def corner(valkey: EmbeddedValkey) -> AsyncIterator[Corner]:
    """Keys of the test's own."""
    async with opened(valkey.url) as found:
        yield found
