"""Redis behind sentinels: a primary that dies in the middle, and a replica that lacks writes."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest
from redis import Redis

from adapters.embedded import EmbeddedAnvil, EmbeddedValkey
from adapters.preflight import check_redis
from adapters.redis_client import connect
from adapters.redis_queue import RedisQueue
from saga.audit import audit
from saga.errors import StoreUnavailableError
from saga.model import Saga, State
from saga.store import open_store
from tests.integration.lua.store import Corner
from tests.support.chain import Node
from tests.support.fleet import LOOK_SECONDS, Fleet, message
from tests.support.sentinel import SERVICE, EmbeddedSentinel

SENTINEL_PASSWORD = "wat5her"
MESSAGES = 16
LOST = 8
"""Messages whose every trace in Redis is lost."""


class Watched(NamedTuple):
    """A primary and its replica, and who watches them."""

    primary: EmbeddedValkey
    replica: EmbeddedValkey
    sentinels: Sequence[EmbeddedSentinel]

    @property
    def hosts(self) -> str:
        return ",".join(f"127.0.0.1:{each.port}" for each in self.sentinels)

    @property
    def url(self) -> str:
        return f"redis+sentinel://{self.hosts}/{SERVICE}/0?sentinel_password={SENTINEL_PASSWORD}"

    def cut(self) -> None:
        """From now on the primary's writes do not reach the replica: it is let in no more."""
        with Redis.from_url(self.replica.url) as client:
            client.config_set("masteruser", "nobody")
            client.config_set("masterauth", "nothing")
            client.client_kill_filter(_type="master")

    async def failed_over(self) -> None:
        """Wait until every sentinel names the replica."""
        await until(lambda: all(s.primary() == self.replica.port for s in self.sentinels))


async def until(done: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline
        await asyncio.sleep(LOOK_SECONDS)


@pytest.fixture
async def watched() -> AsyncIterator[Watched]:
    """All know each other."""
    with ExitStack() as stack:
        primary = stack.enter_context(EmbeddedValkey("--repl-diskless-sync-delay", "0"))
        replica = stack.enter_context(EmbeddedValkey("--replicaof", f"127.0.0.1 {primary.port}"))
        sentinels = [
            stack.enter_context(
                EmbeddedSentinel(primary.port, quorum=2, password=SENTINEL_PASSWORD)
            )
            for _ in range(3)
        ]
        await until(lambda: all(s.knows(replicas=1, sentinels=2) for s in sentinels))
        yield Watched(primary, replica, sentinels)


async def test_commands_follow(watched: Watched) -> None:
    """After a failover, and a demotion, commands and blocking pops go to the new primary by
    themselves; until then the store is unavailable."""
    client = connect(watched.url)
    corner = Corner(client)
    queue = RedisQueue(watched.url, client, corner.keys)
    try:
        assert await check_redis(client) == []
        await queue.send([b"before"])
        assert await queue.take() == b"before"
        with watched.sentinels[0].client() as asked:
            asked.execute_command("SENTINEL", "FAILOVER", SERVICE)
        await watched.failed_over()
        demote(watched.primary, watched.replica.port)
        await until(lambda: follows(watched.primary))
        await queue.send([b"demoted"])
        with pytest.raises(StoreUnavailableError, match="is now a slave"):
            await queue.take()  # which is never repeated by itself
        assert await queue.take() == b"demoted"
        watched.replica.kill()
        with pytest.raises(StoreUnavailableError):
            await queue.send([b"refused"])
        await until(lambda: all(s.primary() == watched.primary.port for s in watched.sentinels))
        await queue.send([b"back"])
        assert await queue.take() == b"back"
        assert await queue.unfinished() == [b"before", b"demoted", b"back"]
    finally:
        await queue.close()
        await client.aclose()


def demote(server: EmbeddedValkey, port: int) -> None:
    """What a sentinel does by itself, some ten seconds after the failover."""
    with Redis.from_url(server.url) as client:
        client.replicaof("127.0.0.1", str(port))


def follows(server: EmbeddedValkey) -> bool:
    """Whether it is a replica that is up to date."""
    with Redis.from_url(server.url) as client:
        return bool(client.info("replication").get("master_link_status") == "up")


async def test_dead_sentinels(watched: Watched) -> None:
    """One sentinel that answers is enough; a wrong name, and none, are one line each."""
    for sentinel in watched.sentinels[:2]:
        sentinel.kill()
    assert await lines(watched.url) == []
    unknown = watched.url.replace(f"/{SERVICE}/", "/another/")
    (line,) = await lines(unknown.replace(watched.hosts, watched.hosts.split(",")[2]))
    assert line.startswith("REDIS_URL: the sentinels know no primary of this name")
    watched.sentinels[2].kill()
    (line,) = await lines(watched.url)
    assert line.startswith("REDIS_URL: Redis does not answer")
    assert SENTINEL_PASSWORD not in line


async def test_sentinel_password(watched: Watched) -> None:
    """Without the sentinels' own password they say nothing, and that is told as such."""
    (line,) = await lines(watched.url.partition("?")[0])
    assert line == (
        "REDIS_URL: the sentinels refuse the credentials; end it with ?sentinel_password=…"
    )


async def lines(url: str) -> list[str]:
    client = connect(url, retries=0)
    try:
        return await check_redis(client)
    finally:
        await client.aclose()


async def test_failover_that_loses_writes(
    watched: Watched, own_anvil: EmbeddedAnvil, own_node: Node, tmp_path: Path
) -> None:
    """When the primary dies with writes that its replica never saw, each model has one token once
    the messages that were lost are sent again."""
    kept = [message(f"kept-{number}") for number in range(MESSAGES - LOST)]
    lost = [message(f"lost-{number}") for number in range(LOST)]
    with Fleet(watched.url, own_anvil.url, own_node.contracts, tmp_path) as fleet:
        fleet.start()
        await fleet.until_started()
        fleet.start()
        await fleet.until_started()
        async with open_store(fleet.settings) as (_, queue):
            await queue.send(kept)
            await fleet.until(lambda sagas, _: out(sagas) >= len(kept) / 2, seconds=20)
            watched.cut()
            await queue.send(lost)
            before = own_node.nonce()
            await until(lambda: own_node.nonce() > before + LOST)
            watched.primary.kill()
            await watched.failed_over()
            await queue.send([*kept, *lost])
        evidence = await fleet.settled([*kept, *lost], seconds=40)
        assert audit(evidence) == []
        assert {saga.state for saga in evidence.sagas.values()} == {State.ACKED}
        assert len(evidence.contracts) == MESSAGES
        assert all(len(found) == 1 for found in evidence.contracts.values())
        assert len(fleet.alive) == 2


def out(sagas: dict[str, Saga]) -> int:
    """How many have had a transaction."""
    return sum(saga.deploy is not None for saga in sagas.values())
