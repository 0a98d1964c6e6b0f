"""The native token's price from a real HTTP server, and what is left of it when that is down."""

import asyncio
import json
import logging
import secrets
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import pytest
from aiohttp import web
from structlog.testing import capture_logs

import adapters.price_feed
from adapters.embedded import EmbeddedValkey, free_port
from adapters.metrics import Metrics
from adapters.price_feed import KNOWN_SECONDS, MAX_ANSWER_BYTES, PriceFeed
from adapters.redis_client import connect
from adapters.redis_keys import RedisKeys
from adapters.redis_price import RedisPrice
from saga.cli.run import RECURSION_LIMIT
from saga.fees import GWEI, Budget, Fees, Held, Limits, Market, offer

API_KEY = "hunter2"
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Source:
    """A price server; `answer` is what it does next."""

    def __init__(self) -> None:
        self.url = ""
        self.asked = 0
        self.answer = says("3000")

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked += 1
        return await self.answer(request)


def says(body: str | bytes, status: int = 200, **headers: str) -> Answer:
    """An answer with this body, which names no type that it could be judged by."""

    async def answer(_request: web.Request) -> web.StreamResponse:
        raw = body if isinstance(body, bytes) else body.encode()
        return web.Response(body=raw, status=status, headers=headers)

    return answer


async def hangs_up(request: web.Request) -> web.StreamResponse:
    """Closes the connection without a word."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def breaks_off(request: web.Request) -> web.StreamResponse:
    """Promises more than it sends."""
    response = web.StreamResponse(headers={"Content-Length": "100"})
    await response.prepare(request)
    await response.write(b"3000")
    return await hangs_up(request)


@pytest.fixture
def limited() -> Iterator[None]:
    """The recursion limit of `saga run`: what the tests import has raised it."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(RECURSION_LIMIT)
    yield
    sys.setrecursionlimit(before)


@pytest.fixture
async def source() -> AsyncIterator[Source]:
    """A price server of the test's own, its query with an API key."""
    found = Source()
    app = web.Application()
    app.router.add_get("/price", found.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    found.url = f"http://user:{API_KEY}@127.0.0.1:{port}/price?ids=eth,pol&api_key={API_KEY}"
    yield found
    await runner.cleanup()


@pytest.fixture
async def memory(valkey: EmbeddedValkey, source: Source) -> AsyncIterator[RedisPrice]:
    """The memory of the source, under a prefix of the test's own."""
    client = connect(valkey.url)
    yield memory_of(client, source.url)
    await client.aclose()


def memory_of(client: Any, url: str, path: str = "", prefix: str | None = None) -> RedisPrice:
    """The memory of one source, under a prefix of its own unless one is given."""
    prefix = prefix or f"t{secrets.token_hex(4)}:"
    keys = RedisKeys(inbound="i", processing="p", outbound="o", dead_letters="d", prefix=prefix)
    return RedisPrice(client, keys, url=url, path=path)


@asynccontextmanager
async def feed_of(source: Source, **given: Any) -> AsyncIterator[PriceFeed]:
    """A feed that asks the source, closed in the end."""
    feed = PriceFeed(**({"url": source.url} | given))
    try:
        yield feed
    finally:
        await feed.close()


async def looked(feed: PriceFeed) -> list[Any]:
    """What one look writes into the log."""
    with capture_logs() as logs:
        await feed.look()
    return logs


@pytest.mark.parametrize(
    ("body", "path", "usd"),
    [
        ("3012.55", "", "3012.55"),
        ('"3012.55"', "", "3012.55"),
        ('{"ethereum":{"usd":3012.55}}', "", "3012.55"),
        ('{"ethereum":{"usd":3012.55}}', "ethereum.usd", "3012.55"),
        ('{"data":{"amount":"3012.550","base":"ETH","currency":"USD"}}', "", "3012.550"),
        ('{"data":{"amount":"3012.5","base":"ETH"},"at":1700000000}', "data.amount", "3012.5"),
        (
            '{"error":[],"result":{"XETHUSD":{"c":["3012.5","1"]}}}',
            "result.XETHUSD.c.0",
            "3012.5",
        ),
        ('[["eth",{"0":3012}]]', "0.1.0", "3012"),
        ('{"usd":3e3}', "usd", "3000"),
        ('{"usd":"1.5E-7"}', "usd", "1.5E-7"),
        (
            '{"usd":0.10000000000000000555111512312578}',
            "",
            "0.10000000000000000555111512312578",
        ),
        ('{"usd":1000000000}', "", "1000000000"),
        ('{"usd":0.000000000000000001}', "", "1E-18"),
        ('{"ok":true,"none":null,"usd":7}', "", "7"),
        ('{"usd":7}'.encode("utf-16"), "", "7"),
    ],
)
async def test_answers(source: Source, body: str | bytes, path: str, usd: str) -> None:
    """A price is read where it stands, as a number or as its text, and exactly."""
    source.answer = says(body)
    async with feed_of(source, path=path) as feed:
        assert await looked(feed) == []
        assert feed.usd == Decimal(usd)
        assert feed.age_seconds is not None


BAD = [
    pytest.param(says("3000", 503), "", "HTTP 503", id="down"),
    pytest.param(says("3000", 401), "", "HTTP 401", id="no key"),
    pytest.param(says("", 302, Location="/price"), "", "HTTP 302", id="elsewhere"),
    pytest.param(says("", 204), "", "HTTP 204", id="empty"),
    pytest.param(hangs_up, "", "ServerDisconnectedError", id="hangs up"),
    pytest.param(breaks_off, "", "ClientPayloadError", id="breaks off"),
    pytest.param(says(""), "", "the answer is no JSON", id="nothing"),
    pytest.param(says("<html>3000</html>"), "", "the answer is no JSON", id="a page"),
    pytest.param(says(b"\xff\xfe\xff"), "", "the answer is no JSON", id="bytes"),
    pytest.param(says("[" * 200_000), "", "the answer is no JSON", id="too deep"),
    pytest.param(says("1e99999999999999999999"), "", "the answer is no JSON", id="exponent"),
    pytest.param(says(b"9" * (MAX_ANSWER_BYTES + 1)), "", "is larger than 1048576", id="large"),
    pytest.param(says("{}"), "", "holds 0 numbers: set NATIVE_TOKEN_USD_PATH", id="no number"),
    pytest.param(says("[1,2]"), "", "holds 2 numbers: set NATIVE_TOKEN_USD_PATH", id="several"),
    pytest.param(says("true"), "", "holds 0 numbers", id="no number either"),
    pytest.param(says('"3,000.00"'), "", "holds 0 numbers", id="commas"),
    pytest.param(says('"$3000"'), "", "holds 0 numbers", id="a sign"),
    pytest.param(says('{"eth":{"eur":1}}'), "eth.usd", "leads to no number", id="other name"),
    pytest.param(says('{"eth":1}'), "eth.usd", "leads to no number", id="too short"),
    pytest.param(says('{"eth":{"usd":1}}'), "eth", "leads to no number", id="not far enough"),
    pytest.param(says("[1]"), "1", "leads to no number", id="beyond the list"),
    pytest.param(says("[1]"), "-1", "leads to no number", id="before the list"),
    pytest.param(says("[1]"), "9" * 5000, "leads to no number", id="far beyond it"),
    pytest.param(says("0"), "", "is not between 1E-18 and 1000000000 USD", id="zero"),
    pytest.param(says("-3000"), "", "is not between", id="negative"),
    pytest.param(says("NaN"), "", "is not between", id="NaN"),
    pytest.param(says("Infinity"), "", "is not between", id="infinite"),
    pytest.param(says('"NaN"'), "", "holds 0 numbers", id="NaN as text"),
    pytest.param(says("1000000000.01"), "", "is not between", id="huge"),
    pytest.param(says("1e999999"), "", "is not between", id="huger"),
    pytest.param(says("1e-19"), "", "is not between", id="tiny"),
    pytest.param(says("9" * 500_000), "", "is not between", id="half a megabyte of digits"),
    pytest.param(says("1." + "1" * 60), "", "more than 60 digits", id="many decimals"),
]


@pytest.mark.usefixtures("limited")
@pytest.mark.parametrize(("answer", "path", "why"), BAD)
async def test_bad_answers(
    source: Source, answer: Answer, path: str, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What is no price changes nothing: one line says why and what that means, with no secret."""
    caplog.set_level(logging.DEBUG)
    source.answer = answer
    async with feed_of(source, path=path) as feed:
        (line,) = await looked(feed)
        assert await looked(feed) == []
        assert feed.usd is None
        assert feed.age_seconds is None
    assert line["event"] == "price.unavailable"
    assert line["log_level"] == "warning"
    assert why in line["error"]
    assert line["effect"] == "no price was ever known: MAX_DEPLOYMENT_COST_USD is not active"
    assert line["host"].startswith("http://127.0.0.1:")
    assert API_KEY not in f"{line}{caplog.text}"


async def test_nobody_there(caplog: pytest.LogCaptureFixture) -> None:
    """A source that is not there is told of by its host alone."""
    caplog.set_level(logging.DEBUG)
    host = f"http://127.0.0.1:{free_port()}"
    feed = PriceFeed(url=f"{host}/{API_KEY}?api_key={API_KEY}")
    (line,) = await looked(feed)
    await feed.close()
    assert line["host"] == host
    assert line["error"] == "ClientConnectorError"
    assert API_KEY not in f"{line}{caplog.text}"


async def test_slow(source: Source) -> None:
    """A source that takes too long is one that is down."""
    released = asyncio.Event()

    async def slow(_request: web.Request) -> web.StreamResponse:
        await released.wait()
        return web.Response(text="3000")

    source.answer = slow
    async with feed_of(source, timeout_seconds=0.05) as feed:
        (line,) = await looked(feed)
    released.set()
    assert "Timeout" in line["error"]


async def test_down_and_back(source: Source) -> None:
    """While the source is down its last price stays; the log has one line at each turn."""
    clock = [0.0]
    async with feed_of(source, monotonic=lambda: clock[0]) as feed:
        assert await looked(feed) == []
        source.answer = says("no", 500)
        clock[0] = 90
        (line,) = await looked(feed)
        assert line["effect"] == "the price of 90 s ago, 3000 USD, stays in use"
        assert await looked(feed) == []
        source.answer = says("garbage")
        assert await looked(feed) == []
        assert (feed.usd, feed.age_seconds) == (Decimal(3000), 90)
        source.answer = says("2999.5")
        (line,) = await looked(feed)
        assert (line["event"], line["log_level"], line["usd"]) == ("price.back", "info", "2999.5")
        assert (feed.usd, feed.age_seconds) == (Decimal("2999.5"), 0)
        assert await looked(feed) == []
        source.answer = says("no", 500)
        assert len(await looked(feed)) == 1


async def test_a_week_without_the_source(source: Source) -> None:
    """A price of a week ago is not known any more, to the second; one warning says so, and one line
    that the source is back."""
    clock = [0.0]
    async with feed_of(source, monotonic=lambda: clock[0]) as feed:
        await feed.look()
        source.answer = says("no", 500)
        clock[0] = KNOWN_SECONDS - 1
        (line,) = await looked(feed)
        assert line["effect"] == "the price of 604799 s ago, 3000 USD, stays in use"
        assert (feed.usd, feed.age_seconds) == (Decimal(3000), KNOWN_SECONDS - 1)
        clock[0] = KNOWN_SECONDS
        assert (feed.usd, feed.age_seconds) == (None, None)
        (line,) = await looked(feed)
        assert (line["event"], line["log_level"]) == ("price.unavailable", "warning")
        assert line["effect"] == (
            "the last price is older than 7 days and not used any more: "
            "MAX_DEPLOYMENT_COST_USD is not active"
        )
        clock[0] += KNOWN_SECONDS
        assert await looked(feed) == []
        source.answer = says("2000")
        (line,) = await looked(feed)
        assert line["event"] == "price.back"
        assert (feed.usd, feed.age_seconds) == (Decimal(2000), 0)


async def test_a_week_asleep(source: Source) -> None:
    """A process that was stopped for a week knows no price, and says so at once and once."""
    clock = [0.0]
    async with feed_of(source, monotonic=lambda: clock[0]) as feed:
        await feed.look()
        source.answer = says("no", 500)
        clock[0] = KNOWN_SECONDS
        (line,) = await looked(feed)
        assert "older than 7 days" in line["effect"]
        assert await looked(feed) == []


async def test_a_week_over_a_restart(source: Source, memory: RedisPrice) -> None:
    """A week is a week for all replicas: one that took the price from the memory forgets it when
    the one that heard it does."""
    clock = [0.0]
    await memory.keep(Decimal(3000))
    source.answer = says("no", 500)
    async with feed_of(source, memory=memory, monotonic=lambda: clock[0]) as feed:
        await feed.look()
        age = feed.age_seconds
        assert age is not None
        clock[0] = KNOWN_SECONDS - age - 1
        assert feed.usd == 3000
        clock[0] += 2
        assert feed.usd is None
        # What another replica has heard since is known.
        await memory.keep(Decimal(2000))
        assert await looked(feed) == []
        assert feed.usd == 2000


async def test_a_fixed_price_never_grows_old() -> None:
    """What the operator has fixed is known for as long as the process runs."""
    clock = [0.0]
    feed = PriceFeed(fixed=Decimal(3000), monotonic=lambda: clock[0])
    clock[0] = 2 * KNOWN_SECONDS
    await feed.look()
    assert (feed.usd, feed.age_seconds) == (Decimal(3000), None)
    await feed.close()


async def test_limit_follows(source: Source) -> None:
    """A limit in dollars holds once a price is known, and lets go when the token gets cheap."""
    limits = Limits(max_fee=100 * GWEI, max_cost_usd=Decimal(50))
    market = Market(base_fee=10 * GWEI, tip=GWEI)
    async with feed_of(source) as feed:
        budget = Budget(limits, lambda: feed.usd)
        assert isinstance(offer(market, budget.limits, 3_000_000), Fees)
        await feed.look()
        held = offer(market, budget.limits, 3_000_000)
        assert isinstance(held, Held)
        assert held.reason.endswith("token at 3000 USD, above MAX_DEPLOYMENT_COST_USD 50")
        source.answer = says("1500")
        await feed.look()
        assert isinstance(offer(market, budget.limits, 3_000_000), Fees)


async def test_runs_for_ever(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """A feed asks again and again, through failures, until it is cancelled."""
    monkeypatch.setattr(adapters.price_feed, "PRICE_SECONDS", 0.001)
    enough = asyncio.Event()

    async def answer(_request: web.Request) -> web.StreamResponse:
        if source.asked == 4:
            enough.set()
        return web.Response(text=str(source.asked), status=500 if source.asked % 2 else 200)

    source.answer = answer
    async with feed_of(source) as feed:
        running = asyncio.create_task(feed.run())
        await enough.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert feed.usd in (2, 4)


async def test_run_after_a_look(source: Source) -> None:
    """A look before the run is the run's first: a start asks once."""
    async with feed_of(source) as feed:
        await feed.look()
        running = asyncio.create_task(feed.run())
        for _ in range(10):
            await asyncio.sleep(0)
        assert not running.done()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert source.asked == 1


@pytest.mark.parametrize("fixed", [Decimal("3000.5"), None])
async def test_nothing_to_ask(fixed: Decimal | None) -> None:
    """A fixed price, or none, asks nobody, has no age, and its run waits for ever all the same."""
    feed = PriceFeed(fixed=fixed)
    running = asyncio.create_task(feed.run())
    for _ in range(10):
        await asyncio.sleep(0)
    assert not running.done()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await feed.close()
    assert (feed.usd, feed.age_seconds) == (fixed, None)


async def test_remembered(source: Source, memory: RedisPrice) -> None:
    """A replica that starts while the source is down knows the last price, and how old it is."""
    source.answer = says("3012.550000000000000001")
    async with feed_of(source, memory=memory) as before:
        await before.look()
    source.answer = says("no", 500)
    async with feed_of(source, memory=memory, monotonic=lambda: 5.0) as after:
        (line,) = await looked(after)
        assert after.usd == Decimal("3012.550000000000000001")
        assert after.age_seconds is not None
        assert after.age_seconds >= 0
    assert line["effect"].endswith(" s ago, 3012.550000000000000001 USD, stays in use")


async def test_another_replicas_price(source: Source, memory: RedisPrice) -> None:
    """A replica that the source fails goes by what another one heard since, by nothing older."""
    clock = [0.0]
    async with (
        feed_of(source, memory=memory, monotonic=lambda: clock[0]) as ours,
        feed_of(source, memory=memory) as theirs,
    ):
        await theirs.look()
        source.answer = says("2900")
        await ours.look()
        await memory.keep(Decimal(2800))
        source.answer = says("no", 500)
        await ours.look()
        assert ours.usd == 2900
        clock[0] = 10_000
        await ours.look()
        assert ours.usd == 2800
        assert ours.age_seconds is not None
        assert ours.age_seconds < 10_000


async def test_memory_by_source(valkey: EmbeddedValkey, source: Source) -> None:
    """Another token of the same source, or another number of its answer, has its own memory; what
    is stored goes after a week, and holds no secret."""
    client = connect(valkey.url)
    prefix = f"t{secrets.token_hex(4)}:"
    kept = memory_of(client, source.url, prefix=prefix)
    await kept.keep(Decimal(3000))
    assert await kept.last() is not None
    other_token = memory_of(client, source.url.replace("eth", "btc"), prefix=prefix)
    assert await other_token.last() is None
    assert await memory_of(client, source.url, "eth.usd", prefix).last() is None
    (key,) = await client.keys(f"{prefix}*")
    assert 0 < await client.ttl(key) <= KNOWN_SECONDS
    assert API_KEY not in f"{key!r}{await client.get(key)!r}"
    await client.aclose()


@pytest.mark.parametrize(
    "stored",
    [
        *("garbage", "{}", '{"usd":3000,"at_ms":0}', '{"usd":"NaN","at_ms":0}', b"\xff"),
        *('{"usd":"0","at_ms":0}', '{"usd":"-1","at_ms":0}', '{"usd":"1E999","at_ms":0}'),
    ],
)
async def test_foreign_memory(source: Source, valkey: EmbeddedValkey, stored: str | bytes) -> None:
    """What somebody else wrote into the memory is no price."""
    client = connect(valkey.url)
    prefix = f"t{secrets.token_hex(4)}:"
    memory = memory_of(client, source.url, prefix=prefix)
    await memory.keep(Decimal(1))
    (key,) = await client.keys(f"{prefix}*")
    await client.set(key, stored)
    source.answer = says("no", 500)
    async with feed_of(source, memory=memory) as feed:
        await feed.look()
        assert feed.usd is None
    await client.aclose()


async def test_old_memory(source: Source, valkey: EmbeddedValkey) -> None:
    """The age of what is remembered goes by the server's clock."""
    client = connect(valkey.url)
    prefix = f"t{secrets.token_hex(4)}:"
    memory = memory_of(client, source.url, prefix=prefix)
    await memory.keep(Decimal(3000))
    (key,) = await client.keys(f"{prefix}*")
    kept = json.loads(await client.get(key) or b"")
    await client.set(key, json.dumps(kept | {"at_ms": kept["at_ms"] - 3_600_000}))
    source.answer = says("no", 500)
    async with feed_of(source, memory=memory, monotonic=lambda: 7.0) as feed:
        await feed.look()
        assert feed.usd == 3000
        assert feed.age_seconds is not None
        assert feed.age_seconds >= 3600
    await client.aclose()


async def test_memory_away(source: Source) -> None:
    """Without Redis a price is known all the same, and a source that is down is told of."""
    client = connect(f"redis://127.0.0.1:{free_port()}/0", retries=0)
    async with feed_of(source, memory=memory_of(client, source.url)) as feed:
        assert await looked(feed) == []
        assert feed.usd == 3000
        source.answer = says("no", 500)
        assert len(await looked(feed)) == 1
    await client.aclose()


async def test_metrics(source: Source) -> None:
    """The price and its age are shown once they are known, the age only where it changes."""
    clock = [10.0]
    async with feed_of(source, monotonic=lambda: clock[0]) as feed:
        metrics = Metrics()
        metrics.watch_price(feed)
        assert b"native_token" not in metrics.exposition()[0]
        await feed.look()
        clock[0] = 100
        shown = metrics.exposition()[0]
        assert b"\nsaga_native_token_usd 3000.0\n" in shown
        assert b"\nsaga_native_token_usd_age_seconds 90.0\n" in shown
    metrics = Metrics()
    metrics.watch_price(PriceFeed(fixed=Decimal("0.5")))
    shown = metrics.exposition()[0]
    assert b"\nsaga_native_token_usd 0.5\n" in shown
    assert b"age_seconds" not in shown
