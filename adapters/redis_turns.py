"""The turns of deployments under DEPLOYMENTS_PER_HOUR, for all replicas."""

import math
from typing import cast

from redis.asyncio import Redis

from adapters.redis_client import Scripts, translated
from adapters.redis_keys import RedisKeys

TURN_KEPT_MS = 60_000
"""Who has not come so long after its turn has none any more: it went another way."""


class RedisTurns:
    """`saga.ports.Turns`. `pause_seconds`: between two deployments."""

    def __init__(self, client: "Redis", keys: RedisKeys, *, pause_seconds: float) -> None:
        self._scripts = Scripts(client)
        self._keys = keys
        self._pause_ms = math.ceil(pause_seconds * 1000)

    @translated
    async def turn(self, saga_id: str) -> float:
        """Seconds until the saga may deploy; asked again, it is the same turn."""
        answer = await self._scripts.call(
            "turn",
            [self._keys.throttle, self._keys.turns],
            [saga_id, self._pause_ms, TURN_KEPT_MS],
        )
        return int(cast("bytes", answer)) / 1000
