"""`make bench`: jobs per second, CPU and RPC requests per saga of one replica, on embedded parts.

A job is the whole thing: validate, deploy, register, publish, acknowledge. Numbers are printed,
never asserted: they are this machine's, shared by the node, the store and the replica.
"""

import asyncio
import json
import resource
import time
import urllib.request
from pathlib import Path
from tempfile import TemporaryDirectory

from prometheus_client.parser import text_string_to_metric_families
from redis import Redis

from adapters.embedded import DEV_MNEMONIC_KEY, EmbeddedAnvil, EmbeddedValkey, free_port
from saga.cli.contracts import deploy
from saga.cli.replica import start_replica
from saga.config import StoreSettings
from saga.model import State
from saga.store import open_store

JOBS = 200
LOOK_SECONDS = 0.02


def _message(number: int) -> bytes:
    return json.dumps(
        {
            "model_id": f"model-{number}",
            "token_symbol": "HKAI",
            "metric_name": "accuracy",
            "baseline_value": 0.8,
            "current_value": 0.9,
            "model_name": "bench",
            "model_version": "1",
            "mlflow_run_id": f"run-{number}",
        }
    ).encode()


async def _until_done(settings: StoreSettings, jobs: int) -> None:
    async with open_store(settings) as (views, _):
        while (counts := await views.counts())[State.ACKED] < jobs:
            if counts[State.DEAD_LETTERED]:
                raise RuntimeError(f"dead letters: {counts}")
            await asyncio.sleep(LOOK_SECONDS)


def _requests(port: int) -> tuple[float, float]:
    """JSON-RPC requests so far, by the service's own metric: all, and the sends among them."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as reply:
        families = text_string_to_metric_families(reply.read().decode())
    samples = [s for f in families if f.name == "saga_rpc_requests" for s in f.samples]
    counts = [(s.labels["method"], s.value) for s in samples if s.name.endswith("_total")]
    sends = sum(value for method, value in counts if method == "eth_sendRawTransaction")
    return sum(value for _, value in counts), sends


def _run(name: str, block_seconds: float | None, jobs: int, **changes: str) -> None:
    with (
        EmbeddedValkey() as valkey,
        EmbeddedAnvil("--gas-limit", "1000000000", block_seconds=block_seconds) as anvil,
        TemporaryDirectory() as folder,
    ):
        environment = {
            "REDIS_URL": valkey.url,
            "WEB3_PROVIDER_URL": anvil.url,
            "DEPLOYER_PRIVATE_KEY": DEV_MNEMONIC_KEY,
            "HTTP_PORT": str(port := free_port()),
            "LOG_LEVEL": "WARNING",
            **changes,
            **deploy(anvil.url, DEV_MNEMONIC_KEY),
        }
        settings = StoreSettings.model_validate({"REDIS_URL": valkey.url})
        with Redis.from_url(valkey.url) as client:
            client.lpush(settings.INBOUND_QUEUE, *(_message(number) for number in range(jobs)))
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        began = time.perf_counter()
        replica = start_replica(environment, Path(folder), Path(folder) / "log")
        try:
            asyncio.run(_until_done(settings, jobs))
            seconds = time.perf_counter() - began
            asked, sent = _requests(port)
        finally:
            replica.terminate()
            replica.wait()
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(  # noqa: T201 - the result
        f"{name:<16} {jobs} jobs in {seconds:6.1f} s   {jobs / seconds:6.1f} jobs/s   "
        f"{cpu / jobs * 1000:5.1f} ms CPU a job, the start included   "
        f"{asked / jobs:4.2f} RPC requests a job, {sent / jobs:4.2f} of them sends"
    )


UNBOUND = {"MAX_IN_FLIGHT": "0", "WORKER_POOL_SIZE": "512"}

if __name__ == "__main__":
    _run("instant mining", None, JOBS, **UNBOUND)
    _run("1 s blocks", 1.0, JOBS, **UNBOUND)
    _run("50 in flight", 1.0, JOBS, WORKER_POOL_SIZE="50")
