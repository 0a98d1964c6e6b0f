"""Alerts against a real HTTP server: signed, retried, bounded, and never in anybody's way."""

import asyncio
import hashlib
import hmac
import logging
import secrets
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from adapters.alerts import TRIES, AlertSender
from adapters.embedded import EmbeddedValkey, free_port
from adapters.redis_alerts import RedisAlerts
from adapters.redis_client import connect
from saga.alerting import Alert, AlertKind, Pulse
from saga.model import State
from tests.integration.lua.store import Corner, message, opened
from tests.support.webhook import PATH_KEY, Webhook, says, webhook

SECRET = "correct-horse-battery-staple"
A = "0x" + "aa" * 20


class Tally(Counter[tuple[str, str]]):
    """What became of alerts, by kind and outcome."""

    def __init__(self) -> None:
        super().__init__()
        self._changed = asyncio.Event()

    def meter(self, kind: str, outcome: str) -> None:
        self[kind, outcome] += 1
        self._changed.set()

    async def until(self, total: int) -> None:
        """Wait until something has become of so many."""
        async with asyncio.timeout(20):
            while self.total() < total:
                self._changed.clear()
                await self._changed.wait()


def alert(subject: str = A, kind: AlertKind = AlertKind.LOW_BALANCE) -> Alert:
    return Alert(kind=kind, subject=subject, reason=f"{subject} has nothing")


@pytest.fixture
async def hook() -> AsyncIterator[Webhook]:
    async with webhook() as found:
        yield found


@pytest.fixture
async def corner(valkey: EmbeddedValkey) -> AsyncIterator[Corner]:
    async with opened(valkey.url) as found:
        yield found


@asynccontextmanager
async def sender_to(url: str, **given: Any) -> AsyncIterator[tuple[AlertSender, Tally]]:
    """A sender that runs, and what it counts; retries come soon."""
    counts = Tally()
    defaults: dict[str, Any] = {
        "secret": SECRET,
        "worker": "w1",
        "network": "sepolia",
        "repeat_seconds": 3600,
        "meter": counts.meter,
        "backoff_seconds": 0.001,
    }
    sender = AlertSender(url=url, **defaults | given)
    task = asyncio.create_task(sender.run())
    try:
        yield sender, counts
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await sender.close()


async def test_sent_and_signed(hook: Webhook) -> None:
    """An alert is one POST of JSON that the receiver can prove to be ours, and of now."""
    async with sender_to(hook.url) as (sender, counts):
        assert sender.offer(alert())
        await counts.until(1)
    ((headers, body),) = hook.requests
    assert headers["Content-Type"] == "application/json"
    assert headers["X-Timestamp"].isdecimal()
    signed = headers["X-Timestamp"].encode() + b"." + body
    expected = hmac.new(SECRET.encode(), signed, hashlib.sha256).hexdigest()
    assert headers["X-Signature-256"] == f"sha256={expected}"
    (document,) = hook.documents
    assert document == {
        "text": f"[critical] sepolia: low balance\n{A} has nothing",
        "event": "low_balance",
        "severity": "critical",
        "saga_id": None,
        "model_id": None,
        "reason": f"{A} has nothing",
        "worker": "w1",
        "network": "sepolia",
    }
    assert counts == {("low_balance", "sent"): 1}
    assert SECRET.encode() not in body


async def test_unsigned(hook: Webhook) -> None:
    """Without a secret there is no signature: Slack asks for none."""
    async with sender_to(hook.url, secret=None) as (sender, counts):
        sender.offer(alert())
        await counts.until(1)
    ((headers, _),) = hook.requests
    assert "X-Signature-256" not in headers


async def test_given_once(hook: Webhook) -> None:
    """The same alert is sent once in its time, another subject's beside it."""
    clock = [0.0]
    async with sender_to(hook.url, monotonic=lambda: clock[0]) as (sender, counts):
        assert [sender.offer(alert()) for _ in range(3)] == [True, False, False]
        assert sender.offer(alert("other"))
        await counts.until(2)
        clock[0] = 3600
        assert sender.offer(alert())
        await counts.until(3)
    assert [each["reason"].split()[0] for each in hook.documents] == [A, "other", A]


@pytest.mark.parametrize("status", [500, 503, 429, 408])
async def test_retried(hook: Webhook, status: int) -> None:
    """What may pass is tried again, signed anew; the log says it once, and once that it passed."""
    hook.answers = [says(status), says(status), says(204)]
    with capture_logs() as logs:
        async with sender_to(hook.url) as (sender, counts):
            sender.offer(alert())
            await counts.until(1)
    assert len(hook.requests) == 3
    assert len({body for _, body in hook.requests}) == 1
    assert counts == {("low_balance", "sent"): 1}
    assert [line["event"] for line in logs] == ["alerts.unavailable", "alerts.back"]
    assert logs[0]["error"] == f"HTTP {status}"
    assert PATH_KEY not in str(logs)


@pytest.mark.parametrize("status", [400, 404, 410])
async def test_refused(hook: Webhook, status: int) -> None:
    """What will not pass is not tried again, and may be offered anew."""
    hook.answers = [says(status)]
    async with sender_to(hook.url) as (sender, counts):
        sender.offer(alert())
        await counts.until(1)
        assert sender.offer(alert())
        await counts.until(2)
    assert counts == {("low_balance", "failed"): 2}
    assert len(hook.requests) == 2


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_redirected(hook: Webhook, status: int) -> None:
    """A redirect is refused: nobody said that what is there may know."""
    hook.answers = [says(status, Location="/elsewhere")]
    async with sender_to(hook.url) as (sender, counts):
        sender.offer(alert())
        await counts.until(1)
    assert counts == {("low_balance", "failed"): 1}
    assert len(hook.requests) == 1


async def test_down(caplog: pytest.LogCaptureFixture) -> None:
    """A webhook that is down is tried a few times for each alert and told of once; no line has
    its URL."""
    caplog.set_level(logging.DEBUG)
    host = f"127.0.0.1:{free_port()}"
    url = f"http://u:{SECRET}@{host}/services/{PATH_KEY}"
    with capture_logs() as logs:
        async with sender_to(url) as (sender, counts):
            sender.offer(alert())
            sender.offer(alert("other"))
            await counts.until(2)
    assert counts == {("low_balance", "failed"): 2}
    (line,) = logs
    assert (line["event"], line["host"]) == ("alerts.unavailable", f"http://{host}")
    assert PATH_KEY not in str(logs) + caplog.text
    assert SECRET not in str(logs) + caplog.text


async def test_comes_back() -> None:
    """What comes after an outage is sent."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/services/{PATH_KEY}"
    async with sender_to(url) as (sender, counts):
        sender.offer(alert())
        await counts.until(1)
        async with webhook(port) as hook:
            sender.offer(alert())
            await counts.until(2)
    assert counts == {("low_balance", "failed"): 1, ("low_balance", "sent"): 1}
    assert len(hook.requests) == 1


async def test_slow(hook: Webhook) -> None:
    """A webhook that takes the connection and says nothing is given up, try by try; whoever
    offers an alert meanwhile does not wait."""
    released = asyncio.Event()

    async def hangs(_request: web.Request) -> web.StreamResponse:
        await released.wait()
        return web.Response()

    hook.answers = [hangs]
    async with sender_to(hook.url, timeout_seconds=0.3) as (sender, counts):
        sender.offer(alert())
        await hook.until(1)
        assert all(sender.offer(alert(str(number))) for number in range(20))
        assert not counts
        await counts.until(1)
        released.set()
        hook.answers = [says(200)]
        await counts.until(21)
    assert counts == {("low_balance", "failed"): 1, ("low_balance", "sent"): 20}
    assert len(hook.requests) >= TRIES + 20


async def test_full(hook: Webhook) -> None:
    """A full queue drops the oldest and counts it; what was dropped may be offered again."""
    released = asyncio.Event()

    async def waits(_request: web.Request) -> web.StreamResponse:
        await released.wait()
        return web.Response()

    hook.answers = [waits, says(200)]
    async with sender_to(hook.url, queued=3) as (sender, counts):
        sender.offer(alert("first"))
        await hook.until(1)
        for name in ("a", "b", "c", "d", "e"):
            assert sender.offer(alert(name))
        assert counts == {("low_balance", "dropped"): 2}
        assert not sender.offer(alert("e"))
        released.set()
        await counts.until(6)
        assert sender.offer(alert("a"))
        await counts.until(7)
    names = [each["reason"].split()[0] for each in hook.documents]
    assert names == ["first", "c", "d", "e", "a"]


async def test_a_broken_claim_ends_nothing(hook: Webhook) -> None:
    """A bug in what an alert needs is counted, and the next alert is sent."""

    class Broken:
        async def held(self, found: Alert) -> float:
            if found.subject == A:
                raise RuntimeError("a bug")
            return 0.0

        async def told(self, _found: Alert) -> None:
            pass

        async def forget(self, _found: Alert) -> None:
            pass

    with capture_logs() as logs:
        async with sender_to(hook.url, claims=Broken()) as (sender, counts):
            sender.offer(alert())
            sender.offer(alert("other"))
            await counts.until(2)
    assert counts == {("low_balance", "failed"): 1, ("low_balance", "sent"): 1}
    assert [line["event"] for line in logs] == ["alerts.crashed"]


# --- What replicas tell each other.


def store_of(corner: Corner) -> RedisAlerts:
    """As one replica has it."""
    return RedisAlerts(corner.client, corner.keys, seconds=3600)


async def test_one_replica_tells(hook: Webhook, corner: Corner) -> None:
    """Of replicas that see the same, one tells; the others count that another has."""
    async with (
        sender_to(hook.url, claims=store_of(corner)) as (one, ones),
        sender_to(hook.url, claims=store_of(corner)) as (two, twos),
    ):
        one.offer(alert())
        two.offer(alert())
        await ones.until(1)
        await twos.until(1)
    assert sorted([*ones, *twos]) == [("low_balance", "elsewhere"), ("low_balance", "sent")]
    assert len(hook.requests) == 1
    (key,) = await corner.client.keys(f"{corner.keys.prefix}alert:*")
    assert 0 < await corner.client.pttl(key) <= 3_600_000


async def test_a_failure_is_anybodys(hook: Webhook, corner: Corner) -> None:
    """An alert that one replica could not deliver is another's to deliver."""
    hook.answers = [says(404), says(200)]
    async with (
        sender_to(hook.url, claims=store_of(corner)) as (one, ones),
        sender_to(hook.url, claims=store_of(corner)) as (two, twos),
    ):
        one.offer(alert())
        await ones.until(1)
        two.offer(alert())
        await twos.until(1)
    assert [*ones, *twos] == [("low_balance", "failed"), ("low_balance", "sent")]


async def test_claimed_twice_by_one(corner: Corner) -> None:
    """A claim whose answer was lost is known as our own, and given back by nobody else."""
    ours, theirs = store_of(corner), store_of(corner)
    assert await ours.held(alert()) == 0
    assert await ours.held(alert()) == 0
    assert 0 < await theirs.held(alert()) <= 90
    await theirs.forget(alert())
    await theirs.told(alert())
    assert 0 < await theirs.held(alert()) <= 90
    await ours.told(alert())
    assert 3500 < await theirs.held(alert()) <= 3600
    await ours.forget(alert())
    assert await theirs.held(alert()) == 0


async def test_the_teller_dies(hook: Webhook, corner: Corner) -> None:
    """An alert that a replica has claimed and not delivered is another's once the claim ends: that
    one asks again."""
    clock = [0.0]
    dead = store_of(corner)
    assert await dead.held(alert()) == 0
    async with sender_to(hook.url, claims=store_of(corner), monotonic=lambda: clock[0]) as (
        sender,
        counts,
    ):
        assert sender.offer(alert())
        await counts.until(1)
        assert not sender.offer(alert())
        clock[0] = 90
        (key,) = await corner.client.keys(f"{corner.keys.prefix}alert:*")
        await corner.client.delete(key)  # as its time does
        assert sender.offer(alert())
        await counts.until(2)
        clock[0] = 180
        assert not sender.offer(alert())
    assert [*counts] == [("low_balance", "elsewhere"), ("low_balance", "sent")]
    assert len(hook.requests) == 1


async def test_low_filled_low(hook: Webhook, corner: Corner) -> None:
    """A balance that is low again soon after it was filled is told again, by whoever sees it, and
    that it is filled again too."""
    low, filled = alert(), alert(kind=AlertKind.BALANCE_FILLED)
    async with (
        sender_to(hook.url, claims=store_of(corner)) as (one, ones),
        sender_to(hook.url, claims=store_of(corner)) as (two, twos),
    ):
        for number, found in enumerate((low, filled, low, filled), 1):
            assert one.offer(found)
            await ones.until(number)
            assert two.offer(found)
            await twos.until(number)
    told = [each["event"] for each in hook.documents]
    assert told == ["low_balance", "balance_filled"] * 2
    assert twos == {("low_balance", "elsewhere"): 2, ("balance_filled", "elsewhere"): 2}


async def test_without_redis(hook: Webhook, corner: Corner) -> None:
    """While Redis is away an alert is sent all the same: better twice than never."""
    client = connect(f"redis://127.0.0.1:{free_port()}/0", retries=0)
    store = RedisAlerts(client, corner.keys, seconds=3600)
    async with sender_to(hook.url, claims=store) as (sender, counts):
        sender.offer(alert())
        await counts.until(1)
    assert counts == {("low_balance", "sent"): 1}
    await client.aclose()


async def test_pulse(corner: Corner) -> None:
    """The pulse has what waits, and the time of the newest move of any saga."""
    store = store_of(corner)
    nothing = Pulse(inbound=0, paused=False, active=0, newest_ms=0)
    assert await store.pulse() == nothing
    worker = corner.worker()
    saga = await corner.begin_in(worker, State.VALIDATED)
    await corner.begin_in(worker, State.ACKED, message("m2"))
    await corner.client.lpush(corner.keys.inbound, secrets.token_hex(4), "x")
    found = await store.pulse()
    assert (found.inbound, found.active, found.waiting) == (2, 1, 3)
    assert found.newest_ms >= (await corner.read(saga)).updated_ms
    await corner.client.set(corner.keys.pause, "{}")
    assert (await store.pulse()).waiting == 1
