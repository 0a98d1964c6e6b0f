"""What replicas know of alerts through Redis: how the work stands, and who has told what."""

import secrets
from typing import cast

from redis.asyncio import Redis

from adapters.redis_client import translated
from adapters.redis_keys import RedisKeys
from saga.alerting import Alert, Pulse
from saga.model import State


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
    async def first(self, alert: Alert) -> bool:
        """Whether no other replica has given the alert of late; it is this one's then."""
        key = self._keys.alert(*alert.key)
        if await self._client.set(key, self._ours, nx=True, px=self._kept_ms):
            return True
        # redis-py may have sent the first question twice.
        return cast("bytes | None", await self._client.get(key)) == self._ours.encode()

    @translated
    async def forget(self, alert: Alert) -> None:
        """It was not given after all: whoever comes next may."""
        key = self._keys.alert(*alert.key)
        if await self._client.get(key) == self._ours.encode():
            await self._client.delete(key)
