"""Replicas of the real service as processes, killed and restarted, and what they left behind."""

import asyncio
import json
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from redis import Redis

from adapters.embedded import DEV_ACCOUNT, DEV_MNEMONIC_KEY, rpc_request
from adapters.redis_views import RedisViews
from saga.audit import Evidence
from saga.cli.evidence import collect
from saga.cli.replica import start_replica
from saga.config import Settings, StoreSettings
from saga.messages import identify
from saga.model import Saga, State
from saga.store import open_store

LOOK_SECONDS = 0.1


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


class Fleet:
    """Replicas that share one Redis, one chain and one key. Leaving the block ends them all."""

    def __init__(
        self, redis_url: str, rpc_url: str, contracts: dict[str, str], folder: Path, **settings: str
    ) -> None:
        self.environment = {
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
        self._folder = folder
        self._replicas: list[subprocess.Popen[bytes]] = []
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

    def start(self) -> subprocess.Popen[bytes]:
        """One more replica, as an operator starts it."""
        log = self._folder / f"replica-{len(self._replicas)}.log"
        replica = start_replica(self.environment, self._folder, log)
        self._replicas.append(replica)
        return replica

    @property
    def alive(self) -> list[subprocess.Popen[bytes]]:
        return [replica for replica in self._replicas if replica.poll() is None]

    def clean_environment(self) -> dict[str, str]:
        """For commands: these settings, and none of the caller's."""
        inherited = {k: v for k, v in os.environ.items() if k not in Settings.model_fields}
        return {**inherited, **self.environment}

    async def until_started(self) -> None:
        """Wait until the newest replica says that it has started."""
        log = self._folder / f"replica-{len(self._replicas) - 1}.log"
        deadline = time.monotonic() + 20
        while '"started"' not in log.read_text("utf-8", "replace"):
            assert time.monotonic() < deadline, log.read_text("utf-8", "replace")
            await asyncio.sleep(LOOK_SECONDS)

    def kill(self, replica: subprocess.Popen[bytes]) -> None:
        """SIGKILL."""
        replica.kill()
        replica.wait()
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
            return await collect(views, self.environment["WEB3_PROVIDER_URL"], sent)

    async def until_counted(self, state: State, count: int, *, seconds: float = 100.0) -> None:
        """Wait until so many sagas are in a state, without reading them."""
        deadline = time.monotonic() + seconds
        async with open_store(self.settings) as (views, _):
            while (counts := await views.counts())[state] < count:
                assert time.monotonic() < deadline, counts
                await asyncio.sleep(LOOK_SECONDS)

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
        url = self.environment["WEB3_PROVIDER_URL"]
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
