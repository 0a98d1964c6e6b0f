"""Replicas of the real service as processes, killed and restarted, and what they left behind."""

import asyncio
import json
import os
import subprocess
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from prometheus_client.parser import text_string_to_metric_families
from redis import Redis

from adapters.embedded import DEV_ACCOUNT, DEV_MNEMONIC_KEY, free_port, rpc_request
from adapters.redis_views import RedisViews
from saga.audit import Evidence
from saga.cli.evidence import collect
from saga.cli.replica import start_replica
from saga.config import Settings, StoreSettings
from saga.messages import identify
from saga.model import HistoryEntry, Saga, State
from saga.store import open_store, redis_keys

LOOK_SECONDS = 0.1
EMBEDDED_CHAIN_ID = 31337
REFUSED_TO_START = 2
"""Exit status of a replica that has named what it lacks."""


def payload(model_id: str, **changes: Any) -> dict[str, Any]:
    """A valid bare payload."""
    return {
        "model_id": model_id,
        "token_symbol": "HKAI-1",
        "metric_name": "accuracy",
        "baseline_value": 0.8,
        "current_value": 0.9,
        "model_name": model_id,
        "model_version": "1",
        "mlflow_run_id": f"run-{model_id}",
    } | changes


def message(model_id: str, **changes: Any) -> bytes:
    return json.dumps(payload(model_id, **changes)).encode()


def _given(settings: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in settings.items() if value}


class Fleet:
    """Replicas that share one Redis, one chain and one key. Leaving the block ends them all.

    `rpc_url` is the node itself, where this looks for what there is; the replicas are given another
    way there by the setting WEB3_PROVIDER_URL. A setting that is empty is not set.
    """

    def __init__(
        self, redis_url: str, rpc_url: str, contracts: dict[str, str], folder: Path, **settings: str
    ) -> None:
        self._node_url = rpc_url
        environment = {
            "REDIS_URL": redis_url,
            "WEB3_PROVIDER_URL": rpc_url,
            "DEPLOYER_PRIVATE_KEY": DEV_MNEMONIC_KEY,
            "HTTP_PORT": "0",
            "LEASE_SECONDS": "2",
            "RETRY_BASE_SECONDS": "0.2",
            "RETRY_MAX_SECONDS": "2",
            **contracts,
            **settings,
        }
        self.environment = _given(environment)
        self._folder = folder
        self._replicas: list[subprocess.Popen[bytes]] = []
        self._ports: list[int] = []
        self._given_up: set[int] = set()
        self.kills = 0

    @property
    def settings(self) -> StoreSettings:
        return StoreSettings.model_validate(
            {k: v for k, v in self.environment.items() if k in StoreSettings.model_fields}
        )

    @property
    def redis(self) -> "Redis":
        client: Redis = Redis.from_url(self.environment["REDIS_URL"])
        return client

    def send(self, messages: Sequence[bytes]) -> None:
        with self.redis as client:
            client.lpush(self.settings.INBOUND_QUEUE, *messages)

    def start(self, *arguments: str, **changes: str) -> subprocess.Popen[bytes]:
        """One more replica, as an operator starts it; `changes` are this one's own settings."""
        settings = _given({**self.environment, **changes})
        replica = start_replica(settings, self._folder, self._log(len(self._replicas)), *arguments)
        self._replicas.append(replica)
        self._ports.append(int(settings["HTTP_PORT"]))
        return replica

    def start_measured(self, **changes: str) -> subprocess.Popen[bytes]:
        """The same, with `/metrics` for `metric`."""
        return self.start(HTTP_PORT=str(free_port()), **changes)

    def supervise(self) -> None:
        """Start again what has refused to start, as a supervisor does. Raises AssertionError for a
        replica that ended in any other way and was not killed here."""
        for number, replica in enumerate(self._replicas):
            if replica.poll() is not None and number not in self._given_up:
                self._given_up.add(number)
                assert replica.returncode == REFUSED_TO_START, self.log(replica)
                self.start()

    def _log(self, number: int) -> Path:
        return self._folder / f"replica-{number}.log"

    def log(self, replica: subprocess.Popen[bytes]) -> str:
        """What a replica has said so far."""
        return self._log(self._replicas.index(replica)).read_text("utf-8", "replace")

    def worker(self, replica: subprocess.Popen[bytes]) -> str:
        """The name that a replica, once started, gives itself in leases and histories."""
        lines = [json.loads(line) for line in self.log(replica).splitlines() if line[:1] == "{"]
        return str(next(line["worker"] for line in lines if line["event"] == "started"))

    async def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples with these labels, over the measured replicas that live."""
        total = 0.0
        for port, replica in zip(self._ports, self._replicas, strict=True):
            if port and replica.poll() is None:
                text = await asyncio.to_thread(_exposition, port)
                for family in text_string_to_metric_families(text):
                    total += sum(
                        sample.value
                        for sample in family.samples
                        if sample.name == name and labels.items() <= sample.labels.items()
                    )
        return total

    async def until_metric(self, name: str, least: float, **labels: str) -> None:
        """Wait until a metric is so high at least."""
        deadline = time.monotonic() + 30
        while (found := await self.metric(name, **labels)) < least:
            assert time.monotonic() < deadline, found
            await asyncio.sleep(LOOK_SECONDS)

    def lane(self, sender: str = DEV_ACCOUNT) -> dict[str, str]:
        """The fields of a lane on the embedded nodes' chain; without any before its first nonce."""
        with self.redis as client:
            found: dict[bytes, bytes] = client.hgetall(
                redis_keys(self.settings).lane(EMBEDDED_CHAIN_ID, sender)
            )
        return {name.decode(): value.decode() for name, value in found.items()}

    @property
    def alive(self) -> list[subprocess.Popen[bytes]]:
        return [replica for replica in self._replicas if replica.poll() is None]

    def clean_environment(self) -> dict[str, str]:
        """For commands: these settings, and none of the caller's."""
        inherited = {k: v for k, v in os.environ.items() if k not in Settings.model_fields}
        return {**inherited, **self.environment}

    async def until_started(self) -> None:
        """Wait until the newest replica says that it has started."""
        await self.until_logged(self._replicas[-1], '"started"')

    async def until_logged(
        self, replica: subprocess.Popen[bytes], text: str, *, seconds: float = 20.0
    ) -> None:
        """Wait until a replica has said something."""
        deadline = time.monotonic() + seconds
        while text not in (log := self.log(replica)):
            assert time.monotonic() < deadline, log
            await asyncio.sleep(LOOK_SECONDS)

    def kill(self, replica: subprocess.Popen[bytes]) -> None:
        """SIGKILL."""
        replica.kill()
        replica.wait()
        self._given_up.add(self._replicas.index(replica))
        self.kills += 1

    async def until(
        self,
        done: Callable[[dict[str, Saga], dict[str, int]], bool],
        *,
        seconds: float = 100.0,
        each: Callable[[], None] = lambda: None,
    ) -> None:
        """Look until `done` says so of the sagas and list lengths. Raises AssertionError, with
        the sagas' states and the end of a log, when it does not come true."""
        deadline = time.monotonic() + seconds
        async with open_store(self.settings) as (views, _):
            while True:
                sagas, depths = await look(views), await views.depths()
                if done(sagas, depths):
                    return
                if time.monotonic() > deadline:
                    raise AssertionError(f"not done: {depths} {self.describe(sagas)}")
                each()
                await asyncio.sleep(LOOK_SECONDS)

    async def settled(
        self,
        sent: Sequence[bytes],
        *,
        seconds: float = 100.0,
        each: Callable[[], None] = lambda: None,
    ) -> Evidence:
        """Wait until every message's saga has ended and the lists are empty; what is there then."""
        wanted = {identify(raw).saga_id for raw in sent}

        def done(sagas: dict[str, Saga], depths: dict[str, int]) -> bool:
            ended = {saga.id for saga in sagas.values() if saga.state.terminal}
            return (
                wanted <= ended
                and len(ended) == len(sagas)
                and not depths["inbound"]
                and not depths["processing"]
            )

        await self.until(done, seconds=seconds, each=each)
        async with open_store(self.settings) as (views, _):
            return await collect(views, self._node_url, sent)

    async def until_counted(self, state: State, count: int, *, seconds: float = 100.0) -> None:
        """Wait until so many sagas are in a state, without reading them."""
        deadline = time.monotonic() + seconds
        async with open_store(self.settings) as (views, _):
            while (counts := await views.counts())[state] < count:
                assert time.monotonic() < deadline, counts
                await asyncio.sleep(LOOK_SECONDS)

    async def history(self, saga: Saga) -> list[HistoryEntry]:
        async with open_store(self.settings) as (views, _):
            return list(await views.history(saga.id))

    async def dead_letters(self) -> list[bytes]:
        async with open_store(self.settings) as (views, _):
            return await views.dead_letters()

    def describe(self, sagas: dict[str, Saga]) -> str:
        """The sagas that have not ended, with what they are about, and the end of the logs."""
        states = [
            f"{saga.model_id}={saga.state} attempts {saga.attempts} takeovers {saga.takeovers} "
            f"{[i.nonce for i in (saga.deploy, saga.register) if i]} {saga.error or ''}"
            for saga in sagas.values()
            if not saga.state.terminal
        ]
        states.append(str(self.chain_view()))
        logs = sorted(self._folder.glob("replica-*.log"), key=lambda log: log.stat().st_mtime)[-2:]
        tails = [log.read_text("utf-8", "replace")[-3000:] for log in logs]
        return "\n".join(["", *states, *tails])

    def chain_view(self) -> list[object]:
        """The key's nonces, mined and pending, and the node's pool."""
        url = self._node_url
        return [
            rpc_request(url, "eth_getTransactionCount", DEV_ACCOUNT, "latest"),
            rpc_request(url, "eth_getTransactionCount", DEV_ACCOUNT, "pending"),
            rpc_request(url, "txpool_inspect"),
        ]

    def stop(self) -> list[int]:
        """SIGTERM to all that live; their exit statuses."""
        living = self.alive
        for replica in living:
            replica.terminate()
        return [replica.wait(30) for replica in living]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.end()

    def end(self) -> None:
        """SIGKILL to all that live."""
        for replica in self._replicas:
            if replica.poll() is None:
                replica.kill()
            replica.wait()


async def look(views: RedisViews) -> dict[str, Saga]:
    return {saga.id: saga async for saga in views.sagas(list(State))}


def _exposition(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as reply:
        return str(reply.read().decode())
