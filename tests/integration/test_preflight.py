"""Laws of the checks before the first message: a line for each problem, none for nothing."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis

from adapters.embedded import (
    DEV_ACCOUNT,
    DEV_MNEMONIC_KEY,
    EmbeddedValkey,
    free_port,
)
from adapters.preflight import check_chain, check_redis
from adapters.redis_client import connect
from adapters.redis_keys import RedisKeys
from adapters.rpc_pool import RpcPool
from adapters.strategies import PROXY
from saga.config import Settings
from saga.errors import Absence
from tests.support import proxy as faults
from tests.support.chain import STRANGER, Node, StrategyName
from tests.support.proxy import open_proxy

NOWHERE = "0x00000000000000000000000000000000000000AA"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _undone(node: Node) -> Iterator[None]:
    with node.rolled_back():
        yield


async def problems(
    node: Node,
    strategy: StrategyName = "manager",
    *,
    url: str | list[str] | None = None,
    expected_chain: int | None = None,
    sender: str = DEV_ACCOUNT,
    registry: str | None = None,
    manager: str | None = None,
    finality: bool = False,
) -> list[str]:
    """The lines about the chain."""
    urls = url if isinstance(url, list) else [url or node.url]
    rpc = RpcPool(urls, expected_chain=expected_chain)
    try:
        _, lines = await check_chain(
            rpc,
            expected_chain=expected_chain,
            senders=[sender],
            source="DEPLOYER_PRIVATE_KEY",
            registry=registry or node.registry,
            manager=manager or node.manager,
            create2=strategy == "create2",
            finality=finality,
        )
    finally:
        await rpc.close()
    return lines


@pytest.mark.parametrize("strategy", ["manager", "create2"])
async def test_all_is_well(node: Node, strategy: StrategyName) -> None:
    """Where nothing is wrong, nothing is said."""
    assert await problems(node, strategy, expected_chain=node.chain_id) == []


async def test_chain_id(node: Node) -> None:
    """The chain id is the node's own."""
    rpc = RpcPool([node.url])
    try:
        chain_id, _ = await check_chain(
            rpc,
            expected_chain=None,
            senders=[DEV_ACCOUNT],
            source="DEPLOYER_PRIVATE_KEY",
            registry=node.registry,
            manager=node.manager,
            create2=False,
        )
    finally:
        await rpc.close()
    assert chain_id == node.chain_id


async def test_wrong_chain(node: Node) -> None:
    """On another chain than CHAIN_ID says that is the one line: all else would mislead."""
    (line,) = await problems(node, expected_chain=1, registry=NOWHERE)
    assert line.startswith("CHAIN_ID is 1, but WEB3_PROVIDER_URL: ")
    assert "31337" in line


async def test_node_away(node: Node) -> None:
    """Without a node that is the one line, without the path of its URL."""
    (line,) = await problems(node, url=f"http://user:secret@127.0.0.1:{free_port()}/secret")
    assert line.startswith("WEB3_PROVIDER_URL: no node answers (http://127.0.0.1:")
    assert "secret" not in line


async def test_node_goes_away(node: Node) -> None:
    """A node that is lost between two questions is the one line."""
    async with open_proxy(node.url) as proxy:
        proxy.once("eth_getCode", faults.lost_request)
        assert await problems(node, url=proxy.url) == [
            f"WEB3_PROVIDER_URL: {proxy.url} batch: ServerDisconnectedError"
        ]


@pytest.mark.parametrize("method", ["eth_getCode", "eth_call", "eth_getBalance"])
async def test_node_error(node: Node, method: str) -> None:
    """A node's own error is the node's line, not one about contracts, roles or funds."""
    async with open_proxy(node.url) as proxy:
        proxy.once(method, faults.rpc_error(method, -32005, "request limit reached"))
        assert await problems(node, url=proxy.url) == [
            f"WEB3_PROVIDER_URL: {proxy.url} {method}: request limit reached (code -32005)"
        ]


async def test_registry_without_code(node: Node) -> None:
    """A registry address without a contract is one line, with the way to get one."""
    assert await problems(node, registry=NOWHERE) == [
        (
            f"MODEL_REGISTRY_ADDRESS: no contract at {NOWHERE} on this chain; "
            "for a development chain: `saga contracts deploy`"
        )
    ]


async def test_manager_without_code(node: Node) -> None:
    """A manager address without a contract is one line, with the way to get one."""
    assert await problems(node, manager=NOWHERE) == [
        (
            f"TOKEN_MANAGER_ADDRESS: no contract at {NOWHERE} on this chain; "
            "for a development chain: `saga contracts deploy`"
        )
    ]


async def test_another_contract(node: Node) -> None:
    """A contract that knows no roles is the wrong one."""
    assert await problems(node, registry=PROXY) == [
        f"MODEL_REGISTRY_ADDRESS: role REGISTRAR_ROLE cannot be read; {PROXY} is another contract"
    ]


async def test_roles(node: Node) -> None:
    """Each missing role is one line that says who has to grant what to whom, and where."""
    registrar = (
        f"MODEL_REGISTRY_ADDRESS: role REGISTRAR_ROLE is missing for {STRANGER}; as its admin: "
        f"grantRole(keccak256('REGISTRAR_ROLE'), {STRANGER}) on {node.registry}"
    )
    deployer = (
        f"TOKEN_MANAGER_ADDRESS: role DEPLOYER_ROLE is missing for {STRANGER}; as its admin: "
        f"grantRole(keccak256('DEPLOYER_ROLE'), {STRANGER}) on {node.manager}"
    )
    assert await problems(node, sender=STRANGER) == [registrar, deployer]
    assert await problems(node, "create2", sender=STRANGER) == [registrar]


async def test_balance(node: Node) -> None:
    """A key without funds is one line with its address."""
    node.request("anvil_setBalance", DEV_ACCOUNT, "0x0")
    assert await problems(node) == [
        f"DEPLOYER_PRIVATE_KEY: {DEV_ACCOUNT} has no funds on this chain; send it some"
    ]


async def test_create2_proxy(node: Node) -> None:
    """Without the proxy only `create2` has a problem."""
    node.request("anvil_setCode", PROXY, "0x")
    assert await problems(node) == []
    assert await problems(node, "create2") == [
        (
            f"DEPLOY_STRATEGY=create2: no contract at {PROXY} on this chain; "
            "`saga contracts deploy` installs it"
        )
    ]


async def test_no_finality(node: Node) -> None:
    """CONFIRMATIONS=finalized on a node that knows no such block is one line with the way out."""
    assert await problems(node, finality=True) == []
    method = "eth_getBlockByNumber"
    async with open_proxy(node.url) as proxy:
        proxy.always(method, faults.rpc_error(method, -39001, "finalized block not found"))
        assert await problems(node, url=proxy.url) == []
        (line,) = await problems(node, url=proxy.url, finality=True)
    assert line.startswith("CONFIRMATIONS: ")
    assert "give a number of blocks" in line


async def test_no_base_fee(node: Node) -> None:
    """A chain from before EIP-1559 is no problem."""
    old_block = faults.each_call(
        lambda call: {"result": {}} if call["method"] == "eth_getBlockByNumber" else None
    )
    async with open_proxy(node.url) as proxy:
        proxy.always("eth_getBlockByNumber", old_block)
        assert await problems(node, url=proxy.url) == []


async def test_several_problems(node: Node) -> None:
    """Several problems are several lines, in the order of the settings."""
    node.request("anvil_setBalance", STRANGER, "0x0")
    node.request("anvil_setCode", PROXY, "0x")
    lines = await problems(node, "create2", sender=STRANGER, manager=NOWHERE)
    assert [line.split(":")[0] for line in lines] == [
        "TOKEN_MANAGER_ADDRESS",
        "MODEL_REGISTRY_ADDRESS",
        "DEPLOYER_PRIVATE_KEY",
        "DEPLOY_STRATEGY=create2",
    ]


# --- Redis.

LISTS = {"INBOUND_QUEUE": "in", "OUTBOUND_QUEUE": "out"}
KEYS = RedisKeys(inbound="in", processing="p", outbound="out", dead_letters="d")


async def redis_problems(url: str, *, keys: RedisKeys | None = None) -> list[str]:
    client: Redis = connect(url)
    try:
        return await check_redis(client, lists=LISTS if keys else None, keys=keys)
    finally:
        await client.aclose()


async def test_redis_is_well(valkey: EmbeddedValkey) -> None:
    """A Redis as the README wants it has no line."""
    assert await redis_problems(valkey.url) == []


async def test_redis_away() -> None:
    """Without Redis there is one line, without its password, and it is one to wait for."""
    found = await redis_problems(f"redis://:secret@127.0.0.1:{free_port()}/0")
    assert found == ["REDIS_URL: Redis does not answer (ConnectionError); is it running there?"]
    assert isinstance(found[0], Absence)


async def test_unknown_host() -> None:
    """A host that no name server knows yet is one to wait for, as a node is."""
    found = await redis_problems("redis://redis.invalid:6379/0")
    (line,) = found
    assert line.startswith("REDIS_URL: ")
    assert isinstance(line, Absence)


@pytest.mark.parametrize(
    ("keys", "commands", "what"),
    [
        (["*"], [], None),
        (["*"], ["-info"], "run INFO"),
        (["*"], ["-evalsha", "-type"], "run EVALSHA, TYPE"),
        (["*"], ["-@scripting"], "run SCRIPT LOAD, EVALSHA"),
        (["*"], ["-setrange"], "run SETRANGE"),
        (["in", "out"], [], "touch the keys hokusai:saga:*"),
        (["hokusai:saga:*"], [], "touch the keys in, out"),
        (["hokusai:saga:*", "in"], ["-info"], "run INFO or touch the keys out"),
    ],
)
async def test_not_allowed(
    valkey: EmbeddedValkey, keys: list[str], commands: list[str], what: str | None
) -> None:
    """All that Redis does not allow its user is one line, and finding it out changes nothing."""
    url = valkey.url.replace("://", "://part:pass@")
    client: Redis = connect(valkey.url)
    try:
        await client.acl_setuser(
            "part",
            enabled=True,
            passwords=["+pass"],
            keys=keys,
            commands=["+@all", *commands],
            reset=True,
        )
        before = await client.dbsize()
        found = await redis_problems(url, keys=KEYS)
        assert await client.dbsize() == before
    finally:
        await client.acl_deluser("part")
        await client.aclose()
    assert found == (
        [f"REDIS_URL: the user may not {what}: grant it (ACL SETUSER)"] if what else []
    )


async def test_not_a_database(valkey: EmbeddedValkey) -> None:
    """A database number that Redis does not have is one line about the number."""
    (line,) = await redis_problems(valkey.url.replace("/0", "/99"))
    assert line.startswith(
        "REDIS_URL: Redis refuses the database number (DB index is out of range)"
    )
    assert not isinstance(line, Absence)


async def test_no_sentinel(valkey: EmbeddedValkey) -> None:
    """An ordinary Redis where sentinels are meant is not called a matter of passwords."""
    (line,) = await redis_problems(f"redis+sentinel://127.0.0.1:{valkey.port}/main/0")
    assert "is no sentinel (port 26379?)" in line
    assert not isinstance(line, Absence)


async def test_redis_loading() -> None:
    """A Redis that still reads its data is one to wait for."""
    async with redis_that_says("redis_version:7.2.0\r\nloading:1\r\n") as url:
        (line,) = await redis_problems(url)
    assert line == "REDIS_URL: Redis is loading its data; it will answer when it has it"
    assert isinstance(line, Absence)


async def test_another_server(node: Node) -> None:
    """Where something else answers than Redis, there is nothing to wait for."""
    (line,) = await redis_problems(node.url.replace("http://", "redis://"))
    assert line.startswith("REDIS_URL: Redis does not answer (")
    assert not isinstance(line, Absence)


@pytest.mark.parametrize(
    ("status", "waits"), [(401, False), (404, False), (429, True), (503, True)]
)
async def test_node_refuses(node: Node, status: int, *, waits: bool) -> None:
    """An endpoint that answers, and not as a node does, is nothing to wait for; one that says "not
    now" is, and so is another that is away."""
    away = f"http://127.0.0.1:{free_port()}"
    async with open_proxy(node.url) as proxy:
        proxy.always("eth_chainId", faults.answer(b"no", status=status))
        (line,) = await problems(node, url=proxy.url)
        assert isinstance(line, Absence) is waits
        (line,) = await problems(node, url=[proxy.url, away])
        assert isinstance(line, Absence)


async def test_evicting_redis(valkey: EmbeddedValkey) -> None:
    """A Redis that may drop keys is one line that names the policy."""
    client: Redis = connect(valkey.url)
    try:
        await client.config_set("maxmemory-policy", "allkeys-lru")
        assert await check_redis(client) == [
            (
                "REDIS_URL: maxmemory-policy is allkeys-lru, so Redis may drop sagas; "
                "set it to noeviction"
            )
        ]
    finally:
        await client.config_set("maxmemory-policy", "noeviction")
        await client.aclose()


async def test_a_list_that_is_none(valkey: EmbeddedValkey) -> None:
    """Something else under the name of a list is one line with its setting; no list is well."""
    lists = {"INBOUND_QUEUE": "pf:in", "OUTBOUND_QUEUE": "pf:out", "FAILURE_QUEUE": "pf:failed"}
    client: Redis = connect(valkey.url)
    try:
        await client.lpush("pf:in", "a")
        await client.set("pf:out", "a")
        assert await check_redis(client, "none", lists) == [
            (
                "OUTBOUND_QUEUE: pf:out is a string in Redis, not a list; delete it, or name "
                "another list"
            )
        ]
        await client.delete("pf:out")
        assert await check_redis(client, "none", lists) == []
    finally:
        await client.delete("pf:in", "pf:out")
        await client.aclose()


@asynccontextmanager
async def redis_that_says(info: str) -> AsyncIterator[str]:
    """A server that speaks just enough of the protocol to answer INFO; its URL."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while header := await reader.readline():
            words = []
            for _ in range(int(header[1:])):
                await reader.readline()
                words.append((await reader.readline()).strip().upper())
            reply = f"${len(info)}\r\n{info}\r\n" if words[0] == b"INFO" else "+OK\r\n"
            writer.write(reply.encode())
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0?protocol=2"


@pytest.mark.parametrize("version", ["5.0.14", "6.0.20"])
async def test_old_redis(version: str) -> None:
    """A Redis without BLMOVE is one line with its version."""
    async with redis_that_says(f"redis_version:{version}\r\nredis_mode:standalone\r\n") as url:
        assert await redis_problems(url) == [
            f"REDIS_URL: Redis {version} is too old; 6.2 or newer is needed"
        ]


async def test_redis_cluster() -> None:
    """A cluster is one line: the scripts need all keys on one server."""
    async with redis_that_says("redis_version:6.2.0\r\nredis_mode:cluster\r\n") as url:
        assert await redis_problems(url) == [
            "REDIS_URL: a Redis Cluster is not supported; use one primary"
        ]


# --- All of it, as an operator meets it.


def test_run_says_everything_at_once(node: Node, tmp_path: Path) -> None:
    """`saga run` with Redis away and a wrong chain says both, and ends with status 2."""
    inherited = {k: v for k, v in os.environ.items() if k not in Settings.model_fields}
    given = {
        "REDIS_URL": f"redis://127.0.0.1:{free_port()}/0",
        "WEB3_PROVIDER_URL": node.url,
        "DEPLOYER_PRIVATE_KEY": DEV_MNEMONIC_KEY,
        "CHAIN_ID": "1",
        "PYTHONPATH": str(ROOT),
    }
    run = subprocess.run(
        [sys.executable, "-m", "saga", "run", "--no-wait"],
        env=inherited | node.contracts | given,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    lines = [line for line in run.stderr.splitlines() if line.startswith("saga: ")]
    assert run.returncode == 2
    assert [line.split()[1] for line in lines] == ["REDIS_URL:", "CHAIN_ID"]
    assert DEV_MNEMONIC_KEY[2:] not in run.stdout + run.stderr
