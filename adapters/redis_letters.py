"""What a dead-lettering writes besides the state: the entry of the DLQ and the failure event."""

import msgspec
from redis.asyncio import Redis

from adapters.redis_client import Value
from adapters.redis_codec import dead_letter, utc_now
from adapters.redis_keys import RedisKeys
from adapters.redis_lane import signed_for
from saga.failure_event import TokenDeployFailedMessage, encode_failure, failure_of
from saga.model import Intent, Saga


class Letter(msgspec.Struct, frozen=True):
    """Of one saga, this time. The three agree on when it was."""

    entry: bytes
    """For the dead-letter list."""
    failure: TokenDeployFailedMessage
    fields: dict[str, Value]
    """Of the saga's hash."""

    @property
    def event(self) -> bytes:
        return encode_failure(self.failure)


class RedisLetters:
    """`network`: its name in events."""

    def __init__(self, client: "Redis", keys: RedisKeys, *, network: str) -> None:
        self._client = client
        self._keys = keys
        self._network = network

    async def of(self, saga: Saga, after: Saga) -> Letter:
        """Of a saga in the state that it fails in, and as it is to be. Raises
        StoreUnavailableError: the lane knows what its keeper has signed in the saga's name."""
        failed_at = utc_now()
        known = msgspec.structs.replace(
            saga,
            deploy=await self._with_bumps(saga.deploy),
            register=await self._with_bumps(saga.register),
        )
        return Letter(
            dead_letter(
                saga,
                error=after.error or "",
                error_class=after.error_class or "",
                failed_at=failed_at,
                queue=self._keys.inbound,
            ),
            failure_of(known, after, failed_at=failed_at, network=self._network),
            {"failed_in": saga.state.value, "failed_at": failed_at},
        )

    async def _with_bumps(self, intent: Intent | None) -> Intent | None:
        if intent is None or not intent.attempts:
            return intent
        signed = await signed_for(self._client, self._keys, intent)
        return msgspec.structs.replace(intent, attempts=tuple(signed))
