"""Whose turn it is under DEPLOYMENTS_PER_HOUR; the store keeps the turns, for all replicas."""

import asyncio

from saga.errors import HeldError
from saga.model import Saga
from saga.ports import Turns
from saga.slots import Slots

PATIENCE_SECONDS = 5.0
"""How long a saga waits for its turn in memory; what comes later is waited for in `due`."""
WAITERS = 2
"""So many of them at once: the turns after theirs are not soon."""
EARLY_SECONDS = 0.5
"""`due` is looked at so often: who comes back for a turn comes back a little before it."""


class Throttle:
    """One for a process."""

    def __init__(self, turns: Turns, *, slots: Slots | None = None) -> None:
        self._turns = turns
        self._slots = slots or Slots(1)
        self._waiting = 0

    async def turn(self, saga: Saga) -> None:
        """Return when the saga may deploy.

        Raises HeldError with the time until its turn when that is not soon.
        """
        while (wait := await self._turns.turn(saga.id)) > 0:
            if wait > PATIENCE_SECONDS or self._waiting >= WAITERS:
                raise HeldError(
                    "throttled",
                    f"DEPLOYMENTS_PER_HOUR: its turn comes in {wait:.0f} s",
                    seconds=max(wait - EARLY_SECONDS, EARLY_SECONDS / 2),
                )
            self._waiting += 1
            try:
                async with self._slots.waiting():
                    await asyncio.sleep(wait)
            finally:
                self._waiting -= 1
