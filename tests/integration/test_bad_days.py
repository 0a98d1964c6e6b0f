"""Laws of the chain port on bad days: each has one clear outcome, and no second contract."""

import asyncio
from collections.abc import Iterator

import pytest

from adapters import watches
from adapters.embedded import DEV_ACCOUNT, EmbeddedHardhat
from saga.errors import ChainUnavailableError, HeldError
from saga.facts import Absent, Mined, Refused, Reverted, Sent
from saga.fees import GWEI, Limits
from saga.model import Step
from tests.support import proxy as faults
from tests.support.chain import Node, chain_side, content_of, new_saga, with_intent
from tests.support.proxy import Exchange, Proxy, Response, open_proxy

MODEL = "model_1"
SEND = "eth_sendRawTransaction"


@pytest.fixture(scope="module")
def hardhat_node() -> Iterator[Node]:
    with EmbeddedHardhat() as hardhat:
        yield Node(hardhat.url)


@pytest.fixture(autouse=True)
def _undone(request: pytest.FixtureRequest) -> Iterator[None]:
    if "node" not in request.fixturenames:
        yield
        return
    node: Node = request.getfixturevalue("node")
    with node.rolled_back():
        yield


def instead(proxy: Proxy, code: int, message: str) -> None:
    """The node takes the transaction, and an answer of this kind comes back."""
    after = faults.rpc_error(SEND, code, message)

    async def both(exchange: Exchange) -> Response:
        await exchange.forward()
        return await after(exchange)

    proxy.always(SEND, both)


@pytest.mark.parametrize(
    "message",
    [
        "already known",
        "Known transaction",
        "nonce too low: next nonce 6, tx nonce 5",
        "replacement transaction underpriced",
        "could not replace existing tx",
        "transaction underpriced",
        "something that nobody has ever seen",
        "",
    ],
)
async def test_first_send(node: Node, message: str) -> None:
    """Whatever a node says of bytes that it has taken, they are watched, and found mined."""
    async with open_proxy(node.url) as proxy, chain_side(node, url=proxy.url) as side:
        saga = await side.pair(new_saga(MODEL))
        instead(proxy, -32000, message)
        assert await side.chain.send(saga, Step.DEPLOY) == Sent()
        for step in Step:
            assert isinstance(await side.settle(saga, step), Mined)
    assert len(node.tokens()) == 1


async def test_one_of_two_has_no_funds_for_us(node: Node) -> None:
    """One node's refusal is not everybody's: what another takes is sent."""
    async with (
        open_proxy(node.url) as proxy,
        chain_side(node, url=[proxy.url, node.url]) as side,
    ):
        saga = await side.pair(new_saga(MODEL))
        proxy.always(SEND, faults.rpc_error(SEND, -32000, "insufficient funds for gas"))
        assert await side.chain.send(saga, Step.DEPLOY) == Sent()
        assert isinstance(await side.settle(saga, Step.DEPLOY), Mined)


DEAD = "http://127.0.0.1:1"


async def test_a_dead_endpoint_hides_no_want_of_funds(node: Node) -> None:
    """Without funds a saga is held also while another endpoint does not answer."""
    async with chain_side(node, url=[node.url, DEAD]) as side:
        saga = await side.pair(new_saga(MODEL))
        node.request("anvil_setBalance", DEV_ACCOUNT, "0x0")
        with pytest.raises(HeldError, match=DEV_ACCOUNT) as held:
            await side.chain.send(saga, Step.DEPLOY)
    assert held.value.hold == "funds"


async def test_a_dead_endpoint_refuses_nothing(node: Node) -> None:
    """Bytes are refused for good only when every endpoint has said so."""
    async with open_proxy(node.url) as proxy, chain_side(node, url=[proxy.url, DEAD]) as side:
        saga = await side.pair(new_saga(MODEL))
        proxy.always(SEND, faults.rpc_error(SEND, -32000, "intrinsic gas too low"))
        assert await side.chain.send(saga, Step.DEPLOY) == Sent()


async def test_mined_and_not_deep(node: Node) -> None:
    """What is mined and not deep enough is held with the block's number, not failed."""
    node.hold_blocks()
    async with chain_side(node, confirmations=5) as side:
        saga = await side.pair(new_saga(MODEL))
        await side.chain.send(saga, Step.DEPLOY)
        assert saga.deploy is not None
        watching = asyncio.create_task(side.chain.watch(saga.deploy, 1.5))
        await asyncio.sleep(0)
        node.mine()
        with pytest.raises(HeldError, match=f"mined in block {node.block_number}") as held:
            await watching
        assert held.value.hold == "confirmations"
        node.mine(4)
        assert isinstance(await side.settle(saga, Step.DEPLOY), Mined)


async def test_mined_without_code(node: Node) -> None:
    """A deployment whose token shows no code is held with block and address, and goes on later."""
    node.hold_blocks()
    async with (
        open_proxy(node.url) as proxy,
        chain_side(node, url=proxy.url, confirmations=2) as side,
    ):
        saga = await side.pair(new_saga(MODEL))
        await side.chain.send(saga, Step.DEPLOY)
        assert saga.deploy is not None
        bare = faults.each_call(
            lambda call: {"result": "0x"} if call["method"] == "eth_getCode" else None
        )
        proxy.always("eth_getCode", bare)
        watching = asyncio.create_task(side.chain.watch(saga.deploy, 1.5))
        await asyncio.sleep(0)
        node.mine(2)
        with pytest.raises(
            HeldError, match=f"no node shows code at {saga.deploy.predicted}"
        ) as held:
            await watching
        assert held.value.hold == "no_code"
        proxy.heal()
        assert isinstance(await side.settle(saga, Step.DEPLOY), Mined)


async def test_a_spent_nonce_that_one_of_two_cannot_prove(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one of two endpoints does not answer, a spent nonce is not proven foreign: held."""
    monkeypatch.setattr(watches, "OBSERVATION_SECONDS", 0.0)
    node.hold_blocks()
    async with chain_side(node, url=[node.url, DEAD]) as side:
        saga = await side.intend(new_saga(MODEL), Step.DEPLOY)
        assert saga.deploy is not None
        node.request("eth_sendTransaction", {"from": DEV_ACCOUNT, "to": DEV_ACCOUNT})
        node.mine(2)
        await side.watcher.poll()
        watching = asyncio.create_task(side.chain.watch(saga.deploy, 1.5))
        await asyncio.sleep(0)
        node.mine()
        with pytest.raises(HeldError, match=r"1 endpoint\(s\) answer, 2 must agree"):
            await watching


async def test_a_registration_alone_costs_the_model(node: Node) -> None:
    """A model's cost counts its deployment also when the registration is signed later."""
    async with chain_side(node) as side:
        deployed = await side.carry_out(new_saga(MODEL), Step.DEPLOY)
        found = await side.chain.look_up(deployed, Step.REGISTER, content_of(deployed))
        assert isinstance(found, Absent)
        assert deployed.deployment is not None
        assert found.call.cost_gas > deployed.deployment.receipt.gas_used


async def test_all_refuse_for_good(node: Node) -> None:
    """Bytes that every node refuses for good are refused; the reasons stand in the text."""
    async with (
        open_proxy(node.url) as one,
        open_proxy(node.url) as two,
        chain_side(node, url=[one.url, two.url]) as side,
    ):
        saga = await side.pair(new_saga(MODEL))
        one.always(SEND, faults.rpc_error(SEND, -32000, "intrinsic gas too low"))
        two.always(SEND, faults.rpc_error(SEND, -32000, "exceeds block gas limit"))
        fact = await side.chain.send(saga, Step.DEPLOY)
    assert isinstance(fact, Refused)
    assert "intrinsic gas too low; exceeds block gas limit" in fact.reason


async def test_hardhat_says_reverted_though_mined(hardhat_node: Node) -> None:
    """Hardhat answers -32603 "reverted" for a transaction that is mined: the chain is asked."""
    node = hardhat_node
    async with chain_side(node, watching=False) as side:
        first = await side.intend(new_saga(MODEL), Step.DEPLOY)
        second = await side.intend(new_saga(MODEL, token_symbol="OTHER"), Step.DEPLOY)
        found = await side.chain.look_up(second, Step.DEPLOY, content_of(second))
        assert isinstance(found, Absent)
        nonce = node.nonce() + 1
        second = with_intent(second, await side.lane.sign(Step.DEPLOY, found.call, nonce))
        await side.chain.send(first, Step.DEPLOY)
        assert await side.chain.send(second, Step.DEPLOY) == Sent()
        assert second.deploy is not None
        settled = side.watcher.expect(second.deploy, sent=False)
        await side.watcher.poll()
        tx_hash = second.deploy.attempts[0].hash
        reverted = Reverted(tx_hash, node.block_number, node.cost(tx_hash))
        assert settled.result() == reverted
    assert len(node.tokens()) == 1


async def test_block_gas_limit_below_need(node: Node) -> None:
    """A chain whose blocks are too small for a deployment refuses it before anything is signed."""
    node.request("evm_setBlockGasLimit", hex(500_000))
    node.mine()
    async with chain_side(node) as side:
        saga = new_saga(MODEL)
        found = await side.chain.look_up(saga, Step.DEPLOY, content_of(saga))
    node.request("evm_setBlockGasLimit", hex(30_000_000))
    assert isinstance(found, Refused)
    assert "more than the 500000 gas that a block holds" in found.reason


async def test_block_gas_limit_below_the_estimate(hardhat_node: Node) -> None:
    """The same on a node that estimates more than its blocks hold."""
    hardhat_node.request("evm_setBlockGasLimit", hex(500_000))
    hardhat_node.mine()
    async with chain_side(hardhat_node) as side:
        saga = new_saga("too-big")
        found = await side.chain.look_up(saga, Step.DEPLOY, content_of(saga))
    hardhat_node.request("evm_setBlockGasLimit", hex(30_000_000))
    hardhat_node.mine()
    assert isinstance(found, Refused)
    assert "a transaction may have 500000 here" in found.reason


async def test_base_fee_twenty_times_higher(node: Node) -> None:
    """A base fee that rises twentyfold while a saga waits for room is paid by its next offer."""
    node.hold_blocks()
    async with chain_side(node, watching=False) as side:
        saga = new_saga(MODEL)
        found = await side.chain.look_up(saga, Step.DEPLOY, content_of(saga))
        assert isinstance(found, Absent)
        dear = 20 * int(node.request("eth_gasPrice"), 16)
        node.request("anvil_setNextBlockBaseFeePerGas", hex(dear))
        node.mine()
        side.chain._oracle._fresh_until = 0.0
        call = await side.chain.priced(found.call)
        assert call.max_fee > dear
        saga = with_intent(saga, await side.lane.sign(Step.DEPLOY, call, node.nonce()))
        await side.chain.send(saga, Step.DEPLOY)
        node.mine()
        assert saga.deploy is not None
        settled = side.watcher.expect(saga.deploy, sent=False)
        await side.watcher.poll()
        assert isinstance(settled.result(), Mined)


@pytest.mark.parametrize(
    ("limits", "hold", "setting"),
    [
        (Limits(max_fee=1), "max_fee", "MAX_FEE_GWEI"),
        (Limits(max_fee=1000 * GWEI, max_cost=10**12), "max_cost", "MAX_DEPLOYMENT_COST_WEI"),
    ],
)
async def test_above_the_limits(node: Node, limits: Limits, hold: str, setting: str) -> None:
    """Above what the operator allows nothing is signed: the saga is held, by which setting."""
    async with chain_side(node, limits=limits) as side:
        saga = new_saga(MODEL)
        with pytest.raises(HeldError, match=setting) as held:
            await side.chain.look_up(saga, Step.DEPLOY, content_of(saga))
    assert held.value.hold == hold


async def test_no_funds_before_anything_is_signed(node: Node) -> None:
    """A key without funds holds its sagas, named by its address."""
    node.request("anvil_setBalance", DEV_ACCOUNT, "0x0")
    async with chain_side(node) as side:
        saga = await side.pair(new_saga(MODEL))
        with pytest.raises(HeldError, match=DEV_ACCOUNT) as held:
            await side.chain.send(saga, Step.DEPLOY)
    assert held.value.hold == "funds"


async def test_chain_id_changes(node: Node) -> None:
    """A node that is on another chain all at once is never asked again, and the line says so."""
    async with open_proxy(node.url) as proxy, chain_side(node, url=proxy.url) as side:
        await side.rpc.check_chain()
        other = faults.each_call(
            lambda call: {"result": "0x5"} if call["method"] == "eth_chainId" else None
        )
        proxy.always("eth_chainId", other)
        with pytest.raises(ChainUnavailableError, match="on chain 5"):
            await side.rpc.check_chain()
        saga = new_saga(MODEL)
        with pytest.raises(ChainUnavailableError, match="on chain 5, not 31337"):
            await side.chain.look_up(saga, Step.DEPLOY, content_of(saga))
