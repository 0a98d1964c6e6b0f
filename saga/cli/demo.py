"""`saga demo`: the whole job on real parts, a kill -9 in the middle, and an audit at the end."""

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from redis import Redis
from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from adapters.embedded import (
    DEV_ACCOUNT,
    DEV_MNEMONIC_KEY,
    EmbeddedAnvil,
    EmbeddedValkey,
)
from adapters.redis_views import RedisViews
from saga.audit import audit
from saga.cli.contracts import deploy
from saga.cli.demo_messages import demo_messages
from saga.cli.evidence import collect
from saga.cli.render import console, print_json, safe, styled
from saga.cli.replica import start_replica
from saga.config import StoreSettings
from saga.errors import SagaError
from saga.messages import identify
from saga.model import Saga, State
from saga.store import open_store

_LOG = "orchestrator.log"
LEASE_SECONDS = 3
DEADLINE_SECONDS = 120.0
LOOK_SECONDS = 0.1


class DemoError(SagaError):
    """The demo could not come to its end; the text says where it stood."""


def run_demo(*, keep: bool, as_json: bool) -> None:
    """Exit status 1 when the audit finds anything."""
    demo = Demo(quiet=as_json)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        report = demo.run()
        if keep:
            report["exports"] = demo.environment
            report["stop"] = demo.stop_command()
    finally:
        if not keep:
            demo.close()
    if as_json:
        print_json(report)
    else:
        demo.print_report(report)
    sys.exit(1 if report["findings"] else 0)


def _interrupt(number: int, _frame: object) -> None:
    """End as Ctrl-C does, so that everything that was started is ended too."""
    sys.exit(128 + number)


class Demo:
    """One run. `close()` ends everything that it started."""

    def __init__(self, *, quiet: bool) -> None:
        self._out = console()
        self._out.quiet = quiet
        self._live = sys.stdout.isatty() and not quiet
        self.environment: dict[str, str] = {}
        self._parts: list[EmbeddedValkey | EmbeddedAnvil] = []
        self._replica: subprocess.Popen[bytes] | None = None
        self._seen: dict[str, State] = {}
        self._killed: dict[str, Any] = {}

    def run(self) -> dict[str, Any]:
        """Start, send, kill, restart, wait, audit; returns the report."""
        self._start_parts()
        messages = demo_messages()
        with Redis.from_url(self.environment["REDIS_URL"]) as client:
            client.lpush(self._settings().INBOUND_QUEUE, *messages)
        self._out.print(f"{len(messages)} messages put on {self._settings().INBOUND_QUEUE}")
        self._start_replica()
        return asyncio.run(self._follow(messages))

    def _start_parts(self) -> None:
        self._out.print("starting a Valkey (append-only file on) and an anvil (a block a second)")
        valkey = EmbeddedValkey()
        self._parts.append(valkey)
        anvil = EmbeddedAnvil(block_seconds=1)
        self._parts.append(anvil)
        self._out.print("deploying ModelRegistry and TokenManager")
        # A key that everybody knows; but what prints keys teaches to.
        key = valkey.folder / "deployer-key"
        key.touch(mode=0o600)
        key.write_text(DEV_MNEMONIC_KEY + "\n", "utf-8")
        self.environment = {
            "REDIS_URL": valkey.url,
            "WEB3_PROVIDER_URL": anvil.url,
            "DEPLOYER_PRIVATE_KEY_FILE": str(key),
            "DEPLOYER_ADDRESS": DEV_ACCOUNT,
            "LEASE_SECONDS": str(LEASE_SECONDS),
            "HTTP_PORT": "0",
            **deploy(anvil.url, DEV_MNEMONIC_KEY),
        }

    def _settings(self) -> StoreSettings:
        return StoreSettings.model_validate({"REDIS_URL": self.environment["REDIS_URL"]})

    def _start_replica(self) -> None:
        folder = self._parts[0].folder
        self._replica = start_replica(self.environment, folder, folder / _LOG)
        self._out.print(f"orchestrator started, pid {self._replica.pid}")

    async def _follow(self, messages: list[bytes]) -> dict[str, Any]:
        began = time.monotonic()
        wanted = {identify(raw).saga_id for raw in messages}
        async with open_store(self._settings()) as (views, _):
            with self._display() as show:
                while True:
                    sagas = {saga.id: saga async for saga in views.sagas(list(State))}
                    show(sagas)
                    self._kill_in_flight(sagas)
                    depths = await views.depths()
                    ended = {saga.id for saga in sagas.values() if saga.state.terminal}
                    if wanted <= ended and not depths["inbound"] and not depths["processing"]:
                        break
                    self._check_progress(time.monotonic() - began, len(ended), len(wanted))
                    await asyncio.sleep(LOOK_SECONDS)
            return await self._report(messages, views, time.monotonic() - began)

    def _kill_in_flight(self, sagas: dict[str, Saga]) -> None:
        """Once: SIGKILL when a deployment is signed and stored, and not yet recorded as mined."""
        flying = [saga for saga in sagas.values() if saga.deploy and not saga.deployment]
        if self._killed or not flying or self._replica is None:
            return
        self._replica.kill()
        self._replica.wait()
        self._killed = {"pid": self._replica.pid, "deployments_in_flight": len(flying)}
        self._out.print(
            f"[bold red]kill -9 {self._replica.pid}[/] with {len(flying)} deployment(s) in flight"
        )
        self._start_replica()

    def _check_progress(self, seconds: float, ended: int, wanted: int) -> None:
        assert self._replica is not None  # noqa: S101 - started before following
        status = self._replica.poll()
        if status is None and seconds < DEADLINE_SECONDS:
            return
        log = (self._parts[0].folder / _LOG).read_text("utf-8", "replace")
        why = f"ended with {status}" if status is not None else f"needs over {seconds:.0f} s"
        raise DemoError(
            f"the orchestrator {why}; {ended} of {wanted} sagas have ended. Its log ends:\n"
            + log[-2000:]
        )

    async def _report(
        self, messages: list[bytes], views: RedisViews, seconds: float
    ) -> dict[str, Any]:
        evidence = await collect(views, self.environment["WEB3_PROVIDER_URL"], messages)
        sagas = sorted(evidence.sagas.values(), key=_began)
        return {
            "messages": len(messages),
            "contracts": sum(len(found) for found in evidence.contracts.values()),
            "events": len(evidence.events),
            "dead_letters": len(evidence.dead_letters),
            "killed": self._killed,
            "seconds": round(seconds, 1),
            "sagas": [_row(saga) for saga in sagas],
            "findings": audit(evidence)
            + ([] if self._killed else ["no deployment was in flight when looked at: no kill"]),
        }

    @contextmanager
    def _display(self) -> "Iterator[Any]":
        """A function that shows the sagas: a live table on a terminal, else a line per move."""
        if not self._live:
            yield self._lines
            return
        bar = Progress(TextColumn("sagas ended"), BarColumn(), MofNCompleteColumn())
        task = bar.add_task("", total=len({identify(raw).saga_id for raw in demo_messages()}))
        with Live(console=self._out, refresh_per_second=8, transient=True) as live:

            def show(sagas: dict[str, Saga]) -> None:
                ended = sum(saga.state.terminal for saga in sagas.values())
                bar.update(task, completed=ended)
                rows = [_row(saga) for saga in sorted(sagas.values(), key=_began)]
                live.update(Group(_table(rows), bar))

            yield show

    def _lines(self, sagas: dict[str, Saga]) -> None:
        for saga in sagas.values():
            if self._seen.get(saga.id) is not saga.state:
                self._seen[saga.id] = saga.state
                reason = f": {safe(saga.error)}" if saga.error else ""
                name = safe(saga.model_id or saga.id)
                self._out.print(f"  {name} → {styled(saga.state)}{reason}", soft_wrap=True)

    def print_report(self, report: dict[str, Any]) -> None:
        self._out.print(_table(report["sagas"]))
        self._out.print(
            f"{report['messages']} messages, {len(report['sagas'])} sagas, "
            f"{report['contracts']} contracts on the chain, {report['events']} events, "
            f"{report['dead_letters']} dead letters, one kill -9, {report['seconds']} s"
        )
        for finding in report["findings"]:
            self._out.print(f"[bold red]{safe(finding)}[/]")
        if not report["findings"]:
            self._out.print(
                "[bold green]verdict: one token for each model, one event for each token, "
                "nothing lost, nothing twice[/]"
            )
        for name, value in report.get("exports", {}).items():
            self._out.print(f"export {name}={value}", soft_wrap=True)
        if "stop" in report:
            self._out.print(f"# the stack is up; stop it with: {report['stop']}", soft_wrap=True)

    def stop_command(self) -> str:
        assert self._replica is not None  # noqa: S101 - called after a run
        return f"kill {self._replica.pid} {' '.join(str(part.pid) for part in self._parts)}"

    def close(self) -> None:
        if self._replica is not None:
            self._replica.terminate()
            try:
                self._replica.wait(10)
            except subprocess.TimeoutExpired:
                self._replica.kill()
                self._replica.wait()
        for part in self._parts:
            part.close()


def _began(saga: Saga) -> int:
    return saga.created_ms


def _row(saga: Saga) -> dict[str, Any]:
    deployment = saga.deployment
    row = {
        "model": saga.model_id,
        "state": saga.state,
        "token": deployment.token if deployment else None,
        "block": deployment.receipt.block_number if deployment else None,
        "gas": deployment.receipt.gas_used if deployment else None,
        "seconds": round((saga.updated_ms - saga.created_ms) / 1000, 1),
        "reason": saga.error,
    }
    return {name: value for name, value in row.items() if value is not None}


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table("model", "state", "token", "block", "gas", "seconds", "reason")
    for column in table.columns:
        column.no_wrap = column.header != "reason"
    for row in rows:
        table.add_row(
            safe(row.get("model", "")),
            styled(row["state"]),
            *(str(row.get(name, "")) for name in ("token", "block", "gas", "seconds")),
            safe(row.get("reason", "")),
        )
    return table
