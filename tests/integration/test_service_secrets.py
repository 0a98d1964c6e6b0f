"""Law 7 from outside: secrets planted in every setting, errors of all sorts, DEBUG, and a sweep."""

import asyncio
import contextlib
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from redis import Redis

from adapters.embedded import EmbeddedValkey, free_port
from saga.audit import audit
from saga.model import State
from tests.integration.test_service import keys_of, saga_command
from tests.support.chain import Node
from tests.support.fleet import Fleet, message
from tests.support.keys import SIGNERS, SignerSettings, fund, grant_roles
from tests.support.otlp import OtlpReceiver
from tests.support.proxy import SEND, lost_reply, lost_request, open_proxy, rpc_error

PLANTED = {
    "redis": "pl4nted-redis-p@ss",
    "rpc user": "pl4nted-rpc-user",
    "rpc path": "pl4nted0rpc0path0key",
    "rpc query": "pl4nted-rpc-query",
    "price": "pl4nted-price-key",
    "otlp": "pl4nted-otlp-bearer",
}


@pytest.fixture
def guarded() -> Iterator[str]:
    """The URL of a Valkey that asks for a password."""
    with EmbeddedValkey() as valkey:
        with Redis.from_url(valkey.url) as client:
            client.config_set("requirepass", PLANTED["redis"])
        yield valkey.url.replace("://", f"://:{quote(PLANTED['redis'], safe='')}@")


@pytest.fixture(params=SIGNERS)
def signer(
    request: pytest.FixtureRequest, tmp_path: Path, service_node: Node
) -> Iterator[SignerSettings]:
    """A signer of each kind, with an account that may deploy and register, and pay for it."""
    with SIGNERS[request.param](tmp_path) as signer:
        fund(service_node, signer.address)
        grant_roles(service_node, signer.address)
        yield signer


def contents(url: str) -> bytes:
    """Every key and value of a Redis."""
    found = []
    with Redis.from_url(url) as client:
        for key in client.scan_iter():
            match client.type(key):
                case b"string":
                    value: object = client.get(key)
                case b"hash":
                    value = client.hgetall(key)
                case b"list":
                    value = client.lrange(key, 0, -1)
                case b"zset":
                    value = client.zrange(key, 0, -1, withscores=True)
                case _:
                    value = client.smembers(key)
            found.append(repr((key, value)).encode())
    assert found
    return b"\n".join(found)


def fetched(port: int, path: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=5) as answer:
        body: bytes = answer.read()
    return body


async def test_no_secret_anywhere(
    signer: SignerSettings, service_node: Node, guarded: str, tmp_path: Path
) -> None:
    """Neither log, Redis, span, metric, probe nor command holds a secret, whatever went wrong."""
    port, user = free_port(), PLANTED["rpc user"]
    pinned = {"DEPLOYER_PRIVATE_KEY": "", "DEPLOYER_ADDRESS": signer.address}
    with OtlpReceiver() as receiver, contextlib.ExitStack() as stack:
        async with open_proxy(service_node.url) as proxy:
            url = proxy.url.replace("://", f"://{user}:{user}@")
            fleet = Fleet(
                guarded,
                service_node.url,
                service_node.contracts,
                tmp_path,
                WEB3_PROVIDER_URL=f"{url}/v3/{PLANTED['rpc path']}?key={PLANTED['rpc query']}",
                NATIVE_TOKEN_USD_URL=f"http://127.0.0.1:{free_port()}/p?key={PLANTED['price']}",
                LOG_LEVEL="DEBUG",
                HTTP_PORT=str(port),
                OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint,
                OTEL_EXPORTER_OTLP_HEADERS=f"authorization={PLANTED['otlp']}",
                **(pinned | signer.environment),
            )
            stack.callback(fleet.end)
            replica = fleet.start()
            await fleet.until_started()
            proxy.once(SEND, lost_reply)
            for method in ("eth_estimateGas", "eth_call"):
                proxy.once(method, lost_request, lost_reply, rpc_error(method, -32000, "no"))
            sent = [message(f"swept-{signer.address}-{n}") for n in range(4)]
            sent += [b"no message", message("swept", token_symbol="")]
            tampered = message(f"tampered-{signer.address}")
            fleet.send([*sent, tampered])
            evidence = await fleet.settled([*sent, tampered])
            assert audit(evidence) == []
            states = [saga.state for saga in evidence.sagas.values()]
            assert states.count(State.ACKED) == 5
            tamper(fleet, next(iter(evidence.sagas)))
            await fleet.until_logged(replica, "saga.unreadable")
            # In threads: the proxy answers in this one.
            seen = await asyncio.to_thread(looked_at, fleet, port, replica.pid)
            assert fleet.stop() == [0]
        seen["log"] = fleet.log(replica).encode()
        seen["spans"] = b"".join(span.wire for span in receiver.spans)
    assert all(seen.values())
    assert b"price.unavailable" in seen["log"], "errors were logged"
    secrets = [*PLANTED.values(), quote(PLANTED["redis"], safe=""), *signer.secrets]
    found = {
        (where, secret)
        for where, said in seen.items()
        for secret in secrets
        if secret.lower().encode() in said.lower()
    }
    assert found == set()


def looked_at(fleet: Fleet, port: int, pid: int) -> dict[str, bytes]:
    """What can be seen of a replica while it runs."""
    seen = {
        "metrics": fetched(port, "metrics"),
        "ready": fetched(port, "ready"),
        "redis": contents(fleet.environment["REDIS_URL"]),
        "cmdline": Path(f"/proc/{pid}/cmdline").read_bytes(),
    }
    for arguments in (("keys", "show"), ("chain", "status"), ("list",), ("stats",)):
        said = saga_command(fleet, *arguments)
        seen[" ".join(arguments)] = (said.stdout + said.stderr).encode()
        assert "Traceback" not in said.stderr
    return seen


def tamper(fleet: Fleet, saga_id: str) -> None:
    """Make one record unreadable, and due."""
    keys = keys_of(fleet)
    with fleet.redis as client:
        client.hset(keys.saga(saga_id), mapping={"state": "VALIDATED", "created_ms": "never"})
        client.zadd(keys.due, {saga_id: 0})
