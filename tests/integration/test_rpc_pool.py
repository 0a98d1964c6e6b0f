"""Laws of several endpoints: a read finds one that answers, a transaction reaches all."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from eth_account import Account
from structlog.testing import capture_logs

from adapters import rpc_send
from adapters.embedded import DEV_MNEMONIC_KEY, EmbeddedAnvil
from adapters.rpc import Request, RpcError
from adapters.rpc_health import Circuit
from adapters.rpc_pool import RpcPool
from saga.errors import ChainError, ChainUnavailableError
from tests.support import proxy as faults
from tests.support.proxy import Exchange, Fault, Proxy, Response, each_call, open_proxy

CHAIN = 31337
OTHER_CHAIN = 5
SECRET = "s3cr3t"
SILENCE_SECONDS = 1.0
"""The time-out where a node is silent: long enough for the other node to answer well within it."""
OTHER_CHAIN_ID = each_call(
    lambda call: {"result": hex(OTHER_CHAIN)} if call["method"] == "eth_chainId" else None
)


class Clock:
    """A monotonic clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(autouse=True)
def grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """No machine is so slow that a node that answers is not waited for."""
    monkeypatch.setattr(rpc_send, "GRACE_SECONDS", 60.0)


@pytest.fixture(scope="module")
def nodes() -> Iterator[tuple[EmbeddedAnvil, EmbeddedAnvil]]:
    """Two nodes of the same chain id that know nothing of each other."""
    with EmbeddedAnvil() as first, EmbeddedAnvil() as second:
        yield first, second


@pytest.fixture
async def pair(nodes: tuple[EmbeddedAnvil, EmbeddedAnvil]) -> AsyncIterator[list[Proxy]]:
    """A proxy before each of them, both nodes in their first state."""
    async with AsyncExitStack() as stack:
        for node in nodes:
            await asyncio.to_thread(node.request, "anvil_reset")
        yield [await stack.enter_async_context(open_proxy(node.url)) for node in nodes]


OpenPool = Callable[..., RpcPool]


@pytest.fixture
async def open_pool() -> AsyncIterator[OpenPool]:
    """Makes pools whose URLs hold secrets; all of them end with the test."""
    async with AsyncExitStack() as stack:

        def make(*urls: str, **settings: Any) -> RpcPool:
            secret = [f"{url.replace('://', f'://user:{SECRET}@')}/v3/{SECRET}" for url in urls]
            pool = RpcPool(secret, **settings)
            stack.push_async_callback(pool.close)
            return pool

        yield make


@pytest.fixture
async def pool(pair: list[Proxy], open_pool: OpenPool, clock: Clock) -> RpcPool:
    """Both endpoints, known to be on their chain."""
    made = open_pool(*(proxy.url for proxy in pair), expected_chain=CHAIN, monotonic=clock)
    await made.check_chain()
    for proxy in pair:
        proxy.received.clear()
    return made


def html(status: int) -> Fault:
    return faults.answer(b"<html>Oops</html>", status=status, content_type="text/html")


def circuits(pool: RpcPool) -> list[str]:
    return [health.circuit for health in pool.health()]


async def break_open(pool: RpcPool, proxy: Proxy, index: int = 0) -> None:
    """Let an endpoint fail until its circuit is open."""
    proxy.always("eth_gasPrice", html(502))
    for _ in range(3):
        with pytest.raises(ChainUnavailableError):
            await pool._endpoints[index].call("eth_gasPrice")
    proxy.heal()
    proxy.received.clear()


FAULTS = [
    pytest.param(html(429), id="429"),
    pytest.param(html(502), id="502"),
    pytest.param(html(200), id="html"),
    pytest.param(faults.answer(b""), id="empty body"),
    pytest.param(faults.half_body, id="half a body"),
    pytest.param(faults.another_id, id="another id"),
    pytest.param(faults.lost_request, id="closed"),
    pytest.param(faults.lost_reply, id="closed after the work"),
]


@pytest.mark.parametrize("fault", FAULTS)
async def test_reads_go_on(pool: RpcPool, pair: list[Proxy], fault: Fault) -> None:
    """A read that one node does not answer is answered by the other; nothing is asked twice."""
    pair[0].once("web3_clientVersion", fault)
    assert (await pool.call("web3_clientVersion")).startswith("anvil/")
    assert pair[0].received == pair[1].received == ["web3_clientVersion"]
    pair[0].always("eth_chainId", fault)
    assert await pool.batch([("eth_chainId", []), ("eth_blockNumber", [])]) == ["0x7a69", "0x0"]


async def test_reads_go_on_in_silence(pair: list[Proxy], open_pool: OpenPool, clock: Clock) -> None:
    """Silence costs its time-out once; then the other node is asked first."""
    urls = [proxy.url for proxy in pair]
    pool = open_pool(*urls, timeout_seconds=SILENCE_SECONDS, monotonic=clock)
    await pool.check_chain()
    pair[0].always("eth_gasPrice", faults.silence)
    assert await pool.call("eth_gasPrice")
    assert await pool.call("eth_gasPrice")
    assert pair[0].received.count("eth_gasPrice") == 1
    assert pair[1].received.count("eth_gasPrice") == 2


async def test_dead_endpoint(pair: list[Proxy], open_pool: OpenPool) -> None:
    """An endpoint where nobody listens costs nothing but a line in the health."""
    pool = open_pool("http://127.0.0.1:1", pair[0].url)
    assert await pool.check_chain() == CHAIN
    assert await pool.call("eth_blockNumber") == "0x0"
    dead, alive = pool.health()
    assert (dead.usable, alive.usable) == (False, True)
    assert pool.host == pair[0].url
    assert pool.endpoint_count == 2


async def test_error_is_an_answer(pool: RpcPool, pair: list[Proxy]) -> None:
    """A node's own error is the answer, no reason to ask another; for `ask` a ChainError."""
    for proxy in pair:
        proxy.always("eth_call", faults.rpc_error("eth_call", 3, "execution reverted"))
    for _ in range(4):
        with pytest.raises(RpcError, match="execution reverted"):
            await pool.call("eth_call")
    with pytest.raises(ChainError, match="eth_call: execution reverted"):
        await pool.ask("eth_call")
    assert pair[1].received == []
    assert circuits(pool) == ["closed", "closed"]
    assert pool.health()[0].error_rate == 0


SICK = [(-32000, "header not found"), (-32603, "Internal error"), (-32000, "node is syncing")]
BLOCK = ("eth_getBlockByNumber", ["latest", False])


def price_error(code: int, message: str) -> Fault:
    return faults.rpc_error("eth_gasPrice", code, message)


@pytest.mark.parametrize(("code", "message"), SICK)
async def test_sick_answers(pool: RpcPool, pair: list[Proxy], code: int, message: str) -> None:
    """An error that says nothing of the question is asked away; reads then begin elsewhere."""
    pair[0].always("eth_gasPrice", price_error(code, message))
    assert await pool.call("eth_gasPrice")
    assert pair[0].received == pair[1].received == ["eth_gasPrice"]
    assert pool.health()[0].error_rate > 0
    assert pool.host == pair[1].url
    assert await pool.call("eth_gasPrice")
    assert pair[0].received == ["eth_gasPrice"]
    assert circuits(pool) == ["closed", "closed"]


async def test_sick_head(pool: RpcPool, pair: list[Proxy]) -> None:
    """One sick item makes a batch go on as a whole: all its answers are of one node."""
    pair[0].always("eth_getBlockByNumber", faults.rpc_error(BLOCK[0], -32603, "Internal error"))
    pair[1].always(
        "eth_gasPrice",
        each_call(lambda call: {"result": "0x7"} if call["method"] == "eth_gasPrice" else None),
    )
    price, block = await pool.batch([("eth_gasPrice", []), BLOCK])
    assert price == "0x7"
    assert block["number"] == "0x0"


async def test_all_sick(pool: RpcPool, pair: list[Proxy]) -> None:
    """What all nodes say is the first one's answer; it opens no circuit."""
    pair[0].always("eth_gasPrice", price_error(-32000, "header not found"))
    pair[1].always("eth_gasPrice", price_error(-32000, "missing trie node"))
    with pytest.raises(RpcError, match="header not found"):
        await pool.call("eth_gasPrice")
    for _ in range(3):
        with pytest.raises(RpcError):
            await pool.call("eth_gasPrice")
    chain_id, error = await pool.batch([("eth_chainId", []), ("eth_gasPrice", [])])
    assert chain_id == hex(CHAIN)
    assert isinstance(error, RpcError)
    assert circuits(pool) == ["closed", "closed"]
    assert all(health.error_rate > 0.5 for health in pool.health())


@pytest.mark.parametrize("sick", [0, 1])
async def test_sick_or_away(pool: RpcPool, pair: list[Proxy], sick: int) -> None:
    """A sick node's answer is better than none."""
    pair[sick].always("eth_gasPrice", price_error(-32000, "header not found"))
    pair[1 - sick].always("eth_gasPrice", html(502))
    with pytest.raises(RpcError, match="header not found"):
        await pool.call("eth_gasPrice")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (3, "anything"),
        (-32601, "whatever"),
        (-32005, "query returned more than 10000 results"),
        (-32000, "insufficient funds for transfer"),
    ],
)
async def test_answers_that_are_errors(
    pool: RpcPool, pair: list[Proxy], code: int, message: str
) -> None:
    """An error about the question is the answer: no other node is asked, alone or in a batch."""
    pair[0].always("eth_gasPrice", price_error(code, message))
    with pytest.raises(RpcError, match=message):
        await pool.call("eth_gasPrice")
    (error,) = await pool.batch([("eth_gasPrice", [])])
    assert isinstance(error, RpcError)
    assert pair[1].received == []
    assert pool.health()[0].error_rate == 0


async def test_rate_limit(pool: RpcPool, pair: list[Proxy]) -> None:
    """A node that limits the rate is away: others are asked, and in the end its circuit opens."""
    pair[0].always("eth_gasPrice", price_error(-32005, "request rate exceeded"))
    assert await pool.call("eth_gasPrice")
    for _ in range(2):
        with pytest.raises(ChainUnavailableError, match="request rate exceeded"):
            await pool._endpoints[0].batch([("eth_chainId", []), ("eth_gasPrice", [])])
    assert circuits(pool) == ["open", "closed"]


async def test_all_away(pool: RpcPool, pair: list[Proxy]) -> None:
    """When no node answers, the error names each host with its fault, and no secret."""
    pair[0].always("eth_gasPrice", html(502))
    pair[1].always("eth_gasPrice", html(429))
    with pytest.raises(ChainUnavailableError) as caught:
        await pool.call("eth_gasPrice")
    assert str(caught.value) == (
        f"{pair[0].url} eth_gasPrice: HTTP 502; {pair[1].url} eth_gasPrice: HTTP 429"
    )
    assert SECRET not in f"{caught.value!r} {pool.health()} {pool.host} {pool!r}"


async def test_meter(pair: list[Proxy], open_pool: OpenPool) -> None:
    """Every request to every endpoint is counted, by what became of it."""
    counted: list[tuple[str, str]] = []
    pool = open_pool(*(p.url for p in pair), meter=lambda *what: counted.append(what))
    pair[0].once("eth_gasPrice", html(502))
    await pool.call("eth_gasPrice")
    await pool.batch([("eth_chainId", []), ("eth_nope", [])])
    assert counted == [
        ("eth_gasPrice", "unavailable"),
        ("eth_gasPrice", "ok"),
        ("eth_chainId", "ok"),
        ("eth_nope", "error"),
    ]


async def test_breaker(pool: RpcPool, pair: list[Proxy], clock: Clock) -> None:
    """Three failures in a row open the circuit; a probe after the cooldown closes it."""
    await break_open(pool, pair[0])
    assert circuits(pool) == ["open", "closed"]
    assert await pool.call("eth_blockNumber") == "0x0"
    await pool.look_round()
    assert pair[0].received == []
    clock.now += 1
    assert circuits(pool) == ["half-open", "closed"]
    await pool.probe_due()
    assert pair[0].received == ["eth_chainId", "eth_blockNumber"]
    assert circuits(pool) == ["closed", "closed"]
    pair[1].always("eth_gasPrice", html(502))
    assert await pool.call("eth_gasPrice")
    assert pair[0].received[-1] == "eth_gasPrice"


async def test_failed_probe(pool: RpcPool, pair: list[Proxy], clock: Clock) -> None:
    """A probe that fails, by whatever answer, doubles the cooldown."""
    await break_open(pool, pair[0])
    pair[0].once("eth_chainId", html(502))
    pair[0].once("eth_chainId", faults.rpc_error("eth_chainId", -32000, "starting up"))
    for cooldown in (1, 2):
        clock.now += cooldown
        await pool.probe_due()
        assert circuits(pool) == ["open", "closed"]
    clock.now += 3
    assert circuits(pool) == ["open", "closed"]
    clock.now += 1
    await pool.probe_due()
    assert circuits(pool) == ["closed", "closed"]


async def test_one_probe_at_a_time(pool: RpcPool, pair: list[Proxy], clock: Clock) -> None:
    """All who need a probe wait for the one that is out."""
    await break_open(pool, pair[0])
    await break_open(pool, pair[1], 1)
    clock.now += 1
    pair[0].always("eth_chainId", faults.silence)
    pair[0].released.clear()
    waiting = [asyncio.create_task(pool.call("eth_gasPrice")) for _ in range(3)]
    while not pair[0].received:  # noqa: ASYNC110 - the proxy keeps a list, no event
        await asyncio.sleep(0.001)
    pair[0].released.set()
    await asyncio.gather(*waiting)
    assert pair[0].received.count("eth_chainId") == 1
    assert pair[1].received == []


def test_cooldowns(clock: Clock) -> None:
    """The cooldown doubles from 1 s to 30 s; failures meanwhile do not lengthen it."""
    circuit = Circuit(clock)
    found = []
    for _ in range(3):
        circuit.failed()
    for _ in range(7):
        assert circuit.until is not None
        found.append(circuit.until - clock.now)
        circuit.failed()
        clock.now = circuit.until
        assert circuit.state == "half-open"
        circuit.failed()
    assert found == [1, 2, 4, 8, 16, 30, 30]
    circuit.close()
    circuit.failed()
    circuit.answered()
    circuit.failed()
    circuit.failed()
    assert circuit.state == "closed"


async def test_single_endpoint(pair: list[Proxy], open_pool: OpenPool, clock: Clock) -> None:
    """A single endpoint is asked whenever something is wanted: its breaker shuts nobody out."""
    pool = open_pool(pair[0].url, expected_chain=CHAIN, monotonic=clock)
    await pool.check_chain()
    await break_open(pool, pair[0])
    pair[0].always("eth_chainId", html(502))
    for _ in range(3):
        with pytest.raises(ChainUnavailableError, match="HTTP 502"):
            await pool.call("eth_gasPrice")
    assert circuits(pool) == ["open"]
    pair[0].heal()
    assert await pool.call("eth_gasPrice")
    assert circuits(pool) == ["closed"]


async def test_lagging(
    pool: RpcPool, pair: list[Proxy], nodes: tuple[EmbeddedAnvil, EmbeddedAnvil]
) -> None:
    """A node 50 blocks behind is not read while another is there, and is again once caught up."""
    await asyncio.to_thread(nodes[1].request, "anvil_mine", hex(50))
    await pool.look_round()
    behind, ahead = pool.health()
    assert (behind.lag, behind.usable) == (50, False)
    assert (ahead.lag, ahead.usable, ahead.head) == (0, True, 50)
    assert await pool.call("eth_blockNumber") == hex(50)
    pair[1].always("eth_blockNumber", html(502))
    assert await pool.call("eth_blockNumber") == "0x0"  # better than nothing
    pair[1].heal()

    await asyncio.to_thread(nodes[0].request, "anvil_mine", hex(47))
    await pool.look_round()
    assert [health.usable for health in pool.health()] == [True, True]
    pair[1].always("eth_blockNumber", html(502))
    assert await pool.call("eth_blockNumber") == hex(47)


async def test_lag_at_the_start(
    pair: list[Proxy], nodes: tuple[EmbeddedAnvil, EmbeddedAnvil], open_pool: OpenPool
) -> None:
    """The first read already avoids a node that is behind."""
    await asyncio.to_thread(nodes[1].request, "anvil_mine", hex(4))
    pool = open_pool(*(proxy.url for proxy in pair))
    await pool.check_chain()
    assert await pool.call("eth_blockNumber") == "0x4"


async def test_one_liar(
    pair: list[Proxy], nodes: tuple[EmbeddedAnvil, EmbeddedAnvil], open_pool: OpenPool
) -> None:
    """Among three, one invented head makes no honest node lag; a node that is behind still does."""
    invented = each_call(
        lambda call: {"result": "0xffffff"} if call["method"] == "eth_blockNumber" else None
    )
    async with open_proxy(nodes[1].url) as liar:
        liar.always("eth_blockNumber", invented)
        pool = open_pool(*(proxy.url for proxy in pair), liar.url)
        await pool.check_chain()
        await asyncio.to_thread(nodes[0].request, "anvil_mine", "0x2")
        await pool.look_round()
        assert [health.lag for health in pool.health()] == [0, 2, 0]
        assert all(health.usable for health in pool.health())
        await asyncio.to_thread(nodes[0].request, "anvil_mine", "0x32")
        await pool.look_round()
        assert [health.lag for health in pool.health()] == [0, 52, 0]
        await pool.close()


async def test_heads_for_free(pool: RpcPool, nodes: tuple[EmbeddedAnvil, EmbeddedAnvil]) -> None:
    """What reads show of a head counts at once, without a question of its own."""
    await asyncio.to_thread(nodes[0].request, "anvil_mine", "0x5")
    await pool.call("eth_blockNumber")
    assert pool.health()[0].head == 5
    await asyncio.to_thread(nodes[0].request, "anvil_mine", "0x5")
    await pool.batch([("eth_getBlockByNumber", ["latest", False])])
    assert pool.health()[0].head == 10
    await pool.call("eth_getBlockByNumber", "0x1", False)
    assert pool.health()[0].head == 10


def slow(clock: Clock, seconds: float) -> Fault:
    """The node's answer, after so much of the test's time."""

    async def fault(exchange: Exchange) -> Response:
        clock.now += seconds
        return faults.json_response(await exchange.forward())

    return fault


async def test_best_by_latency(pair: list[Proxy], open_pool: OpenPool, clock: Clock) -> None:
    """Reads go to the quicker node, and stay there until another is clearly better."""
    pool = open_pool(*(proxy.url for proxy in pair), monotonic=clock)

    async def measure(*seconds: float) -> None:
        for endpoint, proxy, each in zip(pool._endpoints, pair, seconds, strict=True):
            proxy.once("eth_blockNumber", slow(clock, each))
            await endpoint.call("eth_blockNumber")

    await measure(0.5, 0.1)
    assert pool.host == pair[1].url
    for _ in range(30):
        await measure(0.1, 0.12)
    assert pool.host == pair[1].url
    for _ in range(30):
        await measure(0.1, 0.2)
    assert pool.host == pair[0].url
    assert pool.health()[0].latency_seconds == pytest.approx(0.1, abs=0.01)


async def test_configured_order(pool: RpcPool, pair: list[Proxy]) -> None:
    """Among equals the first configured is read."""
    for _ in range(3):
        await pool.call("eth_gasPrice")
    assert pair[1].received == []
    assert pool.host == pair[0].url


async def test_refused(pair: list[Proxy], open_pool: OpenPool) -> None:
    """An endpoint on another chain is refused for ever, with one clear line."""
    pair[0].always("eth_chainId", OTHER_CHAIN_ID)
    pool = open_pool(*(proxy.url for proxy in pair), expected_chain=CHAIN)
    with capture_logs() as logs:
        assert await pool.check_chain() == CHAIN
        pair[0].heal()
        pair[0].received.clear()
        assert await pool.check_chain() == CHAIN
        await pool.look_round()
    assert [line for line in logs if line["event"] == "rpc.endpoint_refused"] == [
        {
            "event": "rpc.endpoint_refused",
            "log_level": "error",
            "host": pair[0].url,
            "chain_id": OTHER_CHAIN,
            "expected": CHAIN,
        }
    ]
    assert pool.endpoint_count == 1
    pair[1].always("eth_gasPrice", html(502))
    with pytest.raises(ChainUnavailableError, match=r"^\S+ eth_gasPrice: HTTP 502$"):
        await pool.call("eth_gasPrice")
    await pool.broadcast(["0x00"])
    assert pair[0].received == []
    reason = f"{pair[0].url} is refused for ever: on chain {OTHER_CHAIN}, not {CHAIN}"
    assert pool.health()[0].refused == reason


async def test_first_that_answers_sets_the_chain(pair: list[Proxy], open_pool: OpenPool) -> None:
    """Without an expected chain that of the first endpoint counts, and the others must agree."""
    pair[0].always("eth_chainId", OTHER_CHAIN_ID)
    pool = open_pool("http://127.0.0.1:1", *(proxy.url for proxy in pair))
    assert await pool.check_chain() == OTHER_CHAIN
    assert [health.refused is None for health in pool.health()] == [True, True, False]


async def test_all_refused(pair: list[Proxy], open_pool: OpenPool) -> None:
    """When all are refused, everything says so with hosts and chain ids."""
    for proxy in pair:
        proxy.always("eth_chainId", OTHER_CHAIN_ID)
    pool = open_pool(*(proxy.url for proxy in pair), expected_chain=CHAIN)
    text = "; ".join(f"{p.url} is refused for ever: on chain 5, not 31337" for p in pair)
    works: list[Callable[[], Awaitable[Any]]] = [
        pool.check_chain,
        pool.check_chain,
        lambda: pool.call("eth_blockNumber"),
        lambda: pool.batch([("eth_blockNumber", [])]),
        lambda: pool.everywhere([("eth_blockNumber", [])]),
        lambda: pool.broadcast(["0x00"]),
    ]
    for work in works:
        with pytest.raises(ChainUnavailableError) as caught:
            await work()
        assert str(caught.value) == text
    assert pool.endpoint_count == 0


async def test_none_answers(open_pool: OpenPool) -> None:
    """Without any answer there is no chain."""
    with pytest.raises(ChainUnavailableError, match="ClientConnectorError"):
        await open_pool("http://127.0.0.1:1").check_chain()


async def test_chain_changes(pool: RpcPool, pair: list[Proxy], clock: Clock) -> None:
    """A chain id that changes while running is noticed within a minute; the other goes on."""
    pair[0].always("eth_chainId", OTHER_CHAIN_ID)
    clock.now += 59
    await pool.look_round()
    assert pool.endpoint_count == 2
    clock.now += 1
    await pool.look_round()
    assert pool.endpoint_count == 1
    assert await pool.call("eth_chainId") == hex(CHAIN)


async def test_chain_of_a_single_endpoint_changes(
    pair: list[Proxy], open_pool: OpenPool, clock: Clock
) -> None:
    """So it is for a single endpoint; from then on nothing is answered any more."""
    pool = open_pool(pair[0].url, expected_chain=CHAIN, monotonic=clock)
    await pool.check_chain()
    pair[0].received.clear()
    await pool.look_round()
    assert pair[0].received == []  # alone, it is not asked for its head
    pair[0].always("eth_chainId", OTHER_CHAIN_ID)
    clock.now += 60
    await pool.probe_due()
    pair[0].heal()
    with pytest.raises(ChainUnavailableError, match="on chain 5, not 31337"):
        await pool.call("eth_gasPrice")


async def test_chain_changes_in_a_read(pool: RpcPool, pair: list[Proxy]) -> None:
    """A read that shows another chain id is not believed, and noticed at once."""
    pair[0].always("eth_chainId", OTHER_CHAIN_ID)
    assert await pool.call("eth_chainId") == hex(CHAIN)
    assert pool.endpoint_count == 1


async def test_late_endpoint(pair: list[Proxy], open_pool: OpenPool) -> None:
    """An endpoint that was away at the check is probed before anything of it is believed."""
    pair[0].always("eth_chainId", html(502))
    pool = open_pool(*(proxy.url for proxy in pair), expected_chain=CHAIN)
    await pool.check_chain()
    pair[0].heal()
    pair[0].always("eth_chainId", OTHER_CHAIN_ID)
    pair[1].always("eth_gasPrice", html(502))
    with pytest.raises(ChainUnavailableError, match="on chain 5, not 31337"):
        await pool.call("eth_gasPrice")
    assert "eth_gasPrice" not in pair[0].received


def signed(nonce: int) -> tuple[str, str]:
    """Bytes and hash of a transfer of nothing."""
    made = Account.sign_transaction(
        {
            "to": "0x70997970C51812dc3A010C7d01b50e0d17dc79C8",
            "value": 0,
            "gas": 21_000,
            "maxFeePerGas": 10**11,
            "maxPriorityFeePerGas": 10**9,
            "nonce": nonce,
            "chainId": CHAIN,
        },
        DEV_MNEMONIC_KEY,
    )
    return "0x" + made.raw_transaction.hex().removeprefix("0x"), "0x" + made.hash.hex()[-64:]


async def test_broadcast(pool: RpcPool, pair: list[Proxy]) -> None:
    """Transactions reach every node in their order, in one request to each."""
    (first, first_hash), (second, second_hash) = signed(0), signed(1)
    assert await pool.broadcast([first, second]) == [[first_hash] * 2, [second_hash] * 2]
    for proxy in pair:
        assert proxy.received == ["eth_sendRawTransaction"] * 2
    ((again, other),) = await pool.broadcast([first])
    assert isinstance(again, RpcError)
    assert isinstance(other, RpcError)
    assert await pool.broadcast([]) == []


@pytest.mark.parametrize("fault", [*FAULTS, pytest.param(faults.silence, id="silence")])
async def test_broadcast_despite(pair: list[Proxy], open_pool: OpenPool, fault: Fault) -> None:
    """Whatever one node does, the other has the transaction, and both outcomes are told."""
    seconds = SILENCE_SECONDS if fault is faults.silence else 10.0
    pool = open_pool(*(proxy.url for proxy in pair), timeout_seconds=seconds)
    await pool.check_chain()
    pair[0].always("eth_sendRawTransaction", fault)
    raw, tx_hash = signed(0)
    ((lost, taken),) = await pool.broadcast([raw])
    assert isinstance(lost, ChainUnavailableError)
    assert SECRET not in str(lost)
    assert taken == tx_hash
    found = await pool._endpoints[1].call("eth_getTransactionByHash", tx_hash)
    assert found["hash"] == tx_hash


async def test_broadcast_does_not_wait_for_the_open(
    pool: RpcPool, pair: list[Proxy], nodes: tuple[EmbeddedAnvil, EmbeddedAnvil]
) -> None:
    """An endpoint with an open circuit is tried too, in the background; nobody waits for it."""
    await break_open(pool, pair[0])
    pair[0].always("eth_chainId", faults.silence)
    pair[0].released.clear()
    raw, tx_hash = signed(0)
    ((away, taken),) = await pool.broadcast([raw])
    assert str(away) == f"{pair[0].url} eth_sendRawTransaction: not waited for"
    assert taken == tx_hash
    pair[0].released.set()
    await asyncio.gather(*pool._tasks)
    assert await asyncio.to_thread(nodes[0].request, "eth_getTransactionByHash", tx_hash)


KNOWN = faults.rpc_error("eth_sendRawTransaction", -32000, "already known")
REFUSED = faults.rpc_error("eth_sendRawTransaction", -32000, "txpool is full")


async def until_one_is_left(pool: RpcPool) -> None:
    while len(pool._tasks) > 1:  # noqa: ASYNC110 - a set that tasks leave
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("fault", [faults.forwarded, KNOWN])
async def test_broadcast_does_not_wait_for_the_silent(
    pool: RpcPool,
    pair: list[Proxy],
    nodes: tuple[EmbeddedAnvil, EmbeddedAnvil],
    monkeypatch: pytest.MonkeyPatch,
    fault: Fault,
) -> None:
    """Once one node has the bytes, a silent one holds nobody up, and still gets them."""
    monkeypatch.undo()  # the real grace
    pair[0].always("eth_sendRawTransaction", faults.silence)
    pair[1].always("eth_sendRawTransaction", fault)
    raw, tx_hash = signed(0)
    ((silent, _),) = await pool.broadcast([raw])
    assert str(silent) == f"{pair[0].url} eth_sendRawTransaction: not waited for"
    pair[0].released.set()
    await asyncio.gather(*pool._tasks)
    assert await asyncio.to_thread(nodes[0].request, "eth_getTransactionByHash", tx_hash)


async def test_broadcast_waits_for_a_taker(
    pool: RpcPool, pair: list[Proxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While no node has taken all, those that say nothing are waited for."""
    monkeypatch.setattr(rpc_send, "GRACE_SECONDS", 0.0)
    pair[0].always("eth_sendRawTransaction", faults.silence)
    pair[1].always("eth_sendRawTransaction", REFUSED)
    raw, tx_hash = signed(0)
    sending = asyncio.create_task(pool.broadcast([raw]))
    while "eth_sendRawTransaction" not in pair[1].received:  # noqa: ASYNC110 - a list, no event
        await asyncio.sleep(0.001)
    await until_one_is_left(pool)
    pair[0].released.set()
    ((taken, refused),) = await sending
    assert taken == tx_hash
    assert isinstance(refused, RpcError)


async def test_broadcast_waits_for_all_of_the_bytes(
    pool: RpcPool, pair: list[Proxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that has taken one of two has not taken them."""
    monkeypatch.setattr(rpc_send, "GRACE_SECONDS", 0.0)
    (first, first_hash), (second, second_hash) = signed(0), signed(1)
    pair[0].always("eth_sendRawTransaction", faults.silence)
    full = {"error": {"code": -32000, "message": "txpool is full"}}
    pair[1].always(
        "eth_sendRawTransaction",
        each_call(lambda call: full if call["params"] == [second] else None),
    )
    sending = asyncio.create_task(pool.broadcast([first, second]))
    while "eth_sendRawTransaction" not in pair[1].received:  # noqa: ASYNC110 - a list, no event
        await asyncio.sleep(0.001)
    await until_one_is_left(pool)
    pair[0].released.set()
    ((here, there), (also_here, not_there)) = await sending
    assert (here, there, also_here) == (first_hash, first_hash, second_hash)
    assert isinstance(not_there, RpcError)


async def test_broadcast_refusals_are_no_sickness(pool: RpcPool, pair: list[Proxy]) -> None:
    """What a node says of bytes does not count against it, whatever it is."""
    said = faults.rpc_error("eth_sendRawTransaction", -32000, "nonce too low")
    pair[0].always("eth_sendRawTransaction", said)
    await pool.broadcast([signed(0)[0]])
    assert pool.health()[0].error_rate == 0


async def test_broadcast_when_all_are_open(pool: RpcPool, pair: list[Proxy]) -> None:
    """When no circuit is closed, all are waited for."""
    await break_open(pool, pair[0])
    await break_open(pool, pair[1], 1)
    raw, tx_hash = signed(0)
    assert await pool.broadcast([raw]) == [[tx_hash, tx_hash]]


async def test_broadcast_to_one(pair: list[Proxy], open_pool: OpenPool) -> None:
    """With one endpoint a broadcast costs exactly one HTTP request."""
    requests: list[Any] = []

    async def note(exchange: Exchange) -> Response:
        requests.append(exchange.calls)
        return faults.json_response(await exchange.forward())

    pair[0].always("eth_sendRawTransaction", note)
    pool = open_pool(pair[0].url)
    await pool.check_chain()
    pair[0].received.clear()
    (first, first_hash), (second, second_hash), (third, third_hash) = map(signed, range(3))
    assert await pool.broadcast([first]) == [[first_hash]]
    assert await pool.broadcast([second, third]) == [[second_hash], [third_hash]]
    assert [isinstance(calls, list) for calls in requests] == [False, True]
    assert pair[0].received == ["eth_sendRawTransaction"] * 3


async def test_call_sends_to_all(pool: RpcPool, pair: list[Proxy]) -> None:
    """`eth_sendRawTransaction` by call or batch is a broadcast; who took it counts most."""
    raw, tx_hash = signed(0)
    refusal = faults.rpc_error("eth_sendRawTransaction", -32000, "txpool is full")
    pair[0].once("eth_sendRawTransaction", refusal)
    assert await pool.call("eth_sendRawTransaction", raw) == tx_hash
    assert await pool.call("eth_sendRawTransaction", raw) == tx_hash  # by the first, who has it not
    with pytest.raises(RpcError, match=r"already imported|nonce too low"):
        await pool.call("eth_sendRawTransaction", raw)
    pair[0].once("eth_sendRawTransaction", html(502))
    (found,) = await pool.batch([("eth_sendRawTransaction", [raw])])
    assert isinstance(found, RpcError)
    for proxy in pair:
        proxy.once("eth_sendRawTransaction", html(502))
    with pytest.raises(ChainUnavailableError, match=r"HTTP 502; .*HTTP 502"):
        await pool.call("eth_sendRawTransaction", raw)
    with pytest.raises(ValueError, match="reads and transactions"):
        await pool.batch([("eth_sendRawTransaction", [raw]), ("eth_blockNumber", [])])


async def test_everywhere(
    pool: RpcPool, pair: list[Proxy], nodes: tuple[EmbeddedAnvil, EmbeddedAnvil]
) -> None:
    """A receipt on any node is found; no answer at all is an error, never absence."""
    raw, tx_hash = signed(0)
    await pool._endpoints[1].call("eth_sendRawTransaction", raw)
    await asyncio.to_thread(nodes[1].request, "evm_mine")
    question: list[Request] = [("eth_getTransactionReceipt", [tx_hash])]
    (absent,), (found,) = await pool.everywhere(question)
    assert absent is None
    assert found["transactionHash"] == tx_hash
    pair[0].always("eth_getTransactionReceipt", html(502))
    assert len(await pool.everywhere(question)) == 1
    pair[1].always("eth_getTransactionReceipt", faults.half_body)
    with pytest.raises(ChainUnavailableError, match=r"HTTP 502; .*ClientPayloadError"):
        await pool.everywhere(question)
    await pool.everywhere([("eth_blockNumber", [])])
    for index, proxy in enumerate(pair):
        await break_open(pool, proxy, index)
    assert await pool.everywhere([("eth_blockNumber", [])]) == [["0x0"]]


async def test_everywhere_with_a_sick_one(pool: RpcPool, pair: list[Proxy]) -> None:
    """There, each node's answers are told as they are."""
    pair[0].always("eth_gasPrice", price_error(-32000, "header not found"))
    (sick,), (well,) = await pool.everywhere([("eth_gasPrice", [])])
    assert isinstance(sick, RpcError)
    assert isinstance(well, str)


async def test_pushed_heads(
    pair: list[Proxy], nodes: tuple[EmbeddedAnvil, EmbeddedAnvil], open_pool: OpenPool
) -> None:
    """Heads come by themselves from a WebSocket; a lost subscription is known and renewed."""
    pool = open_pool(pair[0].ws_url, pair[1].url, expected_chain=CHAIN)
    heads: asyncio.Queue[int | None] = asyncio.Queue()
    pool.on_head = lambda: heads.put_nowait(pool.health()[0].head)
    await pool.check_chain()
    assert not pool.pushing
    running = asyncio.create_task(pool.run())

    async def until(pushing: bool) -> None:
        while pool.pushing is not pushing:  # noqa: ASYNC110 - a flag by contract
            await asyncio.sleep(0.001)

    await until(pushing=True)
    await asyncio.to_thread(nodes[0].request, "evm_mine")
    assert await heads.get() == 1

    pair[0].refuse_sockets = 503
    pair[0].cut()
    await until(pushing=False)
    assert await pool.call("eth_gasPrice")  # by the other one
    assert not running.done()
    pair[0].heal()
    await until(pushing=True)
    await asyncio.to_thread(nodes[0].request, "evm_mine")
    assert await heads.get() == 2
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await until(pushing=False)
    assert [health.kind for health in pool.health()] == ["ws", "http"]


async def test_stale_pushes(
    pair: list[Proxy], nodes: tuple[EmbeddedAnvil, EmbeddedAnvil], open_pool: OpenPool
) -> None:
    """A subscription to a node that has fallen behind does not count as pushing."""
    pool = open_pool(pair[0].ws_url, pair[1].url, expected_chain=CHAIN)
    await pool.check_chain()
    following = asyncio.create_task(pool._endpoints[0].follow(lambda: None))
    while not pool.pushing:  # noqa: ASYNC110 - a flag by contract
        await asyncio.sleep(0.001)
    await asyncio.to_thread(nodes[1].request, "anvil_mine", "0x4")
    await pool.look_round()
    assert not pool.pushing
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


@pytest.mark.parametrize("scheme", ["http", "ws"])
async def test_run_outlives_nodes(
    pair: list[Proxy], open_pool: OpenPool, clock: Clock, scheme: str
) -> None:
    """The background task goes on whatever the nodes do, and brings them back."""
    urls = [proxy.url.replace("http", scheme) for proxy in pair]
    pool = open_pool(*urls, expected_chain=CHAIN, monotonic=clock)
    for proxy in pair:
        proxy.always("eth_chainId", html(502))
        proxy.refuse_sockets = 502
    with pytest.raises(ChainUnavailableError):
        await pool.check_chain()
    running = asyncio.create_task(pool.run())
    for proxy in pair:
        proxy.heal()
    while not all(health.usable for health in pool.health()):
        clock.now += 1  # the cooldowns pass
        await asyncio.sleep(0.01)
    assert not running.done()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_close(pool: RpcPool, pair: list[Proxy]) -> None:
    """Closing ends what goes on in the background; closing again does nothing more."""
    await break_open(pool, pair[0])
    pair[0].always("eth_chainId", faults.silence)
    pair[0].released.clear()
    await pool.broadcast([signed(0)[0]])
    assert pool._tasks
    await pool.close()
    assert not pool._tasks
    await pool.close()


async def test_unread_answers_are_not_believed(pool: RpcPool, pair: list[Proxy]) -> None:
    """A head that is no number, and a block that is none, leave what is known of the head."""

    def nonsense(call: Any) -> faults.Reply | None:
        replies = {"eth_blockNumber": "soon", "eth_getBlockByNumber": None}
        return {"result": replies[call["method"]]} if call["method"] in replies else None

    for method in ("eth_blockNumber", "eth_getBlockByNumber"):
        pair[0].always(method, each_call(nonsense))
    assert await pool.call("eth_blockNumber") == "soon"
    assert await pool.call("eth_getBlockByNumber", "latest", False) is None
    assert pool.health()[0].head == 0


def test_no_endpoint() -> None:
    """A pool of nothing is the caller's mistake."""
    with pytest.raises(ValueError, match="an endpoint is needed"):
        RpcPool([])
