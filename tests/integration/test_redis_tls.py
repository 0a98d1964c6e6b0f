"""REDIS_URL over TLS, with certificates of the test's own before a real Valkey."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from redis import Redis

from adapters import redis_client
from adapters.embedded import EmbeddedAnvil, EmbeddedValkey
from adapters.preflight import check_redis
from adapters.redis_client import connect
from adapters.redis_queue import RedisQueue
from saga.audit import audit
from saga.config import StoreSettings
from saga.model import State
from saga.redis_url import RedisServer
from saga.store import open_store
from tests.integration.lua.store import Corner
from tests.support.chain import Node
from tests.support.fleet import REFUSED_TO_START, Fleet, message
from tests.support.tls import Authority, Papers, tls_before

PASSWORD = "5ecret"
USER = "listener"
REFUSED_OURS = (
    "REDIS_URL: Redis refuses our certificate, or wants one; set REDIS_CERT_FILE and "
    "REDIS_KEY_FILE to one that it trusts"
)


class World(NamedTuple):
    """An authority, the server's certificate and ours, and those of a stranger."""

    authority: Authority
    server: Papers
    client: Papers
    stranger: Authority
    impostor: Papers


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("tls")
    authority, stranger = Authority(folder, "authority"), Authority(folder, "stranger")
    return World(
        authority,
        authority.issue("server", "localhost"),
        authority.issue("client"),
        stranger,
        stranger.issue("impostor", "localhost"),
    )


@pytest.fixture(scope="module")
def guarded() -> Iterator[EmbeddedValkey]:
    """A Valkey that lets nobody in but one ACL user."""
    with EmbeddedValkey() as server:
        with Redis.from_url(server.url) as client:
            client.acl_setuser(
                USER, enabled=True, passwords=[f"+{PASSWORD}"], keys=["*"], categories=["+@all"]
            )
            client.acl_setuser("default", enabled=False)
        yield server


def at(port: int, *, host: str = "localhost", user: str = USER, password: str = PASSWORD) -> str:
    return f"rediss://{user}:{password}@{host}:{port}/0"


def ours(url: str, world: World, papers: Papers | None = None) -> RedisServer:
    """The server as it is told from the settings; with a certificate, or without."""
    return RedisServer(
        url,
        ca_file=str(world.authority.cert),
        cert_file=None if papers is None else str(papers.cert),
        key_file=None if papers is None else str(papers.key),
    )


async def lines(server: RedisServer) -> list[str]:
    client = connect(server, retries=0)
    try:
        return await check_redis(client)
    finally:
        await client.aclose()


async def test_trusted(world: World, guarded: EmbeddedValkey) -> None:
    """A server of our authority lets in who shows a certificate of it, with an ACL user: for
    commands and for blocking pops."""
    with tls_before(guarded.port, world.server, clients_of=world.authority) as port:
        server = ours(at(port), world, world.client)
        assert await lines(server) == []
        client = connect(server)
        queue = RedisQueue(server, client, Corner(client).keys)
        try:
            assert await client.acl_whoami() in (USER, USER.encode())
            await queue.send([b"hello"])
            assert await queue.take() == b"hello"
            assert await queue.take() is None
        finally:
            await queue.close()
            await client.aclose()


async def test_commands(world: World, guarded: EmbeddedValkey) -> None:
    """What the operator's commands open goes the same way."""
    with tls_before(guarded.port, world.server, clients_of=world.authority) as port:
        settings = StoreSettings.model_validate(
            {
                "REDIS_URL": at(port),
                "REDIS_CA_FILE": str(world.authority.cert),
                "REDIS_CERT_FILE": str(world.client.cert),
                "REDIS_KEY_FILE": str(world.client.key),
            }
        )
        async with open_store(settings) as (views, queue):
            await queue.send([b"hello"])
            assert (await views.depths())["inbound"] == 1
            assert await queue.take() == b"hello"


async def test_wrong_authority(world: World, guarded: EmbeddedValkey) -> None:
    """A server whose certificate is another authority's is refused, in one line without secrets."""
    with tls_before(guarded.port, world.impostor) as port:
        (line,) = await lines(ours(at(port), world))
    assert line.startswith("REDIS_URL: the certificate of Redis is refused (")
    assert "REDIS_CA_FILE names whom to trust" in line
    assert PASSWORD not in line


async def test_system_authorities(world: World, guarded: EmbeddedValkey) -> None:
    """Without REDIS_CA_FILE only the system's authorities count."""
    with tls_before(guarded.port, world.server) as port:
        (line,) = await lines(RedisServer(at(port)))
    assert "the certificate of Redis is refused" in line


async def test_other_host(world: World, guarded: EmbeddedValkey) -> None:
    """A certificate of our authority for another host is refused: by name, and by address."""
    with tls_before(guarded.port, world.server) as port:
        (line,) = await lines(ours(at(port, host="127.0.0.1"), world))
    assert "the certificate of Redis is refused" in line
    assert "127.0.0.1" in line


@pytest.mark.parametrize("shown", ["none", "another's"])
async def test_our_certificate(world: World, guarded: EmbeddedValkey, shown: str) -> None:
    """Where the server asks for a certificate, no one and a stranger's are refused, in one line."""
    papers = None if shown == "none" else world.impostor
    with tls_before(guarded.port, world.server, clients_of=world.authority) as port:
        assert await lines(ours(at(port), world, papers)) == [REFUSED_OURS]


@pytest.mark.parametrize("changes", [{"user": "default"}, {"password": "wrong"}])
async def test_acl_user(world: World, guarded: EmbeddedValkey, changes: dict[str, str]) -> None:
    """TLS alone opens nothing: the ACL user and its password must be right."""
    with tls_before(guarded.port, world.server) as port:
        assert await lines(ours(at(port, **changes), world)) == [
            "REDIS_URL: Redis refused the credentials; give redis://user:password@host"
        ]


async def test_plain_text_to_tls(
    world: World, guarded: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plain text to a server that speaks TLS gets nowhere, and TLS to one that does not."""
    monkeypatch.setattr(redis_client, "SOCKET_TIMEOUT_SECONDS", 0.5)
    with tls_before(guarded.port, world.server) as port:
        for url in (f"redis://localhost:{port}/0", f"rediss://localhost:{guarded.port}/0"):
            (line,) = await lines(RedisServer(url))
            assert line.startswith("REDIS_URL: Redis does not answer")


async def test_service(
    world: World,
    guarded: EmbeddedValkey,
    own_anvil: EmbeddedAnvil,
    own_node: Node,
    tmp_path: Path,
) -> None:
    """In production a service deploys over TLS alone: plain text is refused at the start."""
    with Redis.from_url(f"redis://{USER}:{PASSWORD}@127.0.0.1:{guarded.port}/0") as plain:
        plain.flushall()
    sent = [message(f"tls-{number}") for number in range(3)]
    with tls_before(guarded.port, world.server, clients_of=world.authority) as port:
        settings = {
            "APP_ENV": "production",
            "REDIS_CA_FILE": str(world.authority.cert),
            "REDIS_CERT_FILE": str(world.client.cert),
            "REDIS_KEY_FILE": str(world.client.key),
        }
        with Fleet(at(port), own_anvil.url, own_node.contracts, tmp_path, **settings) as fleet:
            bare = f"redis://{USER}:{PASSWORD}@127.0.0.1:{guarded.port}/0"
            files = dict.fromkeys(list(settings)[1:], "")
            refused = fleet.start(REDIS_URL=bare, **files)
            assert refused.wait(20) == REFUSED_TO_START
            assert "in plain text, which APP_ENV=production refuses" in fleet.log(refused)
            assert PASSWORD not in fleet.log(refused)
            running = fleet.start()
            async with open_store(fleet.settings) as (_, queue):
                await queue.send(sent)
            evidence = await fleet.settled(sent)
            assert audit(evidence) == []
            assert {saga.state for saga in evidence.sagas.values()} == {State.ACKED}
            assert fleet.stop() == [0]
            assert PASSWORD not in fleet.log(running)
