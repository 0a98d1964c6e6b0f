"""The alerts of one process, put together; without ALERT_WEBHOOK_URL there are none."""

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

import msgspec
from redis.asyncio import Redis

from adapters.alert_watch import AlertWatch
from adapters.alerts import AlertSender
from adapters.metrics import Metrics
from adapters.redis_alerts import RedisAlerts
from saga.alerting import Thresholds, of_failure
from saga.chain_parts import ChainParts
from saga.config import Settings
from saga.failure_event import TokenDeployFailedMessage
from saga.store import redis_keys


class AlertParts(msgspec.Struct, frozen=True, kw_only=True):
    """What runs beside the sagas, and what a dead-lettering calls."""

    tasks: Sequence[Callable[[], Coroutine[Any, Any, None]]]
    on_failed: Callable[[TokenDeployFailedMessage], None]
    close: Callable[[], Awaitable[None]]


def open_alerts(
    settings: Settings, client: "Redis", parts: ChainParts, metrics: Metrics, worker: str
) -> AlertParts:
    """Call it inside the event loop, and `close()` what it gives there."""
    url, secret = settings.ALERT_WEBHOOK_URL, settings.ALERT_WEBHOOK_SECRET
    if url is None:
        return AlertParts(tasks=(), on_failed=lambda _failure: None, close=_nothing)
    repeat_seconds = settings.ALERT_REPEAT_MINUTES * 60
    store = RedisAlerts(client, redis_keys(settings), seconds=repeat_seconds)
    sender = AlertSender(
        url=url.get_secret_value(),
        secret=None if secret is None else secret.get_secret_value(),
        worker=worker,
        network=parts.network,
        repeat_seconds=repeat_seconds,
        meter=metrics.alert,
        claims=store,
    )
    thresholds = Thresholds(
        queue_depth=settings.ALERT_QUEUE_DEPTH,
        stall_seconds=settings.ALERT_STALL_MINUTES * 60,
    )
    watch = AlertWatch(sender, store, parts.purse, parts.lanes, thresholds)
    return AlertParts(
        tasks=(sender.run, watch.run),
        on_failed=lambda failure: _offer(sender, failure),
        close=sender.close,
    )


def _offer(sender: AlertSender, failure: TokenDeployFailedMessage) -> None:
    sender.offer(of_failure(failure))


async def _nothing() -> None:
    pass
