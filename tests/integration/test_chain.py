"""Laws of the chain port that hold for every strategy, on a real node."""

import asyncio
from collections.abc import Iterator, Sequence

import msgspec
import pytest

from adapters import heads, watches
from adapters.contracts import MODEL_OF, REGISTER_MODEL, ZERO_ADDRESS
from adapters.embedded import DEV_ACCOUNT
from adapters.rpc import RpcClient
from saga.errors import ChainError, ChainUnavailableError, HeldError, TamperedError
from saga.facts import (
    Absent,
    EntryExists,
    Mined,
    NonceTaken,
    Refused,
    RegistryConflict,
    Reverted,
    Sent,
    TimedOut,
    TokenExists,
    Unmined,
)
from saga.messages import token_name
from saga.model import Attempt, Intent, Lease, Saga, Step
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
    with_intent,
)
from tests.support.proxy import Exchange, open_proxy

MODEL = "model_1"


@pytest.fixture(autouse=True)
def _undone(node: Node) -> Iterator[None]:
    with node.rolled_back():
        yield


def register_as_operator(node: Node, model_id: str, token: str) -> None:
    data = REGISTER_MODEL.encode(model_id, token, "accuracy", "run")
    node.transact(DEV_ACCOUNT, node.registry, data)


def stored_hash(saga: Saga, step: Step = Step.DEPLOY) -> str:
    intent = saga.intent(step)
    assert intent is not None
    return intent.attempts[-1].hash


def in_pool(node: Node) -> int:
    return int(node.request("txpool_status")["pending"], 16)


# --- The good way.


async def test_both_steps(node: Node, strategy: StrategyName) -> None:
    """Deploy and register leave one token, at the address that was known before anything was sent.

    It has the message's name and symbol, the manager for a controller, and its registry entry.
    """
    async with chain_side(node, strategy) as side:
        deployed = await side.carry_out(new_saga(MODEL, token_symbol="HKAI-7"), Step.DEPLOY)
        assert deployed.deploy is not None
        token = deployed.deploy.predicted
        assert node.tokens() == {token}
        assert node.registered(MODEL) == ZERO_ADDRESS
        assert (node.name(token), node.symbol(token)) == (token_name(MODEL), "HKAI-7")
        assert node.controller(token) == node.manager
        await side.carry_out(deployed, Step.REGISTER)
    assert node.registered(MODEL) == token
    assert node.read(node.registry, MODEL_OF, token) == MODEL


async def test_receipt(node: Node, strategy: StrategyName) -> None:
    """A mined fact names the stored hash, the block with its time, the sender and the price."""
    async with chain_side(node, strategy) as side:
        saga = await side.broadcast(new_saga(MODEL), Step.DEPLOY)
        fact = await side.settle(saga, Step.DEPLOY)
    assert isinstance(fact, Mined)
    block = node.request("eth_getBlockByNumber", "latest", False)
    receipt = fact.receipt
    assert receipt.tx_hash == stored_hash(saga)
    assert (receipt.block_hash, hex(receipt.block_number)) == (block["hash"], block["number"])
    assert hex(receipt.block_time) == block["timestamp"]
    assert receipt.sender == DEV_ACCOUNT
    assert hex(receipt.gas_used) == block["gasUsed"]
    assert receipt.gas_price >= int(block["baseFeePerGas"], 16)


async def test_intent(node: Node, strategy: StrategyName) -> None:
    """Signing sends nothing, and asks for little more gas than the deployment burns."""
    async with chain_side(node, strategy) as side:
        saga = await side.intend(new_saga(MODEL), Step.DEPLOY)
        assert saga.deploy is not None
        assert in_pool(node) == 0
        assert saga.deploy.nonce == node.nonce()
        await side.chain.send(saga, Step.DEPLOY)
        fact = await side.settle(saga, Step.DEPLOY)
    assert isinstance(fact, Mined)
    assert fact.receipt.gas_used < saga.deploy.attempts[0].gas < 1.5 * fact.receipt.gas_used


async def test_nonces(node: Node) -> None:
    """Known nonces count the pool, spent ones the blocks alone."""
    node.hold_blocks()
    async with chain_side(node, watching=False) as side:
        before = node.nonce()
        await side.broadcast(new_saga(MODEL), Step.DEPLOY)
        await side.watcher.poll()
        assert (await side.lane.known_nonces(), side.lane.spent_nonces) == (before + 1, before)
        node.mine()
        await side.watcher.poll()
        assert side.lane.spent_nonces == before + 1


async def test_next_block(node: Node) -> None:
    """Waiting for a block ends with the next one, not before."""
    async with chain_side(node, watching=False) as side:
        waiting = asyncio.create_task(side.chain.next_block())
        await asyncio.sleep(0)
        await side.watcher.poll()
        await asyncio.sleep(0)
        assert not waiting.done()
        node.mine()
        await side.watcher.poll()
        await waiting


# --- What exists is found again, and never made twice.


async def test_token_is_found_again(node: Node, strategy: StrategyName) -> None:
    """A replica without any memory finds the token, its content and the transaction it came by."""
    async with chain_side(node, strategy) as side:
        deployed = await side.carry_out(new_saga(MODEL), Step.DEPLOY)
    node.mine(3)
    async with chain_side(node, strategy) as side:
        found = await side.chain.look_up(new_saga(MODEL), Step.DEPLOY, content_of(deployed))
    assert deployed.deployment is not None
    assert found == TokenExists(
        deployment=msgspec.structs.replace(deployed.deployment, adopted=True),
        name=token_name(MODEL),
        symbol="HKAI-1",
        mlflow_run_id=f"run-{MODEL}",
    )


async def test_entry_is_found_again(node: Node, strategy: StrategyName) -> None:
    """A replica without any memory finds the registry entry and its transaction."""
    async with chain_side(node, strategy) as side:
        deployed = await side.carry_out(new_saga(MODEL), Step.DEPLOY)
        registered = await side.carry_out(deployed, Step.REGISTER)
        found = await side.chain.look_up(deployed, Step.REGISTER, content_of(deployed))
    assert isinstance(found, EntryExists)
    assert found.registration.adopted
    assert found.registration.receipt.tx_hash == stored_hash(registered, Step.REGISTER)
    assert found.registration.receipt.sender == DEV_ACCOUNT


@pytest.mark.parametrize("change", [{"token_symbol": "OTHER"}, {"mlflow_run_id": "another-run"}])
async def test_changed_content(node: Node, strategy: StrategyName, change: dict[str, str]) -> None:
    """A model that has a token never gets another, whatever a later message says: it is told."""
    async with chain_side(node, strategy) as side:
        await side.carry_out(new_saga(MODEL), Step.DEPLOY)
        later = new_saga(MODEL, **change)
        found = await side.chain.look_up(later, Step.DEPLOY, content_of(later))
    assert isinstance(found, TokenExists)
    assert (found.symbol, found.mlflow_run_id) == ("HKAI-1", f"run-{MODEL}")


async def test_rotated_key(node: Node, strategy: StrategyName) -> None:
    """Another signing key finds what the former one deployed, and who that was."""
    async with chain_side(node, strategy) as side:
        deployed = await side.carry_out(new_saga(MODEL), Step.DEPLOY)
    async with chain_side(node, strategy, key=STRANGER_KEY) as side:
        found = await side.chain.look_up(deployed, Step.DEPLOY, content_of(deployed))
    assert isinstance(found, TokenExists)
    assert found.deployment.receipt.sender == DEV_ACCOUNT


async def test_models_are_apart(node: Node, strategy: StrategyName) -> None:
    """Two models with the same symbol and run have two tokens."""
    same = {"mlflow_run_id": "run"}
    async with chain_side(node, strategy) as side:
        one = await side.carry_out(new_saga("one", **same), Step.DEPLOY)
        two = await side.carry_out(new_saga("two", **same), Step.DEPLOY)
    assert one.deployment is not None
    assert two.deployment is not None
    assert node.tokens() == {one.deployment.token, two.deployment.token}
    assert one.deployment.token != two.deployment.token


async def test_sent_twice(node: Node, strategy: StrategyName) -> None:
    """One intent sent twice, before and after it is mined, is one transaction."""
    before = node.nonce()
    node.hold_blocks()
    async with chain_side(node, strategy) as side:
        saga = await side.broadcast(new_saga(MODEL), Step.DEPLOY)
        assert await side.chain.send(saga, Step.DEPLOY) == Sent()
        assert in_pool(node) == 1
        node.mine()
        assert await side.chain.send(saga, Step.DEPLOY) == Sent()
        assert isinstance(await side.settle(saga, Step.DEPLOY), Mined)
    assert node.nonce() == before + 1
    assert len(node.tokens()) == 1


async def test_mined_between_two_questions(node: Node, strategy: StrategyName) -> None:
    """A simulation that fails because the token has just been mined finds the token instead."""
    node.hold_blocks()
    async with (
        open_proxy(node.url) as proxy,
        chain_side(node, strategy) as first,
        chain_side(node, strategy, url=proxy.url) as second,
    ):
        saga = await first.intend(new_saga(MODEL), Step.DEPLOY)

        async def overtaken(exchange: Exchange) -> faults.Response:
            await first.chain.send(saga, Step.DEPLOY)
            node.mine()
            await second.watcher.poll()
            return faults.json_response(await exchange.forward())

        proxy.once("eth_estimateGas", overtaken)
        found = await second.chain.look_up(saga, Step.DEPLOY, content_of(saga))
    assert isinstance(found, TokenExists)
    assert len(node.tokens()) == 1


# --- What a transaction can come to.


async def test_reverted(node: Node, strategy: StrategyName) -> None:
    """Of two transactions for one model the second reverts on the chain, and is said to."""
    node.hold_blocks()
    async with chain_side(node, strategy) as side:
        first = await side.intend(new_saga(MODEL), Step.DEPLOY)
        second = await side.intend(new_saga(MODEL, token_symbol="OTHER"), Step.DEPLOY)
        if strategy == "create2":  # the same address is needed for a collision
            second = await side.intend(new_saga(MODEL), Step.DEPLOY)
        second = await renumbered(side, second, node.nonce() + 1)
        await side.chain.send(first, Step.DEPLOY)
        await side.chain.send(second, Step.DEPLOY)
        node.mine()
        assert isinstance(await side.settle(first, Step.DEPLOY), Mined)
        cost = node.cost(stored_hash(second))
        reverted = Reverted(stored_hash(second), node.block_number, cost)
        assert await side.settle(second, Step.DEPLOY) == reverted
        assert second.deploy is not None
        assert await side.chain.ask(second.deploy) == reverted
    assert len(node.tokens()) == 1


async def renumbered(side: ChainSide, saga: Saga, nonce: int) -> Saga:
    """The saga's deploy intent signed with another nonce."""
    found = await side.chain.look_up(saga, Step.DEPLOY, content_of(saga))
    assert isinstance(found, Absent)
    return with_intent(saga, await side.lane.sign(Step.DEPLOY, found.call, nonce))


async def test_nonce_taken(
    node: Node, strategy: StrategyName, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A nonce spent by a foreign transaction is given up at the third look, not before."""
    monkeypatch.setattr(watches, "OBSERVATION_SECONDS", 0.0)
    async with chain_side(node, strategy, watching=False) as side:
        saga = await side.intend(new_saga(MODEL), Step.DEPLOY)
        assert saga.deploy is not None
        node.transact(DEV_ACCOUNT, STRANGER)
        settled = side.watcher.expect(saga.deploy, sent=False)
        for _ in range(2):
            await side.watcher.poll()
            assert not settled.done()
        await side.watcher.poll()
        assert settled.result() == NonceTaken(saga.deploy.nonce)


async def test_looks_in_a_row_are_one(node: Node) -> None:
    """Looks at the same head within a second are one look: a node may tell of a nonce before it
    tells of the receipt."""
    async with chain_side(node, watching=False) as side:
        saga = await side.intend(new_saga(MODEL), Step.DEPLOY)
        assert saga.deploy is not None
        node.transact(DEV_ACCOUNT, STRANGER)
        settled = side.watcher.expect(saga.deploy, sent=False)
        for _ in range(2 * watches.NONCE_TAKEN_OBSERVATIONS):
            await side.watcher.poll()
        assert not settled.done()
        for _ in range(watches.NONCE_TAKEN_OBSERVATIONS):
            node.mine()
            await side.watcher.poll()
        assert settled.result() == NonceTaken(saga.deploy.nonce)


async def test_nonce_taken_is_watched(node: Node) -> None:
    """Sending bytes whose nonce is spent is no error: watching them tells."""
    async with chain_side(node) as side:
        saga = await side.intend(new_saga(MODEL), Step.DEPLOY)
        assert saga.deploy is not None
        node.transact(DEV_ACCOUNT, STRANGER)
        assert await side.chain.send(saga, Step.DEPLOY) == Sent()
        assert await side.settle(saga, Step.DEPLOY) == NonceTaken(saga.deploy.nonce)
    assert node.tokens() == set()


async def test_error_is_no_absence(node: Node) -> None:
    """A node that cannot tell about receipts never makes a mined transaction a lost nonce."""
    node.hold_blocks()
    async with (
        open_proxy(node.url) as proxy,
        chain_side(node, url=proxy.url, watching=False) as side,
    ):
        saga = await side.broadcast(new_saga(MODEL), Step.DEPLOY)
        assert saga.deploy is not None
        node.mine()
        settled = side.watcher.expect(saga.deploy, sent=False)
        method = "eth_getTransactionReceipt"
        error = faults.rpc_error(method, -32000, "transaction indexing is in progress")
        proxy.always(method, error)
        for _ in range(2 * watches.NONCE_TAKEN_OBSERVATIONS):
            await side.watcher.poll()
        assert not settled.done()
        async with chain_side(node, url=proxy.url, watching=False) as restarted:
            with pytest.raises(ChainUnavailableError, match="an error instead of an answer"):
                await restarted.chain.ask(saga.deploy)
        proxy.heal()
        await side.watcher.poll()
        assert isinstance(settled.result(), Mined)


async def test_ask(node: Node, strategy: StrategyName) -> None:
    """One question tells: nothing sent, on its way by this process, or, after a crash, mined."""
    node.hold_blocks()
    async with chain_side(node, strategy) as side:
        saga = await side.intend(new_saga(MODEL), Step.DEPLOY)
        assert saga.deploy is not None
        assert await side.chain.ask(saga.deploy) == Unmined()
        await side.chain.send(saga, Step.DEPLOY)
        assert await side.chain.ask(saga.deploy) == Sent()
    async with chain_side(node, strategy) as restarted:
        assert await restarted.chain.ask(saga.deploy) == Unmined()
    node.mine()
    async with chain_side(node, strategy) as restarted:
        fact = await restarted.chain.ask(saga.deploy)
    assert isinstance(fact, Mined)
    assert fact.receipt.tx_hash == stored_hash(saga)


async def test_watch_after_the_fact(node: Node, strategy: StrategyName) -> None:
    """What was mined while nobody watched is found by the first poll, however long ago."""
    async with chain_side(node, strategy) as side:
        saga = await side.broadcast(new_saga(MODEL), Step.DEPLOY)
    node.mine(heads.CATCH_UP_BLOCKS + 1)
    async with chain_side(node, strategy) as restarted:
        assert isinstance(await restarted.settle(saga, Step.DEPLOY), Mined)


@pytest.mark.parametrize("blocks", [1, 2, 5, heads.CATCH_UP_BLOCKS + 2])
async def test_blocks_between_polls(node: Node, blocks: int) -> None:
    """A transaction is seen at the next poll, in whichever of the blocks since it was mined."""
    node.hold_blocks()
    async with chain_side(node, watching=False) as side:
        saga = await side.broadcast(new_saga(MODEL), Step.DEPLOY)
        assert saga.deploy is not None
        node.mine(blocks)
        settled = side.watcher.expect(saga.deploy, sent=True)
        await side.watcher.poll()
        assert isinstance(settled.result(), Mined)


async def test_receipts_are_for_hits(node: Node) -> None:
    """While no block holds a transaction, polls ask for blocks alone, not for its receipt."""
    async with (
        open_proxy(node.url) as proxy,
        chain_side(node, url=proxy.url, watching=False) as side,
    ):
        saga = await side.intend(new_saga(MODEL), Step.DEPLOY)
        assert saga.deploy is not None
        side.watcher.expect(saga.deploy, sent=True)
        for blocks in (0, 1, 3):
            node.mine(blocks)
            await side.watcher.poll()
    assert "eth_getTransactionReceipt" not in proxy.received


async def test_time_is_up(node: Node) -> None:
    """A transaction that blocks went by without taking in time has timed out."""
    node.hold_blocks()
    async with chain_side(node) as side:
        saga = await side.broadcast(new_saga(MODEL), Step.DEPLOY)
        assert saga.deploy is not None
        watching = asyncio.create_task(side.chain.watch(saga.deploy, 1.0))
        await asyncio.sleep(0)
        node.request("evm_setBlockGasLimit", hex(100_000))
        node.mine()
        node.request("evm_setBlockGasLimit", hex(30_000_000))
        assert await watching == TimedOut(1.0)
    assert in_pool(node) == 1


async def test_time_is_up_without_a_block(node: Node) -> None:
    """When no block has come, the time that is up is not the transaction's fault."""
    node.hold_blocks()
    async with chain_side(node) as side:
        saga = await side.broadcast(new_saga(MODEL), Step.DEPLOY)
        assert saga.deploy is not None
        with pytest.raises(ChainUnavailableError, match="no block for"):
            await side.chain.watch(saga.deploy, 0.5)


async def test_time_is_up_behind_another(node: Node) -> None:
    """When another nonce is in front, the time that is up is not the transaction's fault."""
    node.hold_blocks()
    async with chain_side(node) as side:
        saga = await side.intend(new_saga(MODEL), Step.DEPLOY)
        saga = await renumbered(side, saga, node.nonce() + 1)
        await side.chain.send(saga, Step.DEPLOY)
        assert saga.deploy is not None
        watching = asyncio.create_task(side.chain.watch(saga.deploy, 1.0))
        await asyncio.sleep(0)
        node.mine()
        with pytest.raises(HeldError, match=f"nonce {node.nonce()} is in front"):
            await watching


@pytest.mark.parametrize(
    "odd",
    [{}, {"number": None}, {"number": "0x1", "hash": 7}, [], "0x", 5],
)
async def test_odd_blocks(node: Node, odd: object) -> None:
    """A block that is none does not end the watcher, and is not taken for a head."""
    node.hold_blocks()
    async with open_proxy(node.url) as proxy, chain_side(node, url=proxy.url) as side:
        saga = await side.broadcast(new_saga(MODEL), Step.DEPLOY)
        asked = faults.each_call(
            lambda call: {"result": odd} if call["method"] == "eth_getBlockByNumber" else None
        )
        proxy.always("eth_getBlockByNumber", asked)
        with pytest.raises(ChainUnavailableError):
            await side.watcher.poll()
        proxy.heal()
        node.mine()
        assert isinstance(await side.settle(saga, Step.DEPLOY), Mined)


async def test_odd_receipts(node: Node) -> None:
    """A receipt without a block settles nothing."""
    async with open_proxy(node.url) as proxy, chain_side(node, watching=False) as side:
        saga = await side.broadcast(new_saga(MODEL), Step.DEPLOY)
        assert saga.deploy is not None
        odd = {"result": {"transactionHash": stored_hash(saga), "blockNumber": None}}
        async with chain_side(node, url=proxy.url, watching=False) as other:
            method = "eth_getTransactionReceipt"
            proxy.always(
                method, faults.each_call(lambda call: odd if call["method"] == method else None)
            )
            with pytest.raises(ChainUnavailableError, match="cannot be read"):
                await other.chain.ask(saga.deploy)


async def test_time_is_up_without_a_node(node: Node) -> None:
    """When no node has answered, the time that is up is not the transaction's fault."""
    node.hold_blocks()
    async with open_proxy(node.url) as proxy, chain_side(node, url=proxy.url) as side:
        saga = await side.broadcast(new_saga(MODEL), Step.DEPLOY)
        assert saga.deploy is not None
        proxy.always("eth_getBlockByNumber", faults.lost_request)
        with pytest.raises(ChainUnavailableError, match="has not answered for"):
            await side.chain.watch(saga.deploy, 0.2)


async def test_counting_again(node: Node) -> None:
    """Whoever waits for room in the lane is told of what others have spent, without a new block."""
    async with chain_side(node) as busy, chain_side(node, watching=False) as idle:
        await idle.watcher.poll()
        before = idle.lane.spent_nonces
        deployed = await busy.carry_out(new_saga(MODEL), Step.DEPLOY)
        await idle.watcher.poll()  # the head is seen, and nobody waits: nothing is counted
        assert idle.lane.spent_nonces == before
        waiting = asyncio.create_task(idle.chain.next_block())
        await asyncio.sleep(0)
        await idle.watcher.poll()
        await waiting
        assert deployed.deploy is not None
        assert idle.lane.spent_nonces == deployed.deploy.nonce + 1


async def test_watches_come_and_go_meanwhile(node: Node) -> None:
    """Sagas that begin and end while the watcher asks the store do not disturb it."""
    others: list[Saga] = []

    async def attempts_of(intent: Intent) -> Sequence[Attempt]:
        for other in others:
            assert other.deploy is not None
            side.watcher.expect(other.deploy, sent=True)
        return intent.attempts

    node.hold_blocks()
    async with chain_side(node, watching=False, attempts_of=attempts_of) as side:
        saga = await side.intend(new_saga(MODEL), Step.DEPLOY)
        others += [await side.intend(new_saga(f"other-{n}"), Step.DEPLOY) for n in range(3)]
        assert saga.deploy is not None
        settled = side.watcher.expect(saga.deploy, sent=True)
        node.request("eth_sendTransaction", {"from": DEV_ACCOUNT, "to": STRANGER})
        for _ in range(2 * watches.NONCE_TAKEN_OBSERVATIONS):
            node.mine()
            await side.watcher.poll()
        assert settled.result() == NonceTaken(saga.deploy.nonce)


async def test_released(node: Node) -> None:
    """A saga that waits no longer leaves nothing to watch; a later run of it keeps its own."""
    node.hold_blocks()
    async with chain_side(node, watching=False) as side:
        saga = await side.pair(new_saga(MODEL))
        later = msgspec.structs.replace(saga, lease=Lease(owner="test.2", fence=2))
        await side.chain.send(saga, Step.DEPLOY)
        await side.chain.send(later, Step.DEPLOY)
        side.chain.release(saga)
        assert side.watcher.busy
        assert later.deploy is not None
        node.mine()
        await side.watcher.poll()
        assert isinstance(await side.chain.ask(later.deploy), Mined)
        side.chain.release(later)
        assert not side.watcher.busy


async def test_nothing_watched_that_was_not_sent(node: Node) -> None:
    """What could not be given to any node is not taken for sent."""
    async with open_proxy(node.url) as proxy, chain_side(node, url=proxy.url) as side:
        saga = await side.intend(new_saga(MODEL), Step.DEPLOY)
        await side.rpc.check_chain()
        proxy.always(
            "eth_chainId",
            faults.each_call(
                lambda call: {"result": "0x5"} if call["method"] == "eth_chainId" else None
            ),
        )
        with pytest.raises(ChainUnavailableError):
            await side.rpc.check_chain()
        with pytest.raises(ChainUnavailableError, match="on chain 5"):
            await side.chain.send(saga, Step.DEPLOY)
        assert not side.watcher.busy


# --- Depth and reorganisations.


async def test_adopted_once_finalized(node: Node, strategy: StrategyName) -> None:
    """With CONFIRMATIONS=finalized, a token is found again by a replica that watches nothing."""
    async with chain_side(node, strategy) as side:
        deployed = await side.carry_out(new_saga(MODEL), Step.DEPLOY)
    async with chain_side(node, strategy, confirmations=None, watching=False) as restarted:
        with pytest.raises(ChainUnavailableError, match="waits for its confirmations"):
            await restarted.chain.look_up(new_saga(MODEL), Step.DEPLOY, content_of(deployed))
        node.mine(2 * 32)  # anvil finalizes two epochs behind its head
        found = await restarted.chain.look_up(new_saga(MODEL), Step.DEPLOY, content_of(deployed))
    assert isinstance(found, TokenExists)


async def test_confirmations(node: Node, strategy: StrategyName) -> None:
    """Mined is said at the asked depth, the transaction's own block included, and not before."""
    node.hold_blocks()
    async with chain_side(node, strategy, confirmations=3, watching=False) as side:
        saga = await side.broadcast(new_saga(MODEL), Step.DEPLOY)
        assert saga.deploy is not None
        settled = side.watcher.expect(saga.deploy, sent=False)
        for _ in range(2):
            node.mine()
            await side.watcher.poll()
            assert not settled.done()
            assert await side.chain.ask(saga.deploy) == Sent()
        node.mine()
        await side.watcher.poll()
        assert isinstance(settled.result(), Mined)
        assert isinstance(await side.chain.ask(saga.deploy), Mined)


async def test_adoption_waits_for_confirmations(node: Node, strategy: StrategyName) -> None:
    """A token that is not deep enough is neither adopted nor made again: the saga holds."""
    node.hold_blocks()
    async with chain_side(node, strategy, confirmations=2, watching=False) as side:
        saga = await side.broadcast(new_saga(MODEL), Step.DEPLOY)
        node.mine()
        await side.watcher.poll()
        with pytest.raises(ChainUnavailableError, match="waits for its confirmations"):
            await side.chain.look_up(saga, Step.DEPLOY, content_of(saga))
        node.mine()
        await side.watcher.poll()
        found = await side.chain.look_up(saga, Step.DEPLOY, content_of(saga))
    assert isinstance(found, TokenExists)


@pytest.mark.parametrize("blocks_after", [0, 1])
async def test_reorg(node: Node, strategy: StrategyName, blocks_after: int) -> None:
    """A transaction that a reorganisation threw out is sent again, the same bytes, and mined."""
    node.hold_blocks()
    async with chain_side(node, strategy, confirmations=3, watching=False) as side:
        saga = await side.broadcast(new_saga(MODEL), Step.DEPLOY)
        assert saga.deploy is not None
        node.mine()
        settled = side.watcher.expect(saga.deploy, sent=False)
        await side.watcher.poll()
        node.request("anvil_reorg", 1, [])
        node.mine(blocks_after)
        assert node.tokens() == set()
        await side.watcher.poll()
        assert not settled.done()
        assert in_pool(node) == 1
        node.mine(3)
        await side.watcher.poll()
        fact = settled.result()
    assert isinstance(fact, Mined)
    assert fact.receipt.tx_hash == stored_hash(saga)
    now = node.request("eth_getTransactionReceipt", stored_hash(saga))
    assert fact.receipt.block_hash == now["blockHash"]


# --- What the chain holds against us.


async def test_another_token_is_registered(node: Node, strategy: StrategyName) -> None:
    """A model whose registry entry is another token is a conflict, in both steps."""
    async with chain_side(node, strategy) as side:
        ours = await side.carry_out(new_saga(MODEL), Step.DEPLOY)
        other = await side.carry_out(new_saga("other"), Step.DEPLOY)
        assert other.deployment is not None
        register_as_operator(node, MODEL, other.deployment.token)
        for step in Step:
            found = await side.chain.look_up(ours, step, content_of(ours))
            assert isinstance(found, RegistryConflict)
            assert other.deployment.token in found.reason


async def test_token_is_registered_for_another_model(node: Node, strategy: StrategyName) -> None:
    """A token that stands for another model in the registry is a conflict that names it."""
    async with chain_side(node, strategy) as side:
        ours = await side.carry_out(new_saga(MODEL), Step.DEPLOY)
        assert ours.deployment is not None
        register_as_operator(node, "squatter", ours.deployment.token)
        found = await side.chain.look_up(ours, Step.REGISTER, content_of(ours))
    assert isinstance(found, RegistryConflict)
    assert "squatter" in found.reason


async def test_registrar_role(node: Node, strategy: StrategyName) -> None:
    """Without REGISTRAR_ROLE the call is refused before anything is signed, naming the error."""
    async with chain_side(node, strategy) as side:
        deployed = await side.carry_out(new_saga(MODEL), Step.DEPLOY)
    async with chain_side(node, strategy, key=STRANGER_KEY) as side:
        found = await side.chain.look_up(deployed, Step.REGISTER, content_of(deployed))
    assert isinstance(found, Refused)
    assert "AccessControlUnauthorizedAccount" in found.reason
    assert STRANGER.lower() in found.reason.lower()


async def test_no_funds(node: Node, strategy: StrategyName) -> None:
    """Without funds the saga holds, the address is named, and the same bytes go once there are."""
    async with chain_side(node, strategy) as side:
        saga = await side.intend(new_saga(MODEL), Step.DEPLOY)
        balance = node.request("eth_getBalance", DEV_ACCOUNT, "latest")
        node.request("anvil_setBalance", DEV_ACCOUNT, "0x0")
        with pytest.raises(ChainUnavailableError, match=DEV_ACCOUNT):
            await side.chain.send(saga, Step.DEPLOY)
        node.request("anvil_setBalance", DEV_ACCOUNT, balance)
        await side.chain.send(saga, Step.DEPLOY)
        assert isinstance(await side.settle(saga, Step.DEPLOY), Mined)


@pytest.mark.parametrize("tampered", ["", "0x", "0xnot hex", "0x02f8", "another's"])
async def test_tampered_bytes(node: Node, tampered: str) -> None:
    """Bytes that are not the stored hash's are never sent."""
    async with open_proxy(node.url) as proxy, chain_side(node, url=proxy.url) as side:
        saga = await side.intend(new_saga(MODEL), Step.DEPLOY)
        other = await side.intend(new_saga("other"), Step.DEPLOY)
        assert saga.deploy is not None
        assert other.deploy is not None
        raw = other.deploy.attempts[0].raw if tampered == "another's" else tampered
        attempt = msgspec.structs.replace(saga.deploy.attempts[0], raw=raw)
        saga = with_intent(saga, msgspec.structs.replace(saga.deploy, attempts=(attempt,)))
        with pytest.raises(TamperedError, match=attempt.hash):
            await side.chain.send(saga, Step.DEPLOY)
        assert "eth_sendRawTransaction" not in proxy.received


async def test_bytes_that_no_node_takes(node: Node) -> None:
    """Bytes for another chain are refused for good, with the node's reason."""
    async with chain_side(node) as side:
        saga = await side.intend(new_saga(MODEL), Step.DEPLOY)
        found = await side.chain.look_up(saga, Step.DEPLOY, content_of(saga))
        assert isinstance(found, Absent)
        attempt = await side.signer.sign(found.call, node.nonce(), 5)
        assert saga.deploy is not None
        saga = with_intent(saga, msgspec.structs.replace(saga.deploy, attempts=(attempt,)))
        fact = await side.chain.send(saga, Step.DEPLOY)
    assert isinstance(fact, Refused)
    assert "invalid chain id" in fact.reason


# --- A bad line to the node.


async def test_lost_reply(node: Node, strategy: StrategyName) -> None:
    """A broadcast whose reply is lost is repeated with the same bytes, and makes one token."""
    before = node.nonce()
    async with open_proxy(node.url) as proxy, chain_side(node, strategy, url=proxy.url) as side:
        saga = await side.intend(new_saga(MODEL), Step.DEPLOY)
        proxy.once("eth_sendRawTransaction", faults.lost_reply)
        assert await side.chain.send(saga, Step.DEPLOY) == Sent()
        assert proxy.received.count("eth_sendRawTransaction") == 2
        assert isinstance(await side.settle(saga, Step.DEPLOY), Mined)
    assert len(node.tokens()) == 1
    assert node.nonce() == before + 1


async def test_lost_broadcast(node: Node, strategy: StrategyName) -> None:
    """A broadcast that never reached the node is repeated, and counts as sent when none does."""
    async with open_proxy(node.url) as proxy, chain_side(node, strategy, url=proxy.url) as side:
        saga = await side.intend(new_saga(MODEL), Step.DEPLOY)
        proxy.always("eth_sendRawTransaction", faults.lost_request)
        assert await side.chain.send(saga, Step.DEPLOY) == Sent()
        assert in_pool(node) == 0
        proxy.heal()
        proxy.once("eth_sendRawTransaction", faults.lost_request)
        assert await side.chain.send(saga, Step.DEPLOY) == Sent()
        assert isinstance(await side.settle(saga, Step.DEPLOY), Mined)
    assert len(node.tokens()) == 1


ASKED = ["eth_call", "eth_estimateGas", "eth_feeHistory"]
ASKED_OF_HISTORY = [
    "eth_call", "eth_blockNumber", "eth_getLogs", "eth_getTransactionReceipt",
    "eth_getTransactionByHash",
]  # fmt: skip


@pytest.mark.parametrize("method", ASKED)
async def test_node_errors_before_a_deployment(node: Node, method: str) -> None:
    """A node's own error to any question is nobody's fault: the saga is held."""
    async with open_proxy(node.url) as proxy, chain_side(node, url=proxy.url) as side:
        proxy.always(method, faults.rpc_error(method, -32603, "internal error"))
        saga = new_saga(MODEL)
        with pytest.raises(ChainUnavailableError, match=f"{method}.*internal error"):
            await side.chain.look_up(saga, Step.DEPLOY, content_of(saga))


@pytest.mark.parametrize("method", ASKED_OF_HISTORY)
async def test_node_errors_before_an_adoption(node: Node, method: str) -> None:
    """Nor does a node's own error while a token is looked up in the logs end anything."""
    async with open_proxy(node.url) as proxy, chain_side(node, "create2", url=proxy.url) as side:
        saga = await side.carry_out(new_saga(MODEL), Step.DEPLOY)
        later = new_saga(MODEL, token_symbol="OTHER")
        proxy.always(method, faults.rpc_error(method, -32603, "internal error"))
        with pytest.raises(ChainUnavailableError, match="internal error"):
            await side.chain.look_up(saga, Step.DEPLOY, content_of(later))


async def test_node_without_state(node: Node, strategy: StrategyName) -> None:
    """A node that lacks the state answers calls with nothing: an error that may pass."""
    empty = faults.each_call(
        lambda call: {"result": "0x"} if call["method"] == "eth_call" else None
    )
    async with open_proxy(node.url) as proxy, chain_side(node, strategy, url=proxy.url) as side:
        proxy.always("eth_call", empty)
        saga = new_saga(MODEL)
        with pytest.raises(ChainError, match="getToken"):
            await side.chain.look_up(saga, Step.DEPLOY, content_of(saga))


@pytest.mark.parametrize(
    "fault",
    [
        faults.answer(b"<html>bad gateway</html>", status=502, content_type="text/html"),
        faults.answer(b"slow down", status=429),
        faults.rpc_error("eth_getBlockByNumber", -32000, "node is syncing"),
        faults.each_call(lambda _: {"result": None}),
        faults.half_body,
        faults.lost_request,
        faults.another_id,
    ],
)
async def test_watcher_survives(node: Node, fault: faults.Fault) -> None:
    """No answer of a node ends the watcher: it goes on when the node is well again."""
    node.hold_blocks()
    async with open_proxy(node.url) as proxy, chain_side(node, url=proxy.url) as side:
        saga = await side.broadcast(new_saga(MODEL), Step.DEPLOY)
        proxy.always("eth_getBlockByNumber", fault)
        assert saga.deploy is not None
        with pytest.raises(ChainUnavailableError):
            await side.watcher.poll()
        node.mine()
        proxy.heal()
        assert isinstance(await side.settle(saga, Step.DEPLOY), Mined)


async def test_logs_are_asked_for_in_halves(node: Node) -> None:
    """A node that searches few blocks at once is asked for less, until every log is there."""
    async with open_proxy(node.url) as proxy, chain_side(node, url=proxy.url) as side:
        await side.carry_out(new_saga("one"), Step.DEPLOY)
        node.mine(40)
        await side.carry_out(new_saga("two"), Step.DEPLOY)
        everything = await side.history.logs({})
        proxy.always("eth_getLogs", faults.range_limit(5))
        found = await side.history.logs({})
    assert found == everything
    assert len(found) > 2


async def test_logs_of_one_block_cannot_be_halved(node: Node) -> None:
    """A limit that even one block exceeds is an error, not an endless search."""
    async with open_proxy(node.url) as proxy, chain_side(node, url=proxy.url) as side:
        node.mine(3)
        proxy.always("eth_getLogs", faults.range_limit(0))
        with pytest.raises(ChainError, match="at most 0 blocks"):
            await side.history.logs({})


async def test_token_is_found_in_halves(node: Node, strategy: StrategyName) -> None:
    """A range limit hides no token, whatever the message says by now."""
    async with open_proxy(node.url) as proxy, chain_side(node, strategy, url=proxy.url) as side:
        await side.carry_out(new_saga(MODEL), Step.DEPLOY)
        node.mine(30)
        await side.watcher.poll()
        proxy.always("eth_getLogs", faults.range_limit(4))
        later = new_saga(MODEL, token_symbol="OTHER")
        found = await side.chain.look_up(later, Step.DEPLOY, content_of(later))
    assert isinstance(found, TokenExists)


async def test_closed_node(node: Node) -> None:
    """A port where nobody listens is a hold, not a failure."""
    rpc = RpcClient("http://127.0.0.1:1")
    try:
        with pytest.raises(ChainUnavailableError):
            await rpc.call("eth_chainId")
    finally:
        await rpc.close()
