"""All lanes that Redis knows: those of former keys too."""

from typing import cast

import structlog
from eth_utils.address import to_checksum_address
from redis.asyncio import Redis

from adapters.redis_client import translated
from adapters.redis_durable import Durability
from adapters.redis_keys import RedisKeys, lane_name, lane_of
from adapters.redis_lane import RedisLane

DRAINING, RETIRED = "draining:", "retired:"
"""How a lane's mark begins; the address of the key that it goes to follows."""
ABANDON = "abandon"
"""Whose mark it is where the key was given up as lost."""
PAGE = 1000
"""Keys of Redis that one step of SCAN looks at."""
_log = structlog.get_logger("saga.lane")


class RedisLanes:
    """Every lane that a keeper ever looked after, on any chain."""

    def __init__(
        self, client: "Redis", keys: RedisKeys, *, durability: Durability = "none"
    ) -> None:
        self._client = client
        self._keys = keys
        self._durability = durability

    def lane(self, chain_id: int, sender: str) -> RedisLane:
        """One of them, known or not."""
        return RedisLane(
            self._client,
            self._keys,
            chain_id=chain_id,
            sender=sender,
            durability=self._durability,
        )

    async def is_retired(self, chain_id: int, sender: str) -> bool:
        """Whether the lane was handed over, or given up with its key."""
        return (await self.lane(chain_id, sender).standing()).retired.startswith(RETIRED)

    @translated
    async def knows(self, chain_id: int, sender: str) -> bool:
        """Whether the key ever had a lane here, or a mark."""
        if await self._client.exists(self._keys.lane(chain_id, sender)):
            return True
        listed = await self._client.sismember(self._keys.lanes, lane_name(chain_id, sender))
        return bool(listed)

    @translated
    async def all(self) -> list[RedisLane]:
        """By chain id and address, checksummed. What is no lane is left out."""
        names = cast("set[bytes]", await self._client.smembers(self._keys.lanes))
        found = []
        for name in sorted(names | await self._unlisted()):
            try:
                chain_id, sender = lane_of(name.decode())
                found.append(self.lane(chain_id, to_checksum_address(sender)))
            except ValueError:
                _log.error("lanes.unreadable", name=name)
        return sorted(found, key=lambda lane: lane.chain_id)

    @translated
    async def remember(self) -> None:
        """List the lanes of releases that kept no list, so that nobody need search for them again.

        SIDE EFFECTS: in each Redis once, the set of all lanes.
        """
        if await self._listed():
            return
        pipe = self._client.pipeline(transaction=True)
        if names := await self._unlisted():
            pipe.sadd(self._keys.lanes, *names)
        pipe.set(self._keys.lanes_listed, 1)
        await pipe.execute()

    async def _listed(self) -> bool:
        return bool(await self._client.exists(self._keys.lanes_listed))

    async def _unlisted(self) -> set[bytes]:
        """The names of all lanes that are there; none once all of them are listed."""
        if await self._listed():
            return set()
        keys = self._client.scan_iter(self._keys.lane_pattern, count=PAGE, _type="HASH")
        names = [self._keys.lane_named(key.decode("utf-8", "replace")) async for key in keys]
        return {name.encode() for name in names if name is not None}
