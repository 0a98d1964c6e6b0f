"""Alerts to the operator's webhook: JSON, signed, retried, and never in the way of a saga.

An alert is best effort: what cannot be delivered in a few tries is dropped and counted. What has to
arrive is in the failure list.
"""

import asyncio
import hashlib
import hmac
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

import aiohttp
import msgspec
import structlog

from adapters.rpc import host_of
from saga.alerting import Alert, Repeats, document
from saga.errors import StoreUnavailableError

QUEUED = 256
"""Alerts that wait for the webhook; then the oldest is dropped."""
TRIES = 5
BACKOFF_SECONDS = 1.0
"""Before the second try; doubles with each."""
TIMEOUT_SECONDS = 10.0
_AGAIN = (408, 425, 429)
"""Besides 5xx, what a server means by "not now"."""
_log = structlog.get_logger("saga.alerts")


class Claims(Protocol):
    """What is told once for all replicas. Methods raise StoreUnavailableError."""

    async def held(self, alert: Alert) -> float: ...

    async def told(self, alert: Alert) -> None: ...

    async def forget(self, alert: Alert) -> None: ...


class _RefusedError(Exception):
    """Not delivered; `final`: nor will it be. The text says why, without the URL."""

    def __init__(self, why: str, *, final: bool) -> None:
        super().__init__(why)
        self.final = final


class AlertSender:
    """`offer()` never waits; `run()` is the task that sends. Create it inside the event loop, and
    `close()` it there. `meter` is told the kind and what became of each alert: `sent`, `elsewhere`
    (another replica has told it), `failed`, `dropped` (too many waited)."""

    def __init__(
        self,
        *,
        url: str,
        secret: str | None,
        worker: str,
        network: str,
        repeat_seconds: float,
        meter: Callable[[str, str], None],
        claims: Claims | None = None,
        queued: int = QUEUED,
        backoff_seconds: float = BACKOFF_SECONDS,
        timeout_seconds: float = TIMEOUT_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = url
        self._secret = None if secret is None else secret.encode()
        self._worker = worker
        self._network = network
        self._repeats = Repeats(repeat_seconds)
        self._meter = meter
        self._claims = claims
        self._queued = queued
        self._backoff_seconds = backoff_seconds
        self._monotonic = monotonic
        self._waiting: deque[Alert] = deque()
        self._any = asyncio.Event()
        self._down = False
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=timeout_seconds),
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    def offer(self, alert: Alert) -> bool:
        """Send it as soon as possible; False when the same was given of late."""
        if not self._repeats.allows(alert, self._monotonic()):
            return False
        if len(self._waiting) >= self._queued:
            self._lost(self._waiting.popleft(), "dropped")
        self._waiting.append(alert)
        self._any.set()
        return True

    async def run(self) -> None:
        """Send what is offered, one at a time, until cancelled."""
        while True:
            await self._any.wait()
            alert = self._waiting.popleft()
            if not self._waiting:
                self._any.clear()
            try:
                await self._tell(alert)
            except Exception:  # noqa: BLE001 - an alert must not end the service
                _log.exception("alerts.crashed", kind=alert.kind.value)
                self._lost(alert, "failed")

    async def close(self) -> None:
        """What still waits is lost."""
        await self._session.close()

    async def _tell(self, alert: Alert) -> None:
        """SIDE EFFECTS: HTTP requests, the claim, counts; a line of the log when things change."""
        held_seconds = await self._held(alert)
        if held_seconds > 0:
            self._repeats.defer(alert, self._monotonic() + held_seconds)
            self._meter(alert.kind.value, "elsewhere")
            return
        delivered = await self._deliver(alert)
        if self._claims is not None:
            with suppress(StoreUnavailableError):
                await (self._claims.told(alert) if delivered else self._claims.forget(alert))
        if delivered:
            self._meter(alert.kind.value, "sent")
        else:
            self._lost(alert, "failed")

    async def _held(self, alert: Alert) -> float:
        """Without Redis, better twice than never."""
        try:
            return 0.0 if self._claims is None else await self._claims.held(alert)
        except StoreUnavailableError:
            return 0.0

    async def _deliver(self, alert: Alert) -> bool:
        """Try until it is taken, refused for good, or has been tried often enough."""
        body = msgspec.json.encode(document(alert, worker=self._worker, network=self._network))
        for number in range(TRIES):
            if number:
                await asyncio.sleep(self._backoff_seconds * 2 ** (number - 1))
            try:
                await self._post(body)
            except _RefusedError as error:
                self._failed(str(error))
                if error.final:
                    return False
            else:
                self._worked()
                return True
        return False

    async def _post(self, body: bytes) -> None:
        """A redirect is refused: what it leads to was never said to be the operator's. Raises
        _RefusedError."""
        try:
            async with self._session.post(
                self._url, data=body, headers=self._headers(body), allow_redirects=False
            ) as reply:
                status = reply.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            # The text of some of these holds the URL, and so a key: the type must do.
            raise _RefusedError(type(error).__name__, final=False) from None
        if not 200 <= status < 300:
            raise _RefusedError(f"HTTP {status}", final=status < 500 and status not in _AGAIN)

    def _headers(self, body: bytes) -> dict[str, str]:
        """The time is signed too, so that a receiver can refuse what somebody sends again later."""
        now = str(int(time.time()))
        headers = {"Content-Type": "application/json", "X-Timestamp": now}
        if self._secret is not None:
            headers["X-Signature-256"] = signature(self._secret, now, body)
        return headers

    def _lost(self, alert: Alert, outcome: str) -> None:
        """What is wrong still will be offered again; a dead letter is not."""
        self._repeats.forget(alert)
        self._meter(alert.kind.value, outcome)

    def _failed(self, why: str) -> None:
        if not self._down:
            self._down = True
            _log.warning("alerts.unavailable", host=host_of(self._url), error=why)

    def _worked(self) -> None:
        if self._down:
            self._down = False
            _log.info("alerts.back", host=host_of(self._url))


def signature(secret: bytes, timestamp: str, body: bytes) -> str:
    """What X-Signature-256 holds: HMAC-SHA256, keyed with ALERT_WEBHOOK_SECRET, of X-Timestamp
    (seconds since 1970, decimal), a dot, and the body as it was sent."""
    signed = timestamp.encode() + b"." + body
    return f"sha256={hmac.new(secret, signed, hashlib.sha256).hexdigest()}"
