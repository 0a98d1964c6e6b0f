"""All lanes that Redis knows: those of former keys too."""

from typing import cast

import structlog
from eth_utils.address import to_checksum_address
from redis.asyncio import Redis

from adapters.redis_client import translated
from adapters.redis_keys import RedisKeys, lane_of
from adapters.redis_lane import RedisLane

DRAINING, RETIRED = "draining:", "retired:"
"""How a lane's mark begins; the address of the key that it goes to follows."""
_log = structlog.get_logger("saga.lane")


class RedisLanes:
    """Every lane that a keeper ever looked after, on any chain."""

    def __init__(self, client: "Redis", keys: RedisKeys) -> None:
        self._client = client
        self._keys = keys

    def lane(self, chain_id: int, sender: str) -> RedisLane:
        """One of them, known or not."""
        return RedisLane(self._client, self._keys, chain_id=chain_id, sender=sender)

    async def is_retired(self, chain_id: int, sender: str) -> bool:
        """Whether the lane was handed over, or given up with its key."""
        return (await self.lane(chain_id, sender).standing()).retired.startswith(RETIRED)

    @translated
    async def all(self) -> list[RedisLane]:
        """By chain id and address, checksummed. What is no lane is left out."""
        names = await self._client.smembers(self._keys.lanes)
        found = []
        for name in sorted(cast("set[bytes]", names)):
            try:
                chain_id, sender = lane_of(name.decode())
                found.append(self.lane(chain_id, to_checksum_address(sender)))
            except ValueError:
                _log.error("lanes.unreadable", name=name)
        return sorted(found, key=lambda lane: lane.chain_id)
