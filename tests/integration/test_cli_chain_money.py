"""`saga chain` of a lane with a mark, beside a former key, and with limits in dollars: it says what
a replica would do, and changes nothing."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from aiohttp import web

from adapters.embedded import DEV_ACCOUNT, EmbeddedValkey, free_port
from tests.support.chain import STRANGER, STRANGER_KEY, Node
from tests.support.commands import Ended, command, environment
from tests.support.lane import LaneSide, lane_side

CENTS = {"MAX_DEPLOYMENT_COST_USD": "0.000001"}


@pytest.fixture(autouse=True)
def _undone(node: Node) -> Iterator[None]:
    with node.rolled_back():
        node.hold_blocks()
        yield


async def chain(
    lane: LaneSide, valkey: EmbeddedValkey, *arguments: str, **changes: str | None
) -> Ended:
    return await command(environment(lane, valkey.url, **changes), "chain", *arguments)


async def status(lane: LaneSide, valkey: EmbeddedValkey, **changes: str | None) -> dict[str, Any]:
    ended = await chain(lane, valkey, "status", "--json", **changes)
    assert ended.status == 0, ended.err
    return ended.document


# --- Marks and former keys.


async def test_status_of_a_marked_lane(node: Node, valkey: EmbeddedValkey) -> None:
    """A lane with a mark is shown with it, and a saga would wait: nothing new is sent from it."""
    async with lane_side(node, valkey.url) as lane:
        await lane.lane.retire("drain", STRANGER)
        draining = await status(lane, valkey)
        text = await chain(lane, valkey, "status")
        await lane.lane.retire("finish", STRANGER)
        retired = await status(lane, valkey)
    assert draining["lanes"][0]["retired"] == f"draining:{STRANGER}"
    (reason,) = draining["would_hold"]
    assert reason == f"the key is being handed over to {STRANGER} and gives no new nonces"
    assert draining["problems"] == []
    assert f"a new saga would wait: {reason}" in text.out
    assert f"marked   draining to {STRANGER}: no new nonce is given" in text.out
    assert "would be sent now" not in text.out
    assert retired["would_hold"] == [f"the key is retired, its work went to {STRANGER}"]
    (problem,) = retired["problems"]
    assert problem.startswith(f"DEPLOYER_PRIVATE_KEY: {DEV_ACCOUNT} is retired")


async def test_status_beside_a_former_key(node: Node, valkey: EmbeddedValkey) -> None:
    """What a former key has out is a problem, as at a start; nothing in Redis is changed by it."""
    async with lane_side(node, valkey.url) as lane:
        saga = await lane.intended("left")
        before = await lane.corner.contents()
        found = await status(lane, valkey, DEPLOYER_PRIVATE_KEY=STRANGER_KEY)
        assert await lane.corner.contents() == before
    assert saga.deploy is not None
    (problem,) = [line for line in found["problems"] if "former key" in line]
    assert f"the former key {DEV_ACCOUNT} has nonce {saga.deploy.nonce} out" in problem


# --- Dollars.


class PriceServer:
    """A price source, and what it answers."""

    def __init__(self) -> None:
        self.url = ""
        self.body = b'{"usd": 3000}'

    async def answer(self, _request: web.Request) -> web.Response:
        return web.Response(body=self.body, content_type="application/json")


@pytest.fixture
async def prices() -> AsyncIterator[PriceServer]:
    """On a free port of the loopback interface."""
    server, port = PriceServer(), free_port()
    app = web.Application()
    app.router.add_get("/price", server.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    server.url = f"http://127.0.0.1:{port}/price?api_key=topsecret"
    yield server
    await runner.cleanup()


async def test_limits_in_dollars(node: Node, valkey: EmbeddedValkey, prices: PriceServer) -> None:
    """Price and limit in dollars are shown, whoever gave the price; in ether, what both limits
    allow."""
    asked = {"NATIVE_TOKEN_USD_URL": prices.url}
    async with lane_side(node, valkey.url) as lane:
        for changes, shown in (
            ({}, (None, "50", None)),
            ({"NATIVE_TOKEN_USD": "2500"}, ("2500", "50", "0.02")),
            (asked, ("3000", "50", "0.016666666666666666")),
            (asked | {"MAX_DEPLOYMENT_COST_WEI": "1000"}, ("3000", "50", "0.000000000000001")),
            (asked | {"MAX_DEPLOYMENT_COST_USD": "0"}, ("3000", None, None)),
        ):
            fees = (await status(lane, valkey, **changes))["fees"]
            found = fees["native_usd"], fees["limit_model_usd"], fees["limit_model_ether"]
            assert found == shown
        text = await chain(lane, valkey, "status", **asked)
        unknown = await chain(lane, valkey, "status")
    assert "dollars  native token 3000 USD, a model's cost 50 USD" in text.out
    assert "dollars  native token's price is not known: a model's cost 50 USD is" in unknown.out
    assert "topsecret" not in text.out + text.err


@pytest.mark.parametrize("source", ["fixed", "asked"])
async def test_a_bump_above_the_limit(
    node: Node, valkey: EmbeddedValkey, prices: PriceServer, source: str
) -> None:
    """A bump that costs more than MAX_DEPLOYMENT_COST_USD allows is refused, also where the price
    is asked for; status says that a saga would wait."""
    price = {"NATIVE_TOKEN_USD": "3000"}
    if source == "asked":
        price = {"NATIVE_TOKEN_USD_URL": prices.url}
    async with lane_side(node, valkey.url) as lane:
        saga = await lane.intended("dear")
        refused = await chain(lane, valkey, "bump", saga.id, **price, **CENTS)
        out = await lane.out(saga)
        found = await status(lane, valkey, **price, **CENTS)
        done = await chain(lane, valkey, "bump", saga.id, "--json", **price)
    assert (refused.status, refused.out) == (1, "")
    assert refused.err.rstrip().endswith("above MAX_DEPLOYMENT_COST_USD 0.000001")
    assert len(out.attempts) == 1
    assert any("MAX_DEPLOYMENT_COST_USD" in reason for reason in found["would_hold"])
    assert done.document["done"] is True


@pytest.mark.parametrize("body", [b"[" * 500_000, b'{"a":' * 200_000, b"no JSON"])
async def test_a_price_that_cannot_be_read(
    node: Node, valkey: EmbeddedValkey, prices: PriceServer, body: bytes
) -> None:
    """An answer that nests deep, or is none, is no price, and ends no command."""
    prices.body = body
    async with lane_side(node, valkey.url) as lane:
        found = await status(lane, valkey, NATIVE_TOKEN_USD_URL=prices.url)
    assert found["fees"]["native_usd"] is None
    assert found["would_hold"] == []


async def test_a_price_of_before(node: Node, valkey: EmbeddedValkey, prices: PriceServer) -> None:
    """While the source is down the last known price is shown, and holds."""
    asked = {"NATIVE_TOKEN_USD_URL": prices.url}
    async with lane_side(node, valkey.url) as lane:
        assert (await status(lane, valkey, **asked))["fees"]["native_usd"] == "3000"
        prices.body = b"down"
        assert (await status(lane, valkey, **asked))["fees"]["native_usd"] == "3000"
