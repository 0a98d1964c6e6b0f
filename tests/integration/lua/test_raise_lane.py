import asyncio

import pytest

from saga.model import State
from tests.integration.lua.store import Corner, intent


async def given(corner: Corner, nonce: int) -> None:
    """A lane that has given a nonce."""
    worker = corner.worker()
    saga = await corner.begin_in(worker, State.VALIDATED)
    await worker.propose(saga, intent(nonce), spent=0, known=nonce)


@pytest.mark.parametrize(("least", "following"), [(0, 6), (5, 6), (6, 6), (7, 7), (10**9, 10**9)])
async def test_only_grows(corner: Corner, least: int, following: int) -> None:
    """A lane moves past nonces of others, and never back."""
    await given(corner, 5)
    assert await corner.lane().raise_to(least) == following
    assert (await corner.stored_lane())[b"next"] == str(following).encode()


@pytest.mark.parametrize("least", [0, 7])
async def test_empty(corner: Corner, least: int) -> None:
    """An empty lane begins where it is told to."""
    assert await corner.lane().raise_to(least) == least
    assert await corner.stored_lane() == {b"next": str(least).encode()}


async def test_retried(corner: Corner) -> None:
    """A raise whose reply was lost changes nothing when repeated, also when the lane went on."""
    lane = corner.lane()
    await lane.raise_to(9)
    before = await corner.contents()
    assert await lane.scripts.again() == b"9"
    assert await corner.contents() == before
    await corner.lane().raise_to(12)
    assert await lane.scripts.again() == b"12"


async def test_nothing_else(corner: Corner) -> None:
    """Neither the keeper's lease nor any record changes with a raise."""
    lane = corner.lane()
    await given(corner, 5)
    await lane.keep("w1", lease_ms=60_000, hold="funds")
    before = await corner.stored_lane()
    records = await corner.records()
    await lane.raise_to(20)
    assert await corner.stored_lane() == before | {b"next": b"20"}
    assert await corner.records() == records


async def test_given_from_there(corner: Corner) -> None:
    """The next intent gets the nonce that the lane was raised to."""
    await corner.lane().raise_to(30)
    worker = corner.worker()
    saga = await corner.begin_in(worker, State.VALIDATED)
    assert (await worker.propose(saga, intent(2), spent=2, known=2)).next_nonce == 30
    assert (await worker.propose(saga, intent(30), spent=2, known=2)).saga is not None


async def test_at_once(corner: Corner) -> None:
    """Of raises at once the highest holds."""
    lanes = [corner.lane() for _ in range(20)]
    await asyncio.gather(*(lane.raise_to(n) for n, lane in enumerate(lanes)))
    assert await corner.stored_lane() == {b"next": b"19"}
