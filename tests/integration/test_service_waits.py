"""Laws of what is away: a start waits for it, a run outlives it, and neither says so too often."""

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, MutableMapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog

from adapters.embedded import EmbeddedAnvil, EmbeddedValkey, free_port
from saga import start
from saga.audit import audit
from saga.chain_parts import ChainParts
from saga.model import State
from tests.support.chain import Node
from tests.support.fleet import REFUSED_TO_START, Fleet, message
from tests.support.probes import SECONDS, live, until_ready
from tests.support.redis_proxy import RedisProxy, open_redis_proxy

SECRET = "5ecret-password"
MakeFleet = Callable[..., Fleet]


@pytest.fixture
def mortal() -> Iterator[EmbeddedValkey]:
    """A Valkey of one test's own, with its append-only file, to be killed and started again."""
    with EmbeddedValkey() as server:
        yield server


@pytest.fixture(scope="module")
def blocks() -> Iterator[Node]:
    """A node with the contracts and a block a second."""
    with EmbeddedAnvil() as anvil:
        node = Node(anvil.url)
        node.request("evm_setIntervalMining", 1)
        yield node


@pytest.fixture
def fleet_here(mortal: EmbeddedValkey, blocks: Node, tmp_path: Path) -> Iterator[MakeFleet]:
    """Makes the test's fleet."""
    made: list[Fleet] = []

    def make(**settings: str) -> Fleet:
        made.append(Fleet(mortal.url, blocks.url, blocks.contracts, tmp_path, **settings))
        return made[-1]

    yield make
    for fleet in made:
        fleet.end()


@asynccontextmanager
async def way_to(node: Node) -> AsyncIterator[tuple[RedisProxy, str]]:
    """A way to a node that can be cut, and its URL for a client."""
    async with open_redis_proxy(node.url) as way:
        yield way, way.url.replace("redis://", "http://")


async def cut(way: RedisProxy) -> None:
    """End its connections, and take no new ones."""
    way.away = True
    await way.end()


def events(log: str) -> list[str]:
    return [json.loads(line)["event"] for line in log.splitlines() if line[:1] == "{"]


def lines(log: str) -> list[str]:
    """What an operator reads of a refused start."""
    return [line for line in log.splitlines() if line.startswith("saga: ")]


async def ended(replica: "subprocess.Popen[bytes]") -> int:
    return await asyncio.to_thread(replica.wait, SECONDS)


# --- At the start.


async def test_redis_absent(fleet_here: MakeFleet, mortal: EmbeddedValkey) -> None:
    """A replica whose Redis is not there waits, alive and not ready, and starts when it is."""
    fleet, port = fleet_here(), free_port()
    mortal.kill()
    replica = fleet.start(HTTP_PORT=str(port))
    await until_ready(port, 503, "REDIS_URL: Redis does not answer")
    assert await asyncio.to_thread(live, port) == 200
    mortal.start()
    await until_ready(port, 200)
    fleet.send([raw := message("redis-absent")])
    assert audit(await fleet.settled([raw])) == []
    said = events(fleet.log(replica))
    assert (said.count("start.waiting"), said.count("start.goes_on")) == (1, 1)


async def test_node_absent(fleet_here: MakeFleet, blocks: Node) -> None:
    """The same for a chain without a node that answers."""
    async with way_to(blocks) as (way, url):
        await cut(way)
        fleet, port = fleet_here(WEB3_PROVIDER_URL=url), free_port()
        replica = fleet.start(HTTP_PORT=str(port))
        await until_ready(port, 503, "WEB3_PROVIDER_URL: no node answers")
        assert await asyncio.to_thread(live, port) == 200
        way.away = False
        await until_ready(port, 200)
        fleet.send([raw := message("node-absent")])
        assert audit(await fleet.settled([raw])) == []
        said = events(fleet.log(replica))
        assert (said.count("start.waiting"), said.count("start.goes_on")) == (1, 1)


async def test_stopped_while_waiting(fleet_here: MakeFleet, mortal: EmbeddedValkey) -> None:
    """SIGTERM ends a replica that waits, and one that is in the middle of asking, with status 0."""
    fleet = fleet_here()
    mortal.pause()
    asking = fleet.start(HTTP_PORT=str(port := free_port()))
    await until_ready(port, 503, "starting")
    asking.terminate()
    assert await ended(asking) == 0
    mortal.kill()
    waiting = fleet.start()
    await fleet.until_logged(waiting, "start.waiting")
    waiting.terminate()
    assert await ended(waiting) == 0
    assert "start.goes_on" not in events(fleet.log(waiting))
    mortal.start()


async def test_no_wait(fleet_here: MakeFleet, mortal: EmbeddedValkey) -> None:
    """With --no-wait a start without Redis and node is refused at once, and names both."""
    away = f"http://127.0.0.1:{free_port()}"
    fleet = fleet_here(WEB3_PROVIDER_URL=away)
    mortal.kill()
    replica = fleet.start("--no-wait")
    assert await ended(replica) == REFUSED_TO_START
    assert [line.split(" (")[0] for line in lines(fleet.log(replica))] == [
        "saga: REDIS_URL: Redis does not answer",
        "saga: WEB3_PROVIDER_URL: no node answers",
    ]
    mortal.start()


async def test_wrong_password(fleet_here: MakeFleet, mortal: EmbeddedValkey) -> None:
    """A password that Redis refuses is nothing to wait for."""
    url = mortal.url.replace("://", f"://:{SECRET}@")
    fleet = fleet_here()
    with fleet.redis as client:
        client.config_set("requirepass", "another")
    for wrong in (url, mortal.url):
        replica = fleet.start(REDIS_URL=wrong)
        assert await ended(replica) == REFUSED_TO_START
        (line,) = lines(fleet.log(replica))
        assert line.startswith("saga: REDIS_URL: Redis refused the credentials")
        assert SECRET not in fleet.log(replica)


async def test_wrong_all_the_same(fleet_here: MakeFleet, mortal: EmbeddedValkey) -> None:
    """What is wrong is refused at once also while something else is away."""
    mortal.kill()
    fleet = fleet_here()
    replica = fleet.start(CHAIN_ID="1")
    assert await ended(replica) == REFUSED_TO_START
    assert [line.split()[1] for line in lines(fleet.log(replica))] == ["REDIS_URL:", "CHAIN_ID"]
    mortal.start()


async def test_wrong_server(fleet_here: MakeFleet, blocks: Node) -> None:
    """A port where no Redis but something else answers is nothing to wait for."""
    fleet = fleet_here()
    replica = fleet.start(REDIS_URL=blocks.url.replace("http://", "redis://"))
    assert await ended(replica) == REFUSED_TO_START
    (line,) = lines(fleet.log(replica))
    assert line.startswith("saga: REDIS_URL: ")


async def test_not_allowed(fleet_here: MakeFleet, mortal: EmbeddedValkey) -> None:
    """What Redis does not allow its user is one line at the start; taken away in mid-run it shuts
    the intake, named, and the process lives; given back, work goes on."""
    fleet, url = fleet_here(), mortal.url.replace("://", f"://part:{SECRET}@")
    with fleet.redis as client:
        client.acl_setuser(
            "part", enabled=True, passwords=[f"+{SECRET}"], keys=["*"], commands=["+@all", "-info"]
        )
    refused = fleet.start(REDIS_URL=url)
    assert await ended(refused) == REFUSED_TO_START
    assert lines(fleet.log(refused)) == [
        "saga: REDIS_URL: the user may not run INFO: grant it (ACL SETUSER)"
    ]
    with fleet.redis as client:
        client.acl_setuser("part", enabled=True, commands=["+@all"], keys=["*"])
    replica = fleet.start(REDIS_URL=url, HTTP_PORT=str(port := free_port()))
    await until_ready(port, 200)
    with fleet.redis as client:
        client.acl_setuser("part", enabled=True, commands=["-llen"])
    await until_ready(port, 503, "intake stopped (store): Redis does not allow", "llen")
    assert replica.poll() is None
    with fleet.redis as client:
        client.acl_setuser("part", enabled=True, commands=["+llen"])
    await until_ready(port, 200)
    fleet.send([raw := message("allowed")])
    assert audit(await fleet.settled([raw])) == []
    assert SECRET not in fleet.log(replica)


async def test_hangs_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """An attempt that neither fails nor succeeds is told all the same."""
    monkeypatch.setattr(start, "HANGS_SECONDS", 0)
    stopping, standing = asyncio.Event(), start.Standing()

    async def attempt() -> ChainParts:
        await asyncio.Event().wait()
        raise AssertionError

    def told(_logger: object, _name: str, line: MutableMapping[str, Any]) -> Mapping[str, Any]:
        said.append(line["event"])
        stopping.set()
        raise structlog.DropEvent

    said: list[str] = []
    before = structlog.get_config()["processors"]
    structlog.configure(processors=[told])
    try:
        assert await start.until_there(attempt, standing, stopping, wait=True) is None
    finally:
        structlog.configure(processors=before)
    assert said == ["start.waiting"]


# --- In mid-run.


async def test_both_away(fleet_here: MakeFleet, mortal: EmbeddedValkey, blocks: Node) -> None:
    """Redis killed with -9 and the node cut off in the middle of deployments: the process lives,
    says one line of each, and when they are back every model gets its one token."""
    async with way_to(blocks) as (way, url):
        fleet = fleet_here(WEB3_PROVIDER_URL=url, WORKER_POOL_SIZE="4")
        replica = fleet.start()
        await fleet.until_started()
        sent = [message(f"both-{number}") for number in range(12)]
        fleet.send(sent)
        await fleet.until_counted(State.ACKED, 1, seconds=SECONDS)
        mortal.kill()
        await cut(way)
        await fleet.until_logged(replica, "redis.unavailable")
        await fleet.until_logged(replica, "chain.unavailable")
        way.away = False
        mortal.start()
        evidence = await fleet.settled(sent)
        assert audit(evidence) == []
        assert {saga.state for saga in evidence.sagas.values()} == {State.ACKED}
        for event in ("redis.back", "chain.back"):  # sagas may be done before the next look
            await fleet.until_logged(replica, event)
        assert replica.poll() is None
        said = events(fleet.log(replica))
        for event in ("redis.unavailable", "redis.back", "chain.unavailable", "chain.back"):
            assert said.count(event) == 1, event
        assert fleet.stop() == [0]


async def test_redis_hangs(fleet_here: MakeFleet, mortal: EmbeddedValkey) -> None:
    """A Redis that is stopped and says nothing shuts the intake; when it goes on, so does work."""
    fleet, port = fleet_here(), free_port()
    replica = fleet.start(HTTP_PORT=str(port))
    await until_ready(port, 200)
    mortal.pause()
    try:
        await until_ready(port, 503, "intake stopped (store)")
        assert await asyncio.to_thread(live, port) == 200
    finally:
        mortal.go_on()
    await until_ready(port, 200)
    fleet.send([raw := message("hangs")])
    assert audit(await fleet.settled([raw])) == []
    assert replica.poll() is None
