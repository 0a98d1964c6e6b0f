"""What a running service may spend: a balance to keep, a rate, and a price in dollars."""

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from typing import Any

import pytest
from aiohttp import web

from adapters.embedded import DEV_ACCOUNT, free_port
from saga.audit import audit
from saga.fees import ETHER
from saga.model import State
from tests.integration.test_service import saga_command
from tests.support.chain import Node
from tests.support.fleet import Fleet, message

MakeFleet = Callable[..., Fleet]


def ready(port: int) -> tuple[int, dict[str, Any]]:
    """The status and the answer of `/ready`."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=5) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


async def until_ready(port: int, status: int) -> dict[str, Any]:
    """The answer of `/ready` as soon as its status is this one."""
    async with asyncio.timeout(30):
        while True:
            found, answer = await asyncio.to_thread(ready, port)
            if found == status:
                return answer
            await asyncio.sleep(0.05)


async def test_balance_to_keep(own_node: Node, fleet_on: MakeFleet) -> None:
    """Below MIN_BALANCE_WEI nothing new is sent: sagas wait, `/ready` and the metric say so, and
    after a top-up they go on alone. What is out goes on all the while."""
    port, least = free_port(), ETHER
    fleet = fleet_on(own_node, MIN_BALANCE_WEI=str(least), RETRY_MAX_SECONDS="1")
    fleet.start(HTTP_PORT=str(port))
    await fleet.until_started()
    assert ready(port) == (200, {"ready": True, "reasons": []})
    own_node.request("evm_setIntervalMining", 0)
    early = [message(f"early_{number}") for number in range(4)]
    fleet.send(early)
    await fleet.until(lambda *_: own_node.nonce(block="pending") == own_node.nonce() + 8)
    own_node.request("anvil_setBalance", DEV_ACCOUNT, hex(least - 1))
    answer = await until_ready(port, 503)
    assert answer["ready"] is False
    (reason,) = answer["reasons"]
    assert reason.startswith(f"min_balance: {DEV_ACCOUNT} has 0.99")
    assert f"less than MIN_BALANCE_WEI {least}: send it some" in reason
    assert await fleet.metric("saga_lane_balance_low", signer=DEV_ACCOUNT) == 1
    following = fleet.lane()["next"]
    late = [message(f"late_{number}") for number in range(4)]
    fleet.send(late)
    own_node.request("evm_setIntervalMining", 1)
    await fleet.until_counted(State.ACKED, len(early))
    await fleet.until(
        lambda sagas, _: (
            sum("MIN_BALANCE_WEI" in (saga.error or "") for saga in sagas.values()) == len(late)
        )
    )
    assert fleet.lane()["next"] == following
    own_node.request("anvil_setBalance", DEV_ACCOUNT, hex(100 * ETHER))
    evidence = await fleet.settled(early + late)
    assert audit(evidence) == []
    assert {saga.state for saga in evidence.sagas.values()} == {State.ACKED}
    assert {saga.attempts for saga in evidence.sagas.values()} == {0}
    assert await until_ready(port, 200) == {"ready": True, "reasons": []}


async def test_throttle(own_node: Node, fleet_on: MakeFleet) -> None:
    """Three replicas together never deploy faster than DEPLOYMENTS_PER_HOUR, nor in bursts."""
    fleet = fleet_on(own_node, DEPLOYMENTS_PER_HOUR="3600")
    for _ in range(3):
        fleet.start()
        await fleet.until_started()
    sent = [message(f"throttled_{number}") for number in range(30)]
    fleet.send(sent)
    evidence = await fleet.settled(sent)
    assert audit(evidence) == []
    at_ms = []
    for saga in evidence.sagas.values():
        assert saga.state is State.ACKED
        entries = await fleet.history(saga)
        at_ms += [e.at_ms for e in entries if e.kind == "intent" and e.state is State.VALIDATED][:1]
    at_ms.sort()
    # Any window of a minute has at most 60 of them and one more.
    assert min(b - a for a, b in pairwise(at_ms)) >= 1000


class PriceServer:
    """Answers with the price that it is told, or not at all."""

    def __init__(self) -> None:
        self.usd: str | None = "3000"

    async def answer(self, _request: web.Request) -> web.Response:
        if self.usd is None:
            return web.Response(status=503)
        return web.json_response({"data": {"amount": self.usd, "currency": "USD"}})


@pytest.fixture
async def price() -> AsyncIterator[tuple[PriceServer, str]]:
    server, port = PriceServer(), free_port()
    app = web.Application()
    app.router.add_get("/spot", server.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    yield server, f"http://127.0.0.1:{port}/spot?api_key=topsecret"
    await runner.cleanup()


async def test_cost_in_dollars(
    own_node: Node, fleet_on: MakeFleet, price: tuple[PriceServer, str]
) -> None:
    """A model that would cost more than MAX_DEPLOYMENT_COST_USD waits, and says so; at a price that
    allows it, it is deployed, and event, saga and totals say what it cost."""
    server, url = price
    server.usd = "1000000"
    fleet = fleet_on(
        own_node,
        NATIVE_TOKEN_USD_URL=url,
        NATIVE_TOKEN_USD_PATH="data.amount",
        RETRY_MAX_SECONDS="1",
    )
    dear = fleet.start_measured()
    await fleet.until_started()
    assert await fleet.metric("saga_native_token_usd") == 1_000_000
    sent = [message("dollars")]
    fleet.send(sent)
    await fleet.until(
        lambda sagas, _: any("MAX_DEPLOYMENT_COST_USD" in (s.error or "") for s in sagas.values())
    )
    assert await fleet.metric("saga_holds_total", hold="max_cost") >= 1
    assert "next" not in fleet.lane()
    fleet.kill(dear)
    server.usd = "2000"
    fleet.start_measured()
    evidence = await fleet.settled(sent)
    assert audit(evidence) == []
    (saga,) = evidence.sagas.values()
    assert saga.state is State.ACKED
    event = json.loads(evidence.events[0])
    dollars = saga.fees_wei * 2000 / ETHER
    assert int(event["deployment_cost_wei"]) == saga.fees_wei
    assert float(event["deployment_cost_usd"]) == pytest.approx(dollars, abs=2e-6)
    stats = json.loads(saga_command(fleet, "stats", "--json").stdout)
    assert stats["deployments"] == 1
    assert stats["gas_used"] == saga.gas_used
    assert await fleet.metric("saga_deployment_cost_usd_sum") == pytest.approx(dollars, abs=2e-6)
    for replica in fleet.alive:
        assert "topsecret" not in fleet.log(replica)


async def test_price_source_down(
    own_node: Node, fleet_on: MakeFleet, price: tuple[PriceServer, str]
) -> None:
    """While the source is down the last price stays: also for a replica that starts then. One line
    says so."""
    server, url = price
    fleet = fleet_on(own_node, NATIVE_TOKEN_USD_URL=url, NATIVE_TOKEN_USD_PATH="data.amount")
    first = fleet.start()
    await fleet.until_started()
    fleet.kill(first)
    server.usd = None
    second = fleet.start_measured()
    await fleet.until_started()
    assert await fleet.metric("saga_native_token_usd") == 3000
    assert fleet.log(second).count("price.unavailable") == 1
    assert "topsecret" not in fleet.log(second)
    sent = [message("priced")]
    fleet.send(sent)
    evidence = await fleet.settled(sent)
    assert "deployment_cost_usd" in json.loads(evidence.events[0])
