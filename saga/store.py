"""The operator's side of Redis, put together without the chain: commands start fast."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from adapters.redis_client import connect
from adapters.redis_keys import RedisKeys
from adapters.redis_queue import RedisQueue
from adapters.redis_views import RedisViews
from saga.config import StoreSettings


def redis_keys(settings: StoreSettings) -> RedisKeys:
    return RedisKeys(
        inbound=settings.INBOUND_QUEUE,
        processing=settings.processing_queue,
        outbound=settings.OUTBOUND_QUEUE,
        dead_letters=settings.dead_letter_queue,
        failures=settings.FAILURE_QUEUE,
        prefix=settings.KEY_PREFIX,
    )


@asynccontextmanager
async def open_store(settings: StoreSettings) -> AsyncIterator[tuple[RedisViews, RedisQueue]]:
    """What the operator's commands need of Redis."""
    client = connect(settings.redis, retries=0)
    keys = redis_keys(settings)
    queue = RedisQueue(settings.redis, client, keys)
    try:
        yield RedisViews(client, keys), queue
    finally:
        await queue.close()
        await client.aclose()
