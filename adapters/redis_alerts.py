"""What replicas know of alerts through Redis: how the work stands, and who has told what."""

import secrets

from redis.asyncio import Redis

from adapters.redis_client import translated
from adapters.redis_keys import RedisKeys
from saga.alerting import Alert, Pulse
from saga.model import State

CLAIM_MS = 90_000
"""How long a replica has for an alert that it is to tell: all its tries, 5 of 10 seconds with 15
between them. Then it is dead, or has stopped, and the alert is another's."""


class RedisAlerts:
    """`seconds`: how long an alert that one replica gives is given for all. Methods raise
    StoreUnavailableError."""

    def __init__(self, client: "Redis", keys: RedisKeys, *, seconds: float) -> None:
        self._client = client
        self._keys = keys
        self._kept_ms = max(1, int(seconds * 1000))
        self._ours = secrets.token_hex(8)

    @translated
    async def pulse(self) -> Pulse:
        """One round trip."""
        pipe = self._client.pipeline(transaction=False)
        pipe.llen(self._keys.inbound)
        pipe.exists(self._keys.pause)
        pipe.zcard(self._keys.due)
        for state in State:
            pipe.zrevrange(self._keys.index(state), 0, 0, withscores=True)
        inbound, paused, active, *newest = await pipe.execute()
        times = [int(score) for found in newest for _, score in found]
        return Pulse(
            inbound=inbound,
            paused=bool(paused),
            active=active,
            newest_ms=max(times, default=0),
        )

    @translated
    async def held(self, alert: Alert) -> float:
        """For how many seconds more the alert is another replica's, who tells it or has told it; 0:
        it is this one's from now on, for CLAIM_MS. What it puts an end to may be told again."""
        key = self._keys.alert(*alert.key)
        span_ms = min(self._kept_ms, CLAIM_MS)
        if not await self._client.set(key, self._ours, nx=True, px=span_ms):
            pipe = self._client.pipeline(transaction=True)
            pipe.get(key)
            pipe.pttl(key)
            holder, left_ms = await pipe.execute()
            # redis-py may have sent the first question twice.
            if holder != self._ours.encode():
                return float(max(1, left_ms)) / 1000
        if alert.ended is not None:
            await self._client.delete(self._keys.alert(*alert.ended.key))
        return 0.0

    @translated
    async def told(self, alert: Alert) -> None:
        """It was given: nobody need give it again for long, unless it has ended meanwhile."""
        key = self._keys.alert(*alert.key)
        if await self._client.get(key) == self._ours.encode():
            await self._client.pexpire(key, self._kept_ms)

    @translated
    async def forget(self, alert: Alert) -> None:
        """It was not given after all: whoever comes next may."""
        key = self._keys.alert(*alert.key)
        if await self._client.get(key) == self._ours.encode():
            await self._client.delete(key)
