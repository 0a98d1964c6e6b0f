"""Laws of the fee oracle: it asks once, says what the node knows, or fails by the method's name."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from adapters.embedded import DEV_ACCOUNT, EmbeddedAnvil, EmbeddedHardhat
from adapters.fee_oracle import CACHE_SECONDS, FeeOracle
from adapters.rpc import RpcClient
from saga.errors import ChainError, ChainUnavailableError
from saga.fees import GWEI, Fees, Limits, Market, offer
from tests.support import proxy as faults
from tests.support.proxy import Exchange, Fault, Proxy, Response, open_proxy

HISTORY, TIP, PRICE = "eth_feeHistory", "eth_maxPriorityFeePerGas", "eth_gasPrice"
BLOCK = "eth_getBlockByNumber"
MISSING = (-32601, "the method does not exist/is not available")
FLOOR = 1_000_000


class Clock:
    """Time that passes when the test says so."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def london() -> Iterator[EmbeddedAnvil]:
    """Four blocks, two of them with transactions, whose tips are 3 and 5 gwei."""
    with EmbeddedAnvil("--no-mining") as node:
        for tips in ((), (3,), (5,), ()):
            for tip in tips:
                pay(node, maxFeePerGas=hex(20 * GWEI), maxPriorityFeePerGas=hex(tip * GWEI))
            node.request("evm_mine")
        yield node


@pytest.fixture(scope="module")
def berlin() -> Iterator[EmbeddedAnvil]:
    """A chain without base fee."""
    with EmbeddedAnvil("--no-mining", "--hardfork", "berlin") as node:
        pay(node, gasPrice=hex(3 * GWEI))
        node.request("evm_mine")
        yield node


def pay(node: EmbeddedAnvil, **fees: str) -> None:
    sent = {"from": DEV_ACCOUNT, "to": DEV_ACCOUNT, "gas": hex(21_000), **fees}
    node.request("eth_sendTransaction", sent)


@pytest.fixture
async def proxy(london: EmbeddedAnvil) -> AsyncIterator[Proxy]:
    async with open_proxy(london.url) as opened:
        yield opened


@pytest.fixture
async def rpc(proxy: Proxy) -> AsyncIterator[RpcClient]:
    client = RpcClient(proxy.url)
    yield client
    await client.close()


@pytest.fixture
async def berlin_rpc(berlin: EmbeddedAnvil) -> AsyncIterator[tuple[Proxy, RpcClient]]:
    async with open_proxy(berlin.url) as opened:
        client = RpcClient(opened.url)
        yield opened, client
        await client.close()


def oracle(rpc: RpcClient, *, floor: int = FLOOR, clock: Clock | None = None) -> FeeOracle:
    return FeeOracle(rpc, percentile=50, tip_floor=floor, monotonic=clock or Clock())


def result(value: object) -> Fault:
    """This result for every request that meets it."""
    return faults.each_call(lambda call: {"result": value})


def missing(method: str) -> Fault:
    return faults.rpc_error(method, *MISSING)


def next_base_fee(node: EmbeddedAnvil) -> int:
    """By the node's own history."""
    answer = node.request(HISTORY, "0x1", "latest", [])
    return int(answer["baseFeePerGas"][-1], 16)


async def test_market(london: EmbeddedAnvil, proxy: Proxy, rpc: RpcClient) -> None:
    """One question gives the next block's base fee, and the usual tip without empty blocks."""
    market = await oracle(rpc).market()
    assert market == Market(base_fee=next_base_fee(london), tip=3 * GWEI)
    assert proxy.received == [HISTORY]


async def test_market_is_taken(rpc: RpcClient, london: EmbeddedAnvil) -> None:
    """What the oracle's market makes of an offer is mined in the next block."""
    offered = offer(await oracle(rpc).market(), Limits(max_fee=100 * GWEI), 0)
    assert isinstance(offered, Fees)
    snapshot = london.request("evm_snapshot")
    pay(
        london,
        maxFeePerGas=hex(offered.max_fee),
        maxPriorityFeePerGas=hex(offered.max_priority_fee),
    )
    london.request("evm_mine")
    assert len(london.request(BLOCK, "latest", False)["transactions"]) == 1
    assert london.request("evm_revert", snapshot) is True


@pytest.mark.parametrize("floor", [0, 3 * GWEI, 25 * GWEI])
async def test_floor(rpc: RpcClient, floor: int) -> None:
    """The network's floor lifts a tip that is below it, and no other."""
    assert (await oracle(rpc, floor=floor).market()).tip == max(3 * GWEI, floor)


async def test_cached(proxy: Proxy, rpc: RpcClient) -> None:
    """Whoever asks within CACHE_SECONDS, one after the other or at once, shares one question."""
    clock = Clock()
    shared = oracle(rpc, clock=clock)
    markets = await asyncio.gather(*(shared.market() for _ in range(20)))
    assert len(set(map(repr, markets))) == 1
    clock.now += CACHE_SECONDS - 0.01
    await shared.market()
    assert proxy.received == [HISTORY]
    clock.now += 0.01
    await shared.market()
    assert proxy.received == [HISTORY] * 2


async def test_failure_is_not_cached(proxy: Proxy, rpc: RpcClient) -> None:
    """A failed question leaves nothing behind: neither itself nor a market that is too old."""
    clock = Clock()
    shared = oracle(rpc, clock=clock)
    await shared.market()
    clock.now += CACHE_SECONDS
    proxy.once(HISTORY, faults.answer(b"slow down", status=429))
    with pytest.raises(ChainUnavailableError, match="HTTP 429"):
        await shared.market()
    assert (await shared.market()).tip == 3 * GWEI


async def test_cancelled_question(proxy: Proxy, rpc: RpcClient) -> None:
    """A caller that gives up while the node is silent does not leave the others waiting for it."""
    shared = oracle(rpc)
    arrived = asyncio.Event()

    async def silence(exchange: Exchange) -> Response:
        arrived.set()
        return await faults.silence(exchange)

    proxy.once(HISTORY, silence)
    first = asyncio.create_task(shared.market())
    await arrived.wait()
    second = asyncio.create_task(shared.market())
    first.cancel()
    assert (await second).tip == 3 * GWEI


async def test_no_transactions(proxy: Proxy, rpc: RpcClient) -> None:
    """Empty blocks say nothing about tips: the node's suggestion does."""
    empty = {"baseFeePerGas": ["0x7", "0x8"], "gasUsedRatio": [0.0], "reward": [["0x0"]]}
    proxy.always(HISTORY, result(empty))
    proxy.always(TIP, result(hex(2 * GWEI)))
    assert await oracle(rpc).market() == Market(base_fee=8, tip=2 * GWEI)


@pytest.mark.parametrize("reward", [{}, {"reward": None}, {"reward": []}])
async def test_no_rewards(proxy: Proxy, rpc: RpcClient, reward: dict[str, Any]) -> None:
    """A history without tips is one of empty blocks."""
    proxy.always(HISTORY, result({"baseFeePerGas": ["0x7", "0x8"], "gasUsedRatio": [0.5]} | reward))
    proxy.always(TIP, result(hex(2 * GWEI)))
    assert await oracle(rpc).market() == Market(base_fee=8, tip=2 * GWEI)


async def test_median(proxy: Proxy, rpc: RpcClient) -> None:
    """One block with an absurd tip does not move the usual one."""
    rewards = [["0x5"], ["0x0"], ["0xffffffffff"], ["0x6"], ["0x4"]]
    ratios = [0.1, 0, 1, 0.3, 0.2]
    history = {"baseFeePerGas": ["0x7"] * 6, "gasUsedRatio": ratios, "reward": rewards}
    proxy.always(HISTORY, result(history))
    assert await oracle(rpc, floor=0).market() == Market(base_fee=7, tip=5)


async def test_without_history(london: EmbeddedAnvil, proxy: Proxy, rpc: RpcClient) -> None:
    """A node without eth_feeHistory: the most that the next block may ask, and its suggestion."""
    proxy.always(HISTORY, missing(HISTORY))
    proxy.always(TIP, result(hex(2 * GWEI)))
    latest = int(london.request(BLOCK, "latest", False)["baseFeePerGas"], 16)
    market = await oracle(rpc).market()
    assert market == Market(base_fee=-(-latest * 9 // 8), tip=2 * GWEI)
    assert market.base_fee is not None
    assert market.base_fee >= next_base_fee(london)
    assert proxy.received == [HISTORY, BLOCK, TIP]


async def test_without_suggestion(london: EmbeddedAnvil, proxy: Proxy, rpc: RpcClient) -> None:
    """Without eth_maxPriorityFeePerGas too, a tip is what the gas price leaves above the base."""
    proxy.always(HISTORY, missing(HISTORY))
    proxy.always(TIP, missing(TIP))
    proxy.always(PRICE, result(hex(50 * GWEI)))
    market = await oracle(rpc).market()
    assert market.base_fee is not None
    assert market.tip == 50 * GWEI - market.base_fee


async def test_legacy(berlin: EmbeddedAnvil, berlin_rpc: tuple[Proxy, RpcClient]) -> None:
    """A chain without base fee has a gas price; its history of zeros is no base fee of zero."""
    _, rpc = berlin_rpc
    market = await oracle(rpc, floor=25 * GWEI).market()
    assert market == Market(base_fee=None, tip=int(berlin.request(PRICE), 16))


@pytest.mark.parametrize(
    "history",
    [
        missing(HISTORY),
        faults.rpc_error(HISTORY, -32004, "Method eth_feeHistory is not supported"),
        result({"oldestBlock": "0x0", "gasUsedRatio": [0.5], "reward": [["0x5"]]}),
        result({"baseFeePerGas": None, "gasUsedRatio": None, "reward": None}),
    ],
)
async def test_legacy_by_its_block(
    berlin: EmbeddedAnvil, berlin_rpc: tuple[Proxy, RpcClient], history: Fault
) -> None:
    """Whatever such a node makes of eth_feeHistory, its latest block tells what it is."""
    proxy, rpc = berlin_rpc
    proxy.always(HISTORY, history)
    market = await oracle(rpc).market()
    assert market == Market(base_fee=None, tip=int(berlin.request(PRICE), 16))


async def test_base_fee_of_zero() -> None:
    """A chain whose base fee is zero has one."""
    with EmbeddedAnvil("--base-fee", "0") as node:
        pay(node, maxFeePerGas=hex(GWEI), maxPriorityFeePerGas=hex(GWEI))
        rpc = RpcClient(node.url)
        try:
            assert await oracle(rpc).market() == Market(base_fee=0, tip=GWEI)
        finally:
            await rpc.close()


async def test_hardhat(hardhat: EmbeddedHardhat) -> None:
    """A Hardhat node is understood as well."""
    rpc = RpcClient(hardhat.url)
    try:
        market = await oracle(rpc).market()
    finally:
        await rpc.close()
    answer = hardhat.request(HISTORY, "0x1", "latest", [])
    assert market.base_fee == int(answer["baseFeePerGas"][-1], 16)
    assert market.tip >= FLOOR


GOOD: dict[str, Any] = {
    "baseFeePerGas": ["0x7", "0x8"], "gasUsedRatio": [0.5], "reward": [["0x5"]],
}  # fmt: skip
MALFORMED: list[Any] = [
    None,
    "0x1",
    [],
    GOOD | {"baseFeePerGas": []},
    GOOD | {"baseFeePerGas": "0x7"},
    GOOD | {"baseFeePerGas": [7, 8]},
    GOOD | {"baseFeePerGas": ["0x7", None]},
    GOOD | {"baseFeePerGas": ["0x7", ""]},
    GOOD | {"baseFeePerGas": ["0x7", "0x"]},
    GOOD | {"baseFeePerGas": ["0x7", "-0x8"]},
    GOOD | {"baseFeePerGas": ["0x7", "eight"]},
    GOOD | {"baseFeePerGas": ["0x7", "0x" + "f" * 65]},
    GOOD | {"gasUsedRatio": "0.5"},
    GOOD | {"gasUsedRatio": ["half"]},
    GOOD | {"reward": [[]]},
    GOOD | {"reward": [["five"]]},
    GOOD | {"reward": [[5]]},
    GOOD | {"reward": ["0x5"]},
    GOOD | {"reward": {"0": "0x5"}},
]


@pytest.mark.parametrize("answer", MALFORMED, ids=repr)
async def test_malformed_history(proxy: Proxy, rpc: RpcClient, answer: Any) -> None:
    """A history that cannot be read is an error of that method, never a guess."""
    proxy.always(HISTORY, result(answer))
    with pytest.raises(ChainError, match=HISTORY):
        await oracle(rpc).market()


@pytest.mark.parametrize("answer", [None, 7, "", "0x", "seven", [], {"tip": "0x7"}], ids=repr)
@pytest.mark.parametrize("method", [TIP, BLOCK])
async def test_malformed_others(proxy: Proxy, rpc: RpcClient, method: str, answer: Any) -> None:
    """Nor is any other answer guessed at: the error names the method."""
    proxy.always(HISTORY, missing(HISTORY))
    block = {"baseFeePerGas": "seven"} if method == BLOCK and isinstance(answer, dict) else answer
    proxy.always(method, result(block))
    with pytest.raises(ChainError, match=method):
        await oracle(rpc).market()


@pytest.mark.parametrize("answer", [None, 7, "seven"], ids=repr)
async def test_malformed_price(berlin_rpc: tuple[Proxy, RpcClient], answer: Any) -> None:
    """Neither is a gas price."""
    proxy, rpc = berlin_rpc
    proxy.always(PRICE, result(answer))
    with pytest.raises(ChainError, match=PRICE):
        await oracle(rpc).market()


@pytest.mark.parametrize("method", [HISTORY, BLOCK, TIP])
async def test_node_errors(proxy: Proxy, rpc: RpcClient, method: str) -> None:
    """An error of the node is nobody's fault, and names the method, as no answer is."""
    if method != HISTORY:
        proxy.always(HISTORY, missing(HISTORY))
    proxy.once(method, faults.rpc_error(method, -32603, "database closed"))
    with pytest.raises(ChainUnavailableError, match=f"{method}.*database closed"):
        await oracle(rpc).market()
    proxy.once(method, faults.answer(b"slow down", status=429))
    with pytest.raises(ChainUnavailableError, match=f"{method}.*HTTP 429"):
        await oracle(rpc).market()
