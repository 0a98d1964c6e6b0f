"""The gate that new messages come through; sagas under way never wait for it.

One look a second for all: the length of the outbound list, the operator's pause, and whether Redis
takes writes. Nothing is asked per message.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import structlog

from saga.backpressure import IntakeLook, Reason, stops
from saga.errors import StoreUnavailableError
from saga.outage import Outages

LOOK_SECONDS = 1.0
"""With the second that a pop may block, a pause is seen by all replicas within two."""
LOOK_LIMIT_SECONDS = 4.0
"""For one look. A Redis that hangs is told before redis-py has done with its retries; with the rest
between two looks, two of them are the ten seconds between two lines."""
_log = structlog.get_logger("saga")


class IntakeDesk(Protocol):
    """Where the state of the intake is looked up."""

    async def look(self) -> IntakeLook:
        """One round trip. Raises StoreUnavailableError when nothing can be read."""
        ...


class IntakeGate:
    """Shut until the first look. `most`: OUTBOUND_MAX_DEPTH; `on_change`: told what stops it."""

    def __init__(
        self,
        desk: IntakeDesk,
        outages: Outages,
        *,
        most: int,
        on_change: Callable[[Mapping[Reason, str]], None],
    ) -> None:
        self._desk = desk
        self._outages = outages
        self._most = most
        self._on_change = on_change
        self._stops: Mapping[Reason, str] = {}
        self._open = asyncio.Event()

    @property
    def is_open(self) -> bool:
        return self._open.is_set()

    @property
    def reasons(self) -> Sequence[str]:
        """Why it is shut."""
        return [f"intake stopped ({name}): {why}" for name, why in self._stops.items()]

    async def opened(self) -> None:
        """Wait until it is open."""
        await self._open.wait()

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Look once. A Redis that cannot be read shuts the gate."""
        try:
            async with asyncio.timeout(LOOK_LIMIT_SECONDS):
                found = await self._desk.look()
        except TimeoutError:
            reason = f"Redis: no answer within {LOOK_LIMIT_SECONDS:g} s"
            self.refused(StoreUnavailableError(reason))
            return
        except StoreUnavailableError as error:
            self.refused(error)
            return
        if found.refusal:
            self._outages.redis.met(found.refusal)
        else:
            self._outages.redis.over()
        self._judged(stops(found, most=self._most, lagging="outbound_depth" in self._stops))

    def refused(self, error: StoreUnavailableError) -> None:
        """Redis did not do something for this replica: nothing is taken before the next look."""
        self._outages.met(error)
        self._judged({**self._stops, "store": str(error)})

    def _judged(self, found: Mapping[Reason, str]) -> None:
        """A line for each reason that begins or ends; those about Redis are the outage's."""
        before, self._stops = self._stops, found
        for name in found.keys() - before.keys() - {"store"}:
            _log.warning("intake.stopped", reason=name, detail=found[name])
        for name in before.keys() - found.keys() - {"store"}:
            _log.info("intake.resumed", reason=name)
        if found:
            self._open.clear()
        else:
            self._open.set()
        self._on_change(found)
