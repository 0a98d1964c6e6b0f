"""`saga` commands as processes, beside a lane of a test's own."""

import asyncio
import json
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from adapters.embedded import DEV_MNEMONIC_KEY
from saga.config import Settings
from tests.support.lane import LaneSide

ROOT = Path(__file__).parents[2]
SECONDS = 60.0


class Ended(NamedTuple):
    """What a command said, and its exit status."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """The one JSON object on stdout."""
        found: dict[str, Any] = json.loads(self.out)
        return found


def environment(lane: LaneSide, redis_url: str, **changes: str | None) -> dict[str, str]:
    """The settings that belong to a lane, and none of the caller's; None takes one away."""
    keys = lane.corner.keys
    settings: dict[str, str | None] = {
        "REDIS_URL": redis_url,
        "KEY_PREFIX": keys.prefix,
        "INBOUND_QUEUE": keys.inbound,
        "PROCESSING_QUEUE": keys.processing,
        "OUTBOUND_QUEUE": keys.outbound,
        "DLQ_NAME": keys.dead_letters,
        "WEB3_PROVIDER_URL": lane.node.url,
        "DEPLOYER_PRIVATE_KEY": DEV_MNEMONIC_KEY,
        **lane.node.contracts,
        **changes,
    }
    inherited = {k: v for k, v in os.environ.items() if k not in Settings.model_fields}
    return inherited | {name: value for name, value in settings.items() if value is not None}


class Running:
    """A command that runs: its stderr line by line, then its end."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.said: list[str] = []

    async def until_said(self, text: str) -> str:
        """The next line on stderr that has it. Raises AssertionError when there is none."""
        assert self._process.stderr is not None
        async with asyncio.timeout(SECONDS):
            while line := (await self._process.stderr.readline()).decode():
                self.said.append(line)
                if text in line:
                    return line
        raise AssertionError(f"never said {text!r}: {self.said}")

    def terminate(self) -> None:
        """SIGTERM."""
        self._process.terminate()

    def signal(self, number: int) -> None:
        """Any other one."""
        self._process.send_signal(number)

    async def ended(self) -> Ended:
        """With what was not read before of its stderr."""
        async with asyncio.timeout(SECONDS):
            out, err = await self._process.communicate()
        assert self._process.returncode is not None
        return Ended(self._process.returncode, out.decode(), "".join(self.said) + err.decode())


@asynccontextmanager
async def running(settings: Mapping[str, str], *arguments: str) -> AsyncIterator[Running]:
    """`saga …` with these settings; leaving the block ends it."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "saga", *arguments),
        env=dict(settings),
        cwd=ROOT,
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=PIPE,
    )
    try:
        yield Running(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def command(settings: Mapping[str, str], *arguments: str) -> Ended:
    """`saga …`, until it ends by itself. What it says never holds the development key."""
    async with running(settings, *arguments) as started:
        ended = await started.ended()
    key = DEV_MNEMONIC_KEY.removeprefix("0x")
    assert key not in ended.out + ended.err
    assert "Traceback" not in ended.err
    return ended
