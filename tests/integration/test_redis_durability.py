"""REDIS_DURABILITY: nothing is sent before what is stored of it would outlive the server."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from adapters import redis_durable
from adapters.embedded import EmbeddedAnvil, EmbeddedValkey
from adapters.preflight import check_redis
from adapters.redis_client import connect
from adapters.redis_durable import Durability
from adapters.redis_lane import RedisLane
from saga.audit import audit
from saga.errors import HeldError, LeaseLostError, StoreUnavailableError
from saga.model import Saga, State
from tests.integration.lua.store import Corner, Worker, intent, opened
from tests.integration.test_preflight import redis_that_says
from tests.support.chain import Node
from tests.support.fleet import Fleet, message
from tests.support.lane import AT_ONCE, NO_BUMPS, lane_side


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """What never comes is not waited for as long as in a service."""
    monkeypatch.setattr(redis_durable, "WAIT_MS", 300)


@pytest.fixture(scope="module")
def primary() -> Iterator[EmbeddedValkey]:
    """A Valkey of this module's own, that others may follow."""
    with EmbeddedValkey("--repl-diskless-sync-delay", "0") as server:
        yield server


@pytest.fixture
def replica(primary: EmbeddedValkey) -> Iterator[EmbeddedValkey]:
    """One that follows it; it catches up while a test goes on."""
    with EmbeddedValkey("--replicaof", f"127.0.0.1 {primary.port}") as server:
        yield server


async def intended(corner: Corner, durability: Durability) -> tuple[Worker, Saga]:
    """A saga with a stored intent, and the journal that stored it."""
    worker = corner.worker(durability=durability)
    saga = await corner.begin_in(worker, State.VALIDATED)
    stored = (await worker.propose(saga, intent(0), spent=0, known=0)).saga
    assert stored is not None
    return worker, stored


async def attached(corner: Corner) -> None:
    """Wait until the replica has all that was written before it came."""
    deadline = time.monotonic() + 20
    while (await corner.client.info("replication")).get("slave0", {}).get("state") != "online":
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def held(worker: Worker, saga: Saga) -> str:
    """Why the saga must not send."""
    with pytest.raises(HeldError) as found:
        await worker.settle(saga)
    assert found.value.hold == "durability"
    return str(found.value)


async def naive(primary: EmbeddedValkey, *wait: str | int) -> object:
    """What a wait on a connection of its own, which has written nothing, is told."""
    client: Any = connect(primary.url)
    try:
        return await client.execute_command(*wait)
    finally:
        await client.aclose()


async def test_on_disk(primary: EmbeddedValkey) -> None:
    """With `aof` an intent that is not on the disk holds its saga, whichever connection wrote it;
    a wait on another connection would let it pass."""
    async with opened(primary.url) as corner:
        await corner.client.config_set("appendfsync", "no")
        try:
            worker, saga = await intended(corner, "aof")
            assert await naive(primary, "WAITAOF", 1, 0, 300) == [1, 0]
            assert "REDIS_DURABILITY=aof: not on the disk" in await held(worker, saga)
            await corner.client.config_set("appendfsync", "everysec")
            redis_durable.WAIT_MS = 3000
            await worker.settle(saga)
        finally:
            await corner.client.config_set("appendfsync", "everysec")


async def test_on_a_replica(primary: EmbeddedValkey, replica: EmbeddedValkey) -> None:
    """With `replica` a saga is held while its intent is on no replica; it goes on when it is."""
    async with opened(primary.url) as corner:
        await attached(corner)
        worker, saga = await intended(corner, "replica")
        redis_durable.WAIT_MS = 3000
        await worker.settle(saga)
        replica.pause()
        redis_durable.WAIT_MS = 300
        assert await naive(primary, "WAIT", 1, 300) == 1
        assert "REDIS_DURABILITY=replica: not on any replica" in await held(worker, saga)
        replica.go_on()
        redis_durable.WAIT_MS = 3000
        await worker.settle(saga)


async def test_without_a_replica(primary: EmbeddedValkey) -> None:
    """Where there is no replica at all, `replica` holds every saga."""
    async with opened(primary.url) as corner:
        assert "not on any replica" in await held(*await intended(corner, "replica"))


async def test_none(primary: EmbeddedValkey) -> None:
    """Without REDIS_DURABILITY nothing is waited for, and nothing is written."""
    async with opened(primary.url) as corner:
        worker, saga = await intended(corner, "none")
        before = await corner.contents()
        await worker.settle(saga)
        assert await corner.contents() == before


async def test_lost_write(primary: EmbeddedValkey) -> None:
    """An intent that a server does not have, as after a failover, is not sent: the saga is given
    up, by a fleet that then reads what there is."""
    async with opened(primary.url) as corner:
        redis_durable.WAIT_MS = 3000
        worker, saga = await intended(corner, "aof")
        await corner.client.hincrby(corner.keys.saga(saga.id), "version", -1)
        with pytest.raises(LeaseLostError, match="the write is lost"):
            await worker.settle(saga)


async def test_shared(primary: EmbeddedValkey) -> None:
    """Fifty sagas that wait at once share the waits, and each learns of its own loss alone."""
    async with opened(primary.url) as corner:
        redis_durable.WAIT_MS = 3000
        worker = corner.worker(durability="aof")
        sagas = [await corner.begin(worker, message(f"model_{number}")) for number in range(50)]
        await corner.client.hset(corner.keys.saga(sagas[7].id), "owner", "another")
        await corner.client.config_resetstat()
        answers = await asyncio.gather(
            *(worker.settle(saga) for saga in sagas), return_exceptions=True
        )
        calls = (await corner.client.info("commandstats"))["cmdstat_waitaof"]["calls"]
        assert calls <= 2
        lost = [number for number, answer in enumerate(answers) if answer is not None]
        assert lost == [7]
        assert isinstance(answers[7], LeaseLostError)


async def test_cancelled(primary: EmbeddedValkey) -> None:
    """Whose saga is cancelled while its round is under way takes nobody along."""
    async with opened(primary.url) as corner:
        redis_durable.WAIT_MS = 3000
        worker = corner.worker(durability="aof")
        sagas = [await corner.begin(worker, message(f"model_{number}")) for number in range(3)]
        await corner.client.config_set("appendfsync", "no")
        first, *others = [asyncio.create_task(worker.settle(saga)) for saga in sagas]
        while not (await corner.client.info("clients"))["blocked_clients"]:
            assert not first.done()
            await asyncio.sleep(0.01)
        first.cancel()
        await corner.client.config_set("appendfsync", "everysec")
        await asyncio.gather(*others)
        with pytest.raises(asyncio.CancelledError):
            await first


async def test_no_append_only_file(primary: EmbeddedValkey) -> None:
    """A server that has stopped keeping its file holds sagas, in its own words."""
    async with opened(primary.url) as corner:
        worker, saga = await intended(corner, "aof")
        await corner.client.config_set("appendonly", "no")
        try:
            assert "REDIS_DURABILITY=aof: Redis: WAITAOF cannot be used" in await held(worker, saga)
        finally:
            await corner.client.config_set("appendonly", "yes")


async def test_redis_away() -> None:
    """Without Redis the store is unavailable, for all that wait."""
    with EmbeddedValkey() as server:
        async with opened(server.url) as corner:
            worker, saga = await intended(corner, "aof")
            server.kill()
            answers = await asyncio.gather(
                *(worker.settle(saga) for _ in range(20)), return_exceptions=True
            )
            assert {type(answer) for answer in answers} == {StoreUnavailableError}
            server.start()


async def test_the_keeper_waits(primary: EmbeddedValkey, node: Node) -> None:
    """A keeper sends nothing, not even again, that would not outlive the server."""
    async with lane_side(node, primary.url) as lane:
        saga = await lane.intended("kept")
        assert saga.deploy is not None
        careful = RedisLane(
            lane.corner.client,
            lane.corner.keys,
            chain_id=node.chain_id,
            sender=lane.lane.sender,
            durability="replica",
        )
        node.hold_blocks()
        keeper = lane._replace(lane=careful).keeper(pace=AT_ONCE)
        for _ in range(5):
            await keeper.round()
        assert lane.in_pool == 0
        assert "REDIS_DURABILITY=replica" in keeper.hold
        await keeper.resign()
        trusting = lane.keeper("other", pace=AT_ONCE)
        for _ in range(5):
            await trusting.round()
        assert lane.in_pool == 1


async def test_the_keeper_waits_once(primary: EmbeddedValkey, node: Node) -> None:
    """However many nonces are due, a keeper's round waits once for what is on no replica."""
    node.mine()  # what another test has left in the pool
    async with lane_side(node, primary.url) as lane:
        for name in ("one", "two", "three", "four"):
            await lane.intended(name)
        careful = RedisLane(
            lane.corner.client,
            lane.corner.keys,
            chain_id=node.chain_id,
            sender=lane.lane.sender,
            durability="replica",
        )
        node.hold_blocks()
        keeper = lane._replace(lane=careful).keeper(pace=NO_BUMPS)
        await lane.corner.client.config_resetstat()
        await keeper.round()
        calls = (await lane.corner.client.info("commandstats"))["cmdstat_wait"]["calls"]
        assert calls == 1
        assert lane.in_pool == 0
        trusting = lane.keeper("other", pace=NO_BUMPS)
        await keeper.resign()
        await trusting.round()
        assert lane.in_pool == 4


# --- The start.


async def lines(url: str, durability: Durability) -> list[str]:
    client = connect(url)
    try:
        return await check_redis(client, durability)
    finally:
        await client.aclose()


@pytest.mark.parametrize("version", ["6.2.14", "7.0.15"])
async def test_too_old(version: str) -> None:
    """A Redis that has no WAITAOF is refused for `aof`, and for nothing else."""
    info = f"redis_version:{version}\r\nredis_mode:standalone\r\naof_enabled:1\r\n"
    async with redis_that_says(info) as url:
        assert await lines(url, "aof") == [
            (
                f"REDIS_DURABILITY: aof needs WAITAOF, which Redis {version} lacks; 7.2 or newer "
                "has it; set it to replica, or none"
            )
        ]
        assert await lines(url, "replica") == []


async def test_aof_off(primary: EmbeddedValkey) -> None:
    """A Redis without its append-only file is refused for `aof`."""
    async with opened(primary.url) as corner:
        assert await lines(primary.url, "aof") == []
        await corner.client.config_set("appendonly", "no")
        try:
            assert await lines(primary.url, "aof") == [
                (
                    "REDIS_DURABILITY: aof, and this Redis keeps no append-only file; set its "
                    "appendonly to yes"
                )
            ]
        finally:
            await corner.client.config_set("appendonly", "yes")


# --- The whole service.


async def test_service(own_anvil: EmbeddedAnvil, own_node: Node, tmp_path: Path) -> None:
    """While no replica has the intents, nothing is sent and no retry is used up; with one, each
    model gets its token."""
    sent = [message(f"durable-{number}") for number in range(5)]
    with (
        EmbeddedValkey("--repl-diskless-sync-delay", "0") as primary,
        Fleet(
            primary.url,
            own_anvil.url,
            own_node.contracts,
            tmp_path,
            REDIS_DURABILITY="replica",
        ) as fleet,
    ):
        before = own_node.nonce()
        fleet.start()
        fleet.send(sent)
        await fleet.until(all_held)
        assert own_node.nonce() == before
        assert own_node.nonce(block="pending") == before
        with EmbeddedValkey("--replicaof", f"127.0.0.1 {primary.port}"):
            evidence = await fleet.settled(sent)
        assert audit(evidence) == []
        assert {saga.state for saga in evidence.sagas.values()} == {State.ACKED}


def all_held(sagas: dict[str, Saga], _depths: dict[str, int]) -> bool:
    """Every saga waits, with its intent stored."""
    waiting = [
        saga
        for saga in sagas.values()
        if saga.deploy is not None
        and (saga.error or "").startswith("held: REDIS_DURABILITY=replica")
        and saga.attempts == 0
    ]
    return len(waiting) == 5
