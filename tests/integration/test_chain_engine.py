"""The service on bad and odd lines to its nodes: a real proxy before a real chain."""

import random
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from adapters.embedded import EmbeddedAnvil
from saga.audit import Evidence, audit
from saga.model import Saga, State
from tests.support import proxy as faults
from tests.support.chain import Node
from tests.support.fleet import Fleet, message
from tests.support.proxy import EVERY, SEND, Exchange, Proxy, Response, open_proxy
from tests.support.weather import RoughWeather, behind

ROOT = Path(__file__).parents[2]
MakeFleet = Callable[..., Fleet]
UNBOUND = {"MAX_IN_FLIGHT": "0", "WORKER_POOL_SIZE": "256"}
DEFAULTS = {"LEASE_SECONDS": "30", "RETRY_BASE_SECONDS": "1", "RETRY_MAX_SECONDS": "60"}
"""What a fleet has otherwise is shorter."""


@pytest.fixture
async def proxy(own_node: Node) -> AsyncIterator[Proxy]:
    """The way to the test's node."""
    async with open_proxy(own_node.url) as server:
        yield server


def assert_all_done(evidence: Evidence) -> None:
    """One token, one entry, one event each; nothing was dead-lettered."""
    assert audit(evidence) == []
    assert {saga.state for saga in evidence.sagas.values()} == {State.ACKED}
    assert len(evidence.events) == len(evidence.sent)
    assert all(len(found) == 1 for found in evidence.contracts.values())


def assert_no_hole(node: Node, fleet: Fleet) -> None:
    """Each nonce that the lane gave is spent."""
    assert node.nonce() == int(fleet.lane()["next"])


async def test_bad_weather(own_node: Node, proxy: Proxy, fleet_on: MakeFleet) -> None:
    """Lost replies, refusals and stalls neither lose a message nor leave a nonce out."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    weather = RoughWeather(random.Random(seed), lost=0.2, refused=0.05, stalled=0.02)
    sent = [message(f"weather-{number}") for number in range(200)]
    fleet = fleet_on(own_node, WEB3_PROVIDER_URL=proxy.url, BUMP_AFTER_SECONDS="3", **UNBOUND)
    fleet.start()
    await fleet.until_started()
    proxy.always(EVERY, weather)
    fleet.send(sent)
    assert_all_done(await fleet.settled(sent))
    assert_no_hole(own_node, fleet)
    print(dict(weather.met))
    assert weather.met["lost"] > 0


async def test_requests_for_a_saga(own_node: Node, fleet_on: MakeFleet) -> None:
    """At fifty in flight a saga costs at most six requests, four without its transactions."""
    sent = [message(f"counted-{number}") for number in range(100)]
    fleet = fleet_on(own_node, WORKER_POOL_SIZE="50", **DEFAULTS)
    fleet.send(sent)
    fleet.start_measured()
    assert_all_done(await fleet.settled(sent))
    asked = await fleet.metric("saga_rpc_requests_total")
    sends = await fleet.metric("saga_rpc_requests_total", method=SEND)
    print(f"{asked / len(sent)} requests a saga, {sends / len(sent)} of them transactions")
    assert asked <= 6 * len(sent)
    assert asked - sends <= 4 * len(sent)


@pytest.mark.parametrize("pipelined", ["true", "false"])
async def test_registration_follows_in_the_block(
    own_node: Node, fleet_on: MakeFleet, pipelined: str
) -> None:
    """Deployment and registration share a block for nine of ten, and the history keeps its order;
    without pipelining all finish as well."""
    sent = [message(f"pair-{number}") for number in range(100)]
    fleet = fleet_on(own_node, PIPELINE_REGISTRATION=pipelined, **UNBOUND)
    fleet.start()
    await fleet.until_started()
    fleet.send(sent)
    evidence = await fleet.settled(sent)
    assert_all_done(evidence)
    together = sum(same_block(saga) for saga in evidence.sagas.values())
    assert together >= (90 if pipelined == "true" else 0)
    for saga in evidence.sagas.values():
        moves = [entry.state for entry in await fleet.history(saga) if entry.kind == "moved"]
        assert moves.index(State.TOKEN_DEPLOYED) < moves.index(State.REGISTERED)


def same_block(saga: Saga) -> bool:
    assert saga.deployment is not None
    assert saga.registration is not None
    return saga.deployment.receipt.block_hash == saga.registration.receipt.block_hash


async def test_stored_before_sent(own_node: Node, proxy: Proxy, fleet_on: MakeFleet) -> None:
    """Redis holds each transaction's signed bytes, a bump's too, before any node sees them."""
    sent = [message(f"stored-{number}") for number in range(12)]
    fleet = fleet_on(
        own_node, WEB3_PROVIDER_URL=proxy.url, BUMP_AFTER_SECONDS="1", BUMP_AFTER_BLOCKS="1"
    )
    stored: dict[str, bool] = {}

    async def witness(exchange: Exchange) -> Response:
        calls = exchange.calls if isinstance(exchange.calls, list) else [exchange.calls]
        for call in calls:
            raw = call["params"][0]
            if raw not in stored:  # a record is dropped once its saga has moved on
                stored[raw] = raw in everything(fleet)
        return faults.json_response(await exchange.forward())

    proxy.always(SEND, witness)
    fleet.start()
    await fleet.until_started()
    own_node.request("evm_setIntervalMining", 0)
    own_node.hold_blocks()
    fleet.send(sent)
    await fleet.until(lambda sagas, _: all_out(sagas, len(sent) // 2))
    own_node.request("anvil_setNextBlockBaseFeePerGas", hex(100 * 10**9))
    evidence = await fleet.settled(sent, each=own_node.mine)
    assert_all_done(evidence)
    assert len(stored) > 2 * len(sent)
    assert set(stored.values()) == {True}


def all_out(sagas: dict[str, Saga], count: int) -> bool:
    return sum(saga.register is not None for saga in sagas.values()) >= count


def everything(fleet: Fleet) -> str:
    """All values of all hashes in Redis."""
    with fleet.redis as client:
        hashes = [client.hvals(key) for key in client.scan_iter(_type="hash")]
    return b"\n".join(value for values in hashes for value in values).decode("utf-8", "replace")


@pytest.mark.parametrize("first", [False, True])
async def test_a_node_that_lags(
    own_node: Node, proxy: Proxy, fleet_on: MakeFleet, first: bool
) -> None:
    """An endpoint fifty blocks behind costs nothing but its requests, wherever it stands."""
    proxy.always(EVERY, behind(50))
    own_node.request("anvil_mine", hex(60))
    urls = [proxy.url, own_node.url] if first else [own_node.url, proxy.url]
    sent = [message(f"lag-{number}") for number in range(20)]
    fleet = fleet_on(own_node, WEB3_PROVIDER_URL=",".join(urls))
    fleet.send(sent)
    fleet.start()
    assert_all_done(await fleet.settled(sent))
    assert_no_hole(own_node, fleet)


async def test_another_chain_while_running(
    own_node: Node, proxy: Proxy, fleet_on: MakeFleet
) -> None:
    """An endpoint that has become another chain's is refused by name; sagas are held."""
    early, late = message("before"), message("after")
    fleet = fleet_on(own_node, WEB3_PROVIDER_URL=proxy.url, MAX_RETRIES="0")
    replica = fleet.start()
    await fleet.until_started()
    fleet.send([early])
    assert_all_done(await fleet.settled([early]))
    # An endpoint that failed is asked anew for its chain before it is used.
    proxy.always(EVERY, faults.lost_request)
    fleet.send([late])
    await fleet.until_logged(replica, "rpc.circuit_opened")
    proxy.always(EVERY, faults.each_call(another_chain))
    refused = f"{proxy.url} is refused for ever: on chain 1, not 31337"
    await fleet.until(lambda sagas, _: any(refused in (s.error or "") for s in sagas.values()))
    assert fleet.log(replica).count("rpc.endpoint_refused") == 1
    assert await fleet.dead_letters() == []
    assert replica.poll() is None
    proxy.heal()
    fleet.stop()
    fleet.start()
    assert_all_done(await fleet.settled([early, late]))


def another_chain(call: dict[str, object]) -> dict[str, object] | None:
    return {"result": "0x1"} if call["method"] == "eth_chainId" else None


async def test_blocks_on_demand(own_anvil: EmbeddedAnvil, fleet_on: MakeFleet) -> None:
    """On a chain that makes blocks on demand alone, replicas that were idle find room in the lane:
    they count again what others have spent."""
    node = Node(own_anvil.url)
    fleet = fleet_on(node, MAX_IN_FLIGHT="4", WORKER_POOL_SIZE="1")
    fleet.start()
    await fleet.until_started()
    first = [message(f"first-{number}") for number in range(6)]
    fleet.send(first)
    await fleet.settled(first)
    fleet.start()
    await fleet.until_started()
    then = [message(f"then-{number}") for number in range(12)]
    fleet.send(then)
    evidence = await fleet.settled([*first, *then], seconds=60)
    assert audit(evidence) == []
    assert {saga.state for saga in evidence.sagas.values()} == {State.ACKED}


JUMPING = """
import random, sys, time
true, rng = time.time, random.Random(int(sys.argv.pop()))
time.time = lambda: true() + rng.uniform(-1e8, 1e8)
time.time_ns = lambda: int(time.time() * 1e9)
from saga.__main__ import main
main()
"""


def start_jumping(fleet: Fleet, folder: Path, seed: int) -> "subprocess.Popen[bytes]":
    """A replica whose wall clock jumps at each look."""
    with (folder / "jumping.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-c", JUMPING, "run", str(seed)],
            env=fleet.clean_environment() | {"PYTHONPATH": str(ROOT)},
            cwd=folder,
            stdout=log,
            stderr=log,
        )


async def test_clock_jumps(own_node: Node, fleet_on: MakeFleet, tmp_path: Path) -> None:
    """Whatever the wall clock of a replica says, by three years to and fro at each look, its
    leases, waits and bumps go on, and each saga ends with one token and one event."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    sent = [message(f"jump-{number}") for number in range(12)]
    fleet = fleet_on(own_node, BUMP_AFTER_SECONDS="1", BUMP_AFTER_BLOCKS="1")
    fleet.send(sent)
    replica = start_jumping(fleet, tmp_path, seed)
    try:
        evidence = await fleet.settled(sent, seconds=60)
    finally:
        replica.terminate()
        status = replica.wait(30)
    assert audit(evidence) == []
    assert {saga.state for saga in evidence.sagas.values()} == {State.ACKED}
    assert status == 0
