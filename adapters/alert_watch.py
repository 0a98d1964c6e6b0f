"""Looks around for what an operator should know of, and offers it to the alert sender."""

import asyncio
import time
from collections.abc import Callable, Sequence

import structlog

from adapters.alerts import AlertSender
from adapters.chain_lane import ChainLane
from adapters.purse import Purse
from adapters.redis_alerts import RedisAlerts
from saga.alerting import Pulse, Rules, Sight, Thresholds
from saga.errors import StoreUnavailableError

LOOK_SECONDS = 15.0
_log = structlog.get_logger("saga.alerts")


class AlertWatch:
    """`run()` is its task; `look()` is one look."""

    def __init__(
        self,
        sender: AlertSender,
        store: RedisAlerts,
        purse: Purse,
        lanes: Sequence[ChainLane],
        thresholds: Thresholds,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sender = sender
        self._store = store
        self._purse = purse
        self._lanes = lanes
        self._monotonic = monotonic
        self._rules = Rules(thresholds, monotonic())

    async def run(self) -> None:
        """Look around until cancelled."""
        while True:
            try:
                await self.look()
            except Exception:  # noqa: BLE001 - an alert must not end the service
                _log.exception("alerts.look_crashed")
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """SIDE EFFECTS: one read of Redis; alerts offered."""
        troubles = {lane.address: self._purse.trouble(lane.address) for lane in self._lanes}
        sight = Sight(
            signers=tuple(troubles),
            lacking={address: str(why) for address, why in troubles.items() if why is not None},
            held={lane.address: lane.kept for lane in self._lanes if lane.kept},
            pulse=await self._pulse(),
        )
        for alert in self._rules.look(sight, self._monotonic()):
            if self._sender.offer(alert):
                self._rules.told(alert)

    async def _pulse(self) -> Pulse | None:
        try:
            return await self._store.pulse()
        except StoreUnavailableError:
            return None
