"""Laws of the intake: what stops it, that nothing else stops with it, and that it goes on alone."""

import asyncio
import getpass
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from adapters.embedded import EmbeddedAnvil, EmbeddedValkey, free_port
from adapters.redis_client import connect
from adapters.redis_intake import UNREADABLE, RedisIntake
from adapters.redis_queue import RedisQueue
from saga.audit import audit
from saga.errors import StoreUnavailableError
from saga.model import State
from tests.integration.lua.store import Corner, opened
from tests.support.chain import Node
from tests.support.commands import Ended, command
from tests.support.fleet import Fleet, message
from tests.support.probes import SECONDS, until_ready


@pytest.fixture(scope="module")
def mortal() -> Iterator[EmbeddedValkey]:
    """A Valkey of this module's own, to be brought into trouble."""
    with EmbeddedValkey() as server:
        yield server


@pytest.fixture(scope="module")
def quick_node() -> Iterator[Node]:
    """A node with the contracts that mines at once."""
    with EmbeddedAnvil() as anvil:
        yield Node(anvil.url)


@pytest.fixture
def fleet(mortal: EmbeddedValkey, quick_node: Node, tmp_path: Path) -> Iterator[Fleet]:
    """Replicas on both, on an empty Redis."""
    made = Fleet(mortal.url, quick_node.url, quick_node.contracts, tmp_path)
    with made.redis as client:
        client.flushall()
    with made:
        yield made


# --- The look, and what Redis refuses.


Trouble = Callable[[Corner], Awaitable[object]]
TROUBLES: dict[str, tuple[Trouble, Trouble]] = {
    "oom": (
        lambda corner: corner.client.config_set("maxmemory", 1),
        lambda corner: corner.client.config_set("maxmemory", 0),
    ),
    "no_replicas": (
        lambda corner: corner.client.config_set("min-replicas-to-write", 1),
        lambda corner: corner.client.config_set("min-replicas-to-write", 0),
    ),
    "read_only": (
        lambda corner: corner.client.execute_command("REPLICAOF", "127.0.0.1", "1"),
        lambda corner: corner.client.execute_command("REPLICAOF", "NO", "ONE"),
    ),
}


async def until(found: Callable[["Redis"], bool], server: EmbeddedValkey) -> None:
    """Wait until Redis shows something."""
    with Redis.from_url(server.url) as client:
        deadline = time.monotonic() + SECONDS
        while not found(client):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)


def nobody_pops(client: "Redis") -> bool:
    """A pop that has begun before a pause was seen ends within a second."""
    return not client.info("clients")["blocked_clients"]


def not_saved(client: "Redis") -> bool:
    return bool(client.info("persistence")["rdb_last_bgsave_status"] != "ok")


async def unsaved(corner: Corner, server: EmbeddedValkey) -> None:
    """A snapshot that fails, on a server that is to refuse writes after that."""
    await corner.client.config_set("save", "3600 1")
    await corner.client.config_set("stop-writes-on-bgsave-error", "yes")
    (server.folder / "dump.rdb").mkdir()
    await corner.client.bgsave()
    await until(not_saved, server)


async def saved(corner: Corner, server: EmbeddedValkey) -> None:
    (server.folder / "dump.rdb").rmdir()
    await corner.client.config_set("save", "")
    await corner.client.config_set("stop-writes-on-bgsave-error", "no")


@asynccontextmanager
async def in_trouble(corner: Corner, server: EmbeddedValkey, cause: str) -> AsyncIterator[None]:
    """A server that refuses writes for this cause."""
    if cause == "misconf":
        await unsaved(corner, server)
    else:
        await TROUBLES[cause][0](corner)
    try:
        yield
    finally:
        if cause == "misconf":
            await saved(corner, server)
        else:
            await TROUBLES[cause][1](corner)


@pytest.mark.parametrize("cause", [*TROUBLES, "misconf"])
async def test_refusing(mortal: EmbeddedValkey, cause: str) -> None:
    """A Redis that refuses writes says so in one look, and its cause when asked to move a message,
    which stays where it is; when it takes writes again, the message is taken."""
    async with opened(mortal.url) as corner:
        intake = RedisIntake(corner.client, corner.keys)
        queue = RedisQueue(mortal.url, corner.client, corner.keys)
        try:
            await queue.send([b"kept"])
            before = await corner.contents()
            async with in_trouble(corner, mortal, cause):
                found = await intake.look()
                assert found.refusal.startswith("Redis takes no writes: ")
                with pytest.raises(StoreUnavailableError) as caught:
                    await queue.take()
                assert caught.value.cause == cause
                assert await corner.contents() == before
            assert (await intake.look()).refusal == ""
            assert await corner.contents() == before
            assert await queue.take() == b"kept"
        finally:
            await queue.close()


async def test_pause_is_kept(mortal: EmbeddedValkey) -> None:
    """A pause is found by each look until it is ended, with who, when and why; what cannot be read
    there is a pause all the same."""
    async with opened(mortal.url) as corner:
        intake = RedisIntake(corner.client, corner.keys)
        assert await intake.resume() is None
        assert await intake.pause("ann@desk", "first") is None
        assert await intake.pause("bob@desk", "second") is not None
        pause = (await intake.look()).pause
        assert pause is not None
        assert (pause.by, pause.reason) == ("bob@desk", "second")
        assert pause.at_ms > 1_600_000_000_000
        assert await intake.resume() == pause
        assert (await intake.look()).pause is None
        for raw in (b"{", b'{"by": 1}', b"\xff", b'{"x":' + b"[" * 5000):
            await corner.client.set(corner.keys.pause, raw)
            assert (await intake.look()).pause == UNREADABLE
        await corner.client.delete(corner.keys.pause)
        await corner.client.lpush(corner.keys.pause, "x")
        assert (await intake.look()).pause == UNREADABLE


# --- The service.


async def saga(fleet: Fleet, *arguments: str) -> Ended:
    return await command(fleet.clean_environment(), *arguments)


async def stats(fleet: Fleet) -> dict[str, Any]:
    return (await saga(fleet, "stats", "--json")).document


def stopped(log: str) -> list[tuple[str, str]]:
    """What a replica has said of its intake."""
    lines = [json.loads(line) for line in log.splitlines() if line[:1] == "{"]
    return [(x["event"], x["reason"]) for x in lines if x["event"].startswith("intake.")]


async def test_operator(fleet: Fleet, mortal: EmbeddedValkey) -> None:
    """`saga pause` stops the intake of all replicas and nothing else, shows everywhere, and ends
    with `saga resume-intake`: then what waited is done."""
    ports = [free_port(), free_port()]
    replicas = [fleet.start(HTTP_PORT=str(port)) for port in ports]
    for port in ports:
        await until_ready(port, 200)
    told = await saga(fleet, "pause", "--reason", "new contracts")
    assert (told.status, told.out) == (
        0,
        "intake paused: no new messages are taken; sagas under way go on\n",
    )
    for port in ports:
        await until_ready(port, 503, "intake stopped (operator): paused by", "new contracts")
    assert await fleet.metric("saga_intake_paused", reason="operator") == 2
    assert await fleet.metric("saga_intake_paused") == 2
    await until(nobody_pops, mortal)
    sent = [message(f"paused-{number}") for number in range(4)]
    fleet.send(sent)
    counts = await stats(fleet)
    assert (counts["lists"]["inbound"], counts["lists"]["processing"]) == (len(sent), 0)
    assert list(counts["intake"]) == ["operator"]
    assert f"paused by {getpass.getuser()}@" in counts["intake"]["operator"]
    text = (await saga(fleet, "stats")).out
    assert "intake   stopped (operator): paused by " in text
    ended = (await saga(fleet, "resume-intake", "--json")).document
    assert (ended["paused"], ended["before"]["reason"]) == (False, "new contracts")
    evidence = await fleet.settled(sent)
    assert audit(evidence) == []
    for port in ports:
        await until_ready(port, 200)
    assert await fleet.metric("saga_intake_paused") == 0
    for replica in replicas:
        assert stopped(fleet.log(replica)) == [
            ("intake.stopped", "operator"),
            ("intake.resumed", "operator"),
        ]
    assert "intake   open" in (await saga(fleet, "stats")).out
    assert (await saga(fleet, "resume-intake")).out == "intake was not paused\n"


async def test_pause_refused(fleet: Fleet) -> None:
    """A reason that nobody would read is refused, and nothing is paused."""
    told = await saga(fleet, "pause", "--reason", "x" * 501)
    assert (told.status, told.err) == (1, "saga: --reason has 501 characters; 500 are the most\n")
    assert (await stats(fleet))["intake"] == {}


async def test_a_start_under_a_pause(fleet: Fleet) -> None:
    """A replica that starts during a pause takes nothing, and goes on with sagas under way."""
    with fleet.redis as client:
        client.lpush(fleet.settings.INBOUND_QUEUE, raw := message("early"))
    first = fleet.start()
    await fleet.until_logged(first, "saga.moved")
    fleet.kill(first)
    assert (await saga(fleet, "pause")).status == 0
    fleet.send([late := message("late")])
    port = free_port()
    fleet.start(HTTP_PORT=str(port))
    await until_ready(port, 503, "operator")
    await fleet.until_counted(State.ACKED, 1, seconds=SECONDS)
    assert (await stats(fleet))["lists"]["inbound"] == 1
    assert (await saga(fleet, "resume-intake")).status == 0
    assert audit(await fleet.settled([raw, late])) == []


async def test_outbound_depth(fleet: Fleet) -> None:
    """While more events than OUTBOUND_MAX_DEPTH wait, nothing is taken; below 90 % of it, work
    goes on alone."""
    fleet.environment["OUTBOUND_MAX_DEPTH"] = "10"
    outbound = fleet.settings.OUTBOUND_QUEUE
    with fleet.redis as client:
        client.lpush(outbound, *(["somebody's"] * 11))
        port = free_port()
        fleet.start(HTTP_PORT=str(port))
        await until_ready(port, 503, "intake stopped (outbound_depth): 11 events")
        fleet.send([raw := message("waits")])
        assert list((await stats(fleet))["intake"]) == ["outbound_depth"]
        assert await fleet.metric("saga_intake_paused", reason="outbound_depth") == 1
        client.rpop(outbound, 2)
        await until_ready(port, 503, "9 events")
        assert client.llen(fleet.settings.INBOUND_QUEUE) == 1
        client.rpop(outbound, 1)
        await until_ready(port, 200)
        await fleet.until_counted(State.ACKED, 1, seconds=SECONDS)
        client.lrem(outbound, 0, "somebody's")
    assert audit(await fleet.settled([raw])) == []


@pytest.mark.parametrize("cause", ["oom", "no_replicas"])
async def test_store(fleet: Fleet, mortal: EmbeddedValkey, cause: str) -> None:
    """While Redis refuses writes, nothing is taken or lost and the process lives; then work goes
    on alone."""
    port = free_port()
    replica = fleet.start(HTTP_PORT=str(port))
    await until_ready(port, 200)
    raws = [message(f"{cause}-{number}") for number in range(5)]
    fleet.send(raws)
    await fleet.until_logged(replica, "saga.moved")
    async with opened_here(mortal.url) as corner, in_trouble(corner, mortal, cause):
        await until_ready(port, 503, "intake stopped (store): Redis takes no writes")
        assert await fleet.metric("saga_intake_paused", reason="store") == 1
        assert list((await stats(fleet))["intake"]) == ["store"]
    await until_ready(port, 200)
    assert audit(await fleet.settled(raws)) == []
    await fleet.until_logged(replica, "redis.back")
    lines = [json.loads(line)["event"] for line in fleet.log(replica).splitlines()]
    assert lines.count("redis.unavailable") == 1
    assert lines.count("redis.back") == 1


@asynccontextmanager
async def opened_here(url: str) -> AsyncIterator[Corner]:
    """A corner of the fleet's own Redis, which is not cleared."""
    client = connect(url)
    try:
        yield Corner(client)
    finally:
        await client.aclose()
