"""The operator's pause in Redis, and the look that says whether new messages may be taken."""

from typing import cast

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError

from adapters.redis_client import translated, unavailable
from adapters.redis_keys import RedisKeys
from saga.backpressure import IntakeLook, Pause

UNREADABLE = Pause(by="somebody", at_ms=0, reason="what is stored there cannot be read")
"""What is no pause of ours is one all the same: somebody wanted no new work."""


class RedisIntake:
    """`saga.intake.IntakeDesk`, and the two commands of the operator."""

    def __init__(self, client: "Redis", keys: RedisKeys) -> None:
        self._client = client
        self._keys = keys

    @translated
    async def look(self) -> IntakeLook:
        """One round trip. Raises StoreUnavailableError when nothing can be read."""
        pipe = self._client.pipeline(transaction=False)
        pipe.llen(self._keys.outbound)
        pipe.get(self._keys.pause)
        # It changes nothing, and is refused whenever any write is.
        pipe.setrange(self._keys.probe, 0, "")
        depth, raw, probe = await pipe.execute(raise_on_error=False)
        for answer in (depth, raw):
            if isinstance(answer, RedisError) and (error := unavailable(answer)) is not None:
                raise error from answer
        refusal = unavailable(probe) if isinstance(probe, RedisError) else None
        return IntakeLook(
            outbound=depth if isinstance(depth, int) else 0,
            pause=_pause(raw),
            refusal="" if refusal is None else str(refusal),
        )

    @translated
    async def pause(self, by: str, reason: str) -> Pause | None:
        """Stop the intake of all replicas; returns the pause that this one takes the place of."""
        seconds, micros = await self._client.time()
        pause = Pause(by=by, at_ms=seconds * 1000 + micros // 1000, reason=reason)
        raw = await self._client.set(self._keys.pause, msgspec.json.encode(pause), get=True)
        return _pause(raw)

    @translated
    async def resume(self) -> Pause | None:
        """Let the intake go on; returns the pause that has ended, None when there was none."""
        return _pause(await self._client.getdel(self._keys.pause))


def _pause(raw: object) -> Pause | None:
    if raw is None:
        return None
    try:
        return msgspec.json.decode(cast("bytes", raw), type=Pause)
    # Other bytes, lists a thousand deep, or the error that another type gives.
    except (ValueError, TypeError, RecursionError):
        return UNREADABLE
