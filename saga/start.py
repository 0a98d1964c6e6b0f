"""The start of a replica: everything it depends on is found and checked, or waited for.

What is wrong is refused at once, with a line for each problem; what is only away is waited for.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress

import structlog
from redis.asyncio import Redis

from adapters.chain_lane import ChainLane
from adapters.former_keys import abandon, check_former_keys
from adapters.http_server import HttpServer, Readiness
from adapters.metrics import Metrics
from adapters.preflight import check_pending, check_redis
from adapters.redis_lanes import RedisLanes
from adapters.signer import Signer
from saga.chain_parts import ChainParts, open_chain
from saga.config import Settings
from saga.errors import Absence, ChainUnavailableError, ConfigError, StoreUnavailableError
from saga.intake import IntakeGate
from saga.outage import Outage
from saga.signers import open_signers
from saga.store import redis_keys

TRY_AGAIN_SECONDS = 1.0
HANGS_SECONDS = 8.0
"""After these an attempt that neither fails nor succeeds is told of; more than REDIS_SECONDS, so
that it is known by then whether it is Redis that hangs."""
_log = structlog.get_logger("saga")


class Standing:
    """What `/ready` answers, from the first moment on."""

    def __init__(self) -> None:
        self.waits_for: Sequence[str] = ["starting"]
        self._started: tuple[Sequence[ChainLane], IntakeGate] | None = None

    def started(self, lanes: Sequence[ChainLane], gate: IntakeGate) -> None:
        """From now on lanes and gate say whether new work can be done."""
        self._started = lanes, gate

    def readiness(self) -> Readiness:
        if self._started is None:
            return Readiness(ready=False, reasons=self.waits_for)
        lanes, gate = self._started
        return readiness(lanes, gate.reasons)


def readiness(lanes: Sequence[ChainLane], stops: Sequence[str] = ()) -> Readiness:
    """One lane that can send is enough; the others' reasons are told all the same. `stops`: why no
    new messages are taken."""
    holds = [lane.trouble for lane in lanes]
    reasons = [f"{hold.hold}: {hold}" for hold in holds if hold is not None]
    return Readiness(ready=not stops and len(reasons) < len(holds), reasons=[*stops, *reasons])


class Start:
    """What it opens is closed by `stack`."""

    def __init__(
        self,
        settings: Settings,
        client: "Redis",
        metrics: Metrics,
        stack: AsyncExitStack,
        *,
        adopt_pending: bool,
        abandoned: Sequence[str],
    ) -> None:
        self._settings = settings
        self._client = client
        self._metrics = metrics
        self._stack = stack
        self._adopt = adopt_pending
        self._abandoned = abandoned
        self._lanes = RedisLanes(client, redis_keys(settings))
        self._signers: Sequence[Signer] | None = None
        self._problems: list[str] = []
        self._standing = Standing()

    async def serve(self, standing: Standing) -> None:
        """Open the HTTP port; that it cannot be opened is one of the start's problems."""
        self._standing = standing
        port = self._settings.HTTP_PORT
        http = HttpServer(port, self._metrics.exposition, standing.readiness)
        self._stack.push_async_callback(http.close)
        try:
            await http.start()
        except OSError as error:
            self._problems.append(f"HTTP_PORT: {port} cannot be opened ({error.strerror})")

    async def attempt(self) -> ChainParts:
        """Look at everything once. Raises ConfigError, ChainUnavailableError,
        StoreUnavailableError: nothing is kept open then but the signers."""
        settings, client = self._settings, self._client
        keys = redis_keys(settings)
        found = await check_redis(client, settings.REDIS_DURABILITY, settings.lists, keys)
        problems = [*self._problems, *found]
        if found:
            # What else is asked may take long.
            self._standing.waits_for = [str(line) for line in problems]
        async with AsyncExitStack() as stack:
            try:
                parts = await self._open_chain(stack)
            except ConfigError as error:
                raise ConfigError(problems + error.problems) from None
            if problems:
                raise ConfigError(problems)
            if problems := await self._key_problems(parts):
                raise ConfigError(problems)
            # Nothing is wrong any more: now, what a refused start must not change.
            await self._lanes.remember()
            await abandon(self._lanes, parts.chain_id, self._abandoned, parts.lanes[0].address)
            parts.chain.is_abandoned = self._lanes.is_retired
            await parts.watcher.poll()
            await parts.purse.look()
            self._stack.push_async_callback(stack.pop_all().aclose)
            return parts

    async def _open_chain(self, stack: AsyncExitStack) -> ChainParts:
        if self._signers is None:
            self._signers = await self._stack.enter_async_context(open_signers(self._settings))
        opening = open_chain(
            self._settings,
            self._client,
            metrics=self._metrics,
            adopt_pending=self._adopt,
            signers=self._signers,
        )
        return await stack.enter_async_context(opening)

    async def _key_problems(self, parts: ChainParts) -> list[str]:
        source = self._settings.source
        problems: list[str] = []
        for store in parts.stores:
            problems += await check_pending(parts.rpc, store, source, adopt=self._adopt)
        return problems + await check_former_keys(
            parts.rpc,
            self._lanes,
            parts.chain_id,
            [lane.address for lane in parts.lanes],
            source,
            abandoned=self._abandoned,
        )


async def until_there(
    attempt: Callable[[], Awaitable[ChainParts]],
    standing: Standing,
    stopping: asyncio.Event,
    *,
    wait: bool,
) -> ChainParts | None:
    """Try until an attempt succeeds; None when stopped meanwhile.

    Raises ConfigError when anything is wrong that waiting does not mend; not `wait`: whatever is
    wrong or away.
    """
    outage = Outage("start.waiting", "start.goes_on")
    telling = asyncio.create_task(_tell(outage, standing))
    try:
        return await _repeat(attempt, standing, stopping, outage, wait=wait)
    finally:
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)


async def _tell(outage: Outage, standing: Standing) -> None:
    """Says what is waited for while an attempt hangs."""
    await asyncio.sleep(HANGS_SECONDS)
    while True:
        outage.met("; ".join(standing.waits_for))
        await asyncio.sleep(TRY_AGAIN_SECONDS)


async def _repeat(
    attempt: Callable[[], Awaitable[ChainParts]],
    standing: Standing,
    stopping: asyncio.Event,
    outage: Outage,
    *,
    wait: bool,
) -> ChainParts | None:
    while not stopping.is_set():
        try:
            parts = await _unless_stopped(attempt(), stopping)
        except ConfigError as error:
            if not wait or not all(isinstance(line, Absence) for line in error.problems):
                raise
            standing.waits_for = [str(line) for line in error.problems]
        except (ChainUnavailableError, StoreUnavailableError) as error:
            if not wait:
                raise ConfigError([str(error)]) from error
            standing.waits_for = [str(error)]
        else:
            if parts is not None:
                outage.over()
            return parts
        outage.met("; ".join(standing.waits_for))
        with suppress(TimeoutError):
            async with asyncio.timeout(TRY_AGAIN_SECONDS):
                await stopping.wait()
    return None


async def _unless_stopped(
    attempt: Awaitable[ChainParts], stopping: asyncio.Event
) -> ChainParts | None:
    """The attempt's outcome; None, the attempt cancelled, when stopped before."""
    trying, stop = asyncio.ensure_future(attempt), asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait([trying, stop], return_when=asyncio.FIRST_COMPLETED)
        return trying.result() if trying.done() else None
    finally:
        trying.cancel()
        stop.cancel()
        await asyncio.gather(trying, stop, return_exceptions=True)
