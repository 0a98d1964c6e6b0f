"""Laws of a registration that is sent right behind its deployment, on a real node."""

import json
from collections.abc import Iterator

import msgspec
import pytest

from adapters import watches
from adapters.contracts import ZERO_ADDRESS
from adapters.embedded import DEV_ACCOUNT
from saga.facts import Absent, Mined, NonceTaken, Refused, Reverted, Sent
from saga.model import Deployment, Saga, State, Step
from tests.support import proxy as faults
from tests.support.chain import (
    STRANGER,
    STRANGER_KEY,
    ChainSide,
    Node,
    StrategyName,
    chain_side,
    content_of,
    new_saga,
)
from tests.support.proxy import Exchange, Response, open_proxy

MODEL = "model_1"


@pytest.fixture(autouse=True)
def _undone(node: Node) -> Iterator[None]:
    with node.rolled_back():
        node.hold_blocks()
        yield


async def settled(side: ChainSide, saga: Saga, step: Step) -> object:
    """What one poll makes of a step's transaction."""
    intent = saga.intent(step)
    assert intent is not None
    future = side.watcher.expect(intent, sent=False)
    await side.watcher.poll()
    return future.result() if future.done() else None


async def test_both_in_one_block(node: Node, strategy: StrategyName) -> None:
    """Deployment and registration go out in one request and are mined in one block."""
    async with (
        open_proxy(node.url) as proxy,
        chain_side(node, strategy, url=proxy.url, watching=False) as side,
    ):
        saga = await side.pair(new_saga(MODEL))
        requests = len(proxy.received)
        assert await side.chain.send(saga, Step.DEPLOY) == Sent()
        assert proxy.received[requests:] == ["eth_sendRawTransaction"] * 2
        node.mine()
        deployed = await settled(side, saga, Step.DEPLOY)
        registered = await settled(side, saga, Step.REGISTER)
    assert isinstance(deployed, Mined)
    assert isinstance(registered, Mined)
    assert deployed.receipt.block_hash == registered.receipt.block_hash
    assert saga.deploy is not None
    assert node.registered(MODEL) == saga.deploy.predicted


async def test_receipts_of_a_block_are_one_request(node: Node) -> None:
    """What one block holds of ours is asked for once, with the signer's nonce."""
    async with (
        open_proxy(node.url) as proxy,
        chain_side(node, url=proxy.url, watching=False) as side,
    ):
        saga = await side.pair(new_saga(MODEL))
        await side.chain.send(saga, Step.DEPLOY)
        node.mine()
        requests = len(proxy.received)
        assert isinstance(await settled(side, saga, Step.DEPLOY), Mined)
        assert proxy.received[requests:] == [
            "eth_getBlockByNumber",
            "eth_getBlockReceipts",
            "eth_getTransactionCount",
        ]


METHOD = "eth_getBlockReceipts"


@pytest.mark.parametrize(
    ("fault", "asked"),
    [
        (faults.rpc_error(METHOD, -32601, "the method does not exist"), 1),
        (faults.rpc_error(METHOD, -32004, f"Method {METHOD} is not supported"), 1),
        (faults.rpc_error(METHOD, -32603, "internal error"), 3),
        (faults.rpc_error(METHOD, -32000, "not available on your plan"), 3),
        (
            faults.each_call(lambda call: {"result": None} if call["method"] == METHOD else None),
            4,
        ),
    ],
)
async def test_a_node_without_block_receipts(node: Node, fault: faults.Fault, asked: int) -> None:
    """A node that does not give a block's receipts is asked for each hash, in one batch, at once;
    once it says that it has no such method, or after three errors in a row, no more for a block's.
    """
    async with (
        open_proxy(node.url) as proxy,
        chain_side(node, url=proxy.url, watching=False) as side,
    ):
        proxy.always(METHOD, fault)
        for number in range(4):
            saga = await side.pair(new_saga(f"model-{number}"))
            await side.chain.send(saga, Step.DEPLOY)
            node.mine()
            for step in Step:
                assert isinstance(await settled(side, saga, step), Mined)
        assert proxy.received.count(METHOD) == asked


async def test_the_second_is_asked_from_memory(node: Node, strategy: StrategyName) -> None:
    """Once both are mined, the registration's receipt costs no further question."""
    async with (
        open_proxy(node.url) as proxy,
        chain_side(node, strategy, url=proxy.url, watching=False) as side,
    ):
        saga = await side.pair(new_saga(MODEL))
        await side.chain.send(saga, Step.DEPLOY)
        assert saga.register is not None
        assert await side.chain.ask(saga.register) == Sent()
        node.mine()
        await settled(side, saga, Step.DEPLOY)
        requests = len(proxy.received)
        assert isinstance(await side.chain.ask(saga.register), Mined)
        assert len(proxy.received) == requests


async def test_a_failed_deployment_fails_its_registration(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the deployment does not come about, its registration reverts and can be made again."""
    monkeypatch.setattr(watches, "OBSERVATION_SECONDS", 0.0)
    async with chain_side(node, watching=False) as side:
        saga = await side.pair(new_saga(MODEL))
        assert saga.deploy is not None
        assert saga.register is not None
        # Another transaction of the key takes the deployment's nonce.
        node.request("eth_sendTransaction", {"from": DEV_ACCOUNT, "to": STRANGER})
        await side.watcher.rebroadcast([saga.register.attempts[0].raw])
        node.mine()
        for _ in range(5):
            deployed = await settled(side, saga, Step.DEPLOY)
        assert deployed == NonceTaken(saga.deploy.nonce)
        assert isinstance(await settled(side, saga, Step.REGISTER), Reverted)
        again = await side.intend(msgspec.structs.replace(saga, deploy=None), Step.DEPLOY)
        assert again.deploy is not None
        assert again.deploy.nonce > saga.register.nonce
        await side.chain.send(again, Step.DEPLOY)
        node.mine()
        fact = await settled(side, again, Step.DEPLOY)
        assert isinstance(fact, Mined)
        deployment = Deployment(token=again.deploy.predicted, receipt=fact.receipt)
        done = msgspec.structs.replace(
            again, state=State.TOKEN_DEPLOYED, deployment=deployment, register=None
        )
        done = await side.intend(done, Step.REGISTER)
        await side.chain.send(done, Step.REGISTER)
        node.mine()
        assert isinstance(await settled(side, done, Step.REGISTER), Mined)
    assert len(node.tokens()) == 1
    assert node.registered(MODEL) == again.deploy.predicted


async def test_no_second_registration_behind(node: Node) -> None:
    """A saga whose registration is out already gets a deployment alone."""
    async with chain_side(node, watching=False) as side:
        saga = await side.pair(new_saga(MODEL))
        alone = msgspec.structs.replace(saga, deploy=None)
        found = await side.chain.look_up(alone, Step.DEPLOY, content_of(alone))
    assert isinstance(found, Absent)
    assert found.follow is None


async def test_without_the_registrar_role(node: Node) -> None:
    """A registration that would be refused is not sent behind: it is its own step's matter."""
    async with chain_side(node, key=STRANGER_KEY, watching=False) as side:
        found = await side.chain.look_up(new_saga(MODEL), Step.DEPLOY, content_of(new_saga(MODEL)))
        assert isinstance(found, Refused)
    async with chain_side(node, "create2", key=STRANGER_KEY, watching=False) as side:
        found = await side.chain.look_up(new_saga(MODEL), Step.DEPLOY, content_of(new_saga(MODEL)))
    assert isinstance(found, Absent)
    assert found.follow is None


# --- Gas.


async def test_gas_is_estimated_once_for_a_class(node: Node, strategy: StrategyName) -> None:
    """Models with strings of the same lengths share two estimates, with 30 % to spare."""
    async with (
        open_proxy(node.url) as proxy,
        chain_side(node, strategy, url=proxy.url, watching=False) as side,
    ):
        sagas = [await side.pair(new_saga(model)) for model in ("model-a", "model-b")]
        assert proxy.received.count("eth_estimateGas") == 2
        await side.pair(new_saga("m" * 60))
        assert proxy.received.count("eth_estimateGas") == 4
        for saga in sagas[:1]:
            await side.chain.send(saga, Step.DEPLOY)
            node.mine()
            for step in Step:
                fact, intent = await settled(side, saga, step), saga.intent(step)
                assert isinstance(fact, Mined)
                assert intent is not None
                used, limit = fact.receipt.gas_used, intent.attempts[0].gas
                assert 1.25 < limit / used < 1.45


async def test_a_revert_forgets_the_estimates(node: Node) -> None:
    """After a revert on the chain the next call is simulated anew, and its error decoded."""
    async with (
        open_proxy(node.url) as proxy,
        chain_side(node, url=proxy.url, watching=False) as side,
    ):
        first = await side.pair(new_saga("first"))
        second = await side.pair(new_saga("second"))
        assert second.deploy is not None
        # The same nonces: the second's registration reverts, as its deployment never goes out.
        await side.watcher.rebroadcast(
            [i.attempts[0].raw for i in (first.deploy, second.register) if i is not None]
        )
        node.mine()
        assert second.register is not None
        fact = await side.chain.ask(second.register)
        assert isinstance(fact, Reverted)
        requests = len(proxy.received)
        await side.pair(new_saga("third"))
        assert proxy.received[requests:].count("eth_estimateGas") == 2


# --- Where it is confirmed.


async def test_finalized(node: Node) -> None:
    """With CONFIRMATIONS=finalized a transaction counts once its block is finalized."""
    async with chain_side(node, confirmations=None, watching=False) as side:
        saga = await side.pair(new_saga(MODEL))
        await side.chain.send(saga, Step.DEPLOY)
        node.mine()
        assert await settled(side, saga, Step.DEPLOY) is None
        node.mine(2 * 32)  # anvil finalizes two epochs behind its head
        fact = await settled(side, saga, Step.DEPLOY)
    assert isinstance(fact, Mined)


@pytest.mark.parametrize("confirmations", [1, 2])
async def test_no_code_no_confirmation(node: Node, confirmations: int) -> None:
    """A receipt counts once the token has code: shown by its own log at the head, asked for when
    there is no such log, and asked for again at depth."""

    async def without_logs(exchange: Exchange) -> Response:
        replies = json.loads(await exchange.forward())
        for reply in replies:
            if isinstance(reply["result"], list):
                for receipt in reply["result"]:
                    receipt["logs"] = []
        return faults.json_response(json.dumps(replies).encode())

    async with (
        open_proxy(node.url) as proxy,
        chain_side(node, url=proxy.url, confirmations=confirmations, watching=False) as side,
    ):
        saga = await side.pair(new_saga(MODEL))
        await side.chain.send(saga, Step.DEPLOY)
        node.mine(confirmations)
        bare = faults.each_call(
            lambda call: {"result": "0x"} if call["method"] == "eth_getCode" else None
        )
        if confirmations == 1:
            proxy.always("eth_getBlockReceipts", without_logs)
        proxy.always("eth_getCode", bare)
        assert await settled(side, saga, Step.DEPLOY) is None
        proxy.heal()
        assert isinstance(await settled(side, saga, Step.DEPLOY), Mined)
        assert "eth_getCode" in proxy.received


async def test_a_reorganised_pair(node: Node, strategy: StrategyName) -> None:
    """A pair that a reorganisation threw out is sent again, and confirmed where it is then."""
    async with chain_side(node, strategy, confirmations=3, watching=False) as side:
        saga = await side.pair(new_saga(MODEL))
        await side.chain.send(saga, Step.DEPLOY)
        node.mine(2)
        assert await settled(side, saga, Step.DEPLOY) is None
        before = node.block_number
        node.request("anvil_reorg", 2, [])
        assert node.tokens() == set()
        await side.watcher.poll()
        node.mine(4)
        await side.watcher.poll()
        deployed = await settled(side, saga, Step.DEPLOY)
        registered = await settled(side, saga, Step.REGISTER)
    assert isinstance(deployed, Mined)
    assert isinstance(registered, Mined)
    assert deployed.receipt.block_number > before - 1
    for fact in (deployed, registered):
        now = node.request("eth_getTransactionReceipt", fact.receipt.tx_hash)
        assert fact.receipt.block_hash == now["blockHash"]
        assert fact.receipt.block_number == int(now["blockNumber"], 16)
    assert node.registered(MODEL) != ZERO_ADDRESS


async def test_one_node_without_receipt_proves_nothing(node: Node) -> None:
    """A spent nonce without a receipt on one node is no stranger's while another has it."""
    async with (
        open_proxy(node.url) as blind,
        chain_side(node, url=[blind.url, node.url], watching=False) as side,
    ):
        saga = await side.pair(new_saga(MODEL))
        assert saga.deploy is not None
        await side.chain.send(saga, Step.DEPLOY)
        node.mine()
        hidden = ("eth_getTransactionReceipt", "eth_getBlockReceipts")
        for method in hidden:
            blind.always(
                method,
                faults.each_call(
                    lambda call: {"result": None} if call["method"] in hidden else None
                ),
            )
        for _ in range(8):
            fact = await settled(side, saga, Step.DEPLOY)
            assert not isinstance(fact, NonceTaken)
        blind.heal()
        assert isinstance(await settled(side, saga, Step.DEPLOY), Mined)


# --- A chain without base fee.


async def test_legacy(node: Node) -> None:
    """On a chain without base fee both transactions are of type 0, and are mined."""
    old = legacy_chain()
    async with (
        open_proxy(node.url) as proxy,
        chain_side(node, url=proxy.url, watching=False) as side,
    ):
        for method, fault in old.items():
            proxy.always(method, fault)
        saga = await side.pair(new_saga(MODEL))
        await side.chain.send(saga, Step.DEPLOY)
        node.mine()
        for step in Step:
            assert isinstance(await settled(side, saga, step), Mined)
            intent = saga.intent(step)
            assert intent is not None
            sent = node.request("eth_getTransactionByHash", intent.attempts[0].hash)
            assert sent["type"] == "0x0"


def legacy_chain() -> dict[str, faults.Fault]:
    """A node's answers without anything of EIP-1559."""
    missing = {"error": {"code": -32601, "message": "the method does not exist"}}

    async def plain_block(exchange: faults.Exchange) -> faults.Response:
        answer = (await exchange.forward()).replace(b'"baseFeePerGas"', b'"ignored"')
        return faults.json_response(answer)

    return {
        "eth_getBlockByNumber": plain_block,
        "eth_feeHistory": faults.each_call(
            lambda call: missing if call["method"] == "eth_feeHistory" else None
        ),
    }
