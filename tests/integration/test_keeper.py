"""Laws of the lane's keeper, on a real Valkey and real nodes."""

import asyncio
from collections.abc import Iterator

import pytest

from adapters import watches
from adapters.embedded import DEV_ACCOUNT, EmbeddedAnvil, EmbeddedHardhat, EmbeddedValkey
from adapters.keeper import FAILED_ROUNDS
from adapters.redis_lane import Standing
from saga.errors import HeldError
from saga.facts import Mined, NonceTaken
from saga.fees import Limits
from saga.lane import HOLE_OBSERVATIONS
from saga.model import Attempt, AttemptKind, Saga, Step
from tests.support.chain import STRANGER, Node
from tests.support.lane import AT_ONCE, NO_BUMPS, SLOW, LaneSide, lane_side
from tests.support.proxy import EVERY, answer, lost_request, open_proxy, rpc_error


@pytest.fixture(scope="module", params=["anvil", "hardhat"])
def any_node(request: pytest.FixtureRequest) -> Iterator[Node]:
    """Each node that the laws must hold on: Hardhat enforces the rule for replacements."""
    with EmbeddedAnvil() if request.param == "anvil" else EmbeddedHardhat() as child:
        yield Node(child.url)


@pytest.fixture(autouse=True)
def _blocks_held(request: pytest.FixtureRequest) -> Iterator[None]:
    """No block but by `mine`, and afterwards nothing in the pool."""
    name = "any_node" if "any_node" in request.fixturenames else "node"
    node: Node = request.getfixturevalue(name)
    node.hold_blocks()
    yield
    dear(node, 1)
    for _ in range(8):
        node.mine()
    assert node.nonce() == node.nonce(block="pending")
    node.request("evm_setAutomine", True)


def dear(node: Node, base_fee: int) -> None:
    """The base fee of the next block, wei per gas."""
    method = "hardhat_setNextBlockBaseFeePerGas"
    node.request(method, hex(base_fee))


def first(saga: Saga) -> Attempt:
    assert saga.deploy is not None
    return saga.deploy.attempts[0]


async def mined(lane: LaneSide, saga: Saga) -> object:
    """What the watcher says of the saga's deployment after a block."""
    assert saga.deploy is not None
    settled = lane.side.watcher.expect(saga.deploy, sent=False)
    for _ in range(6):
        lane.node.mine()
        await lane.side.watcher.poll()
        if settled.done():
            break
    return settled.result()


# --- What nodes forgot.


async def test_unsent_bytes_are_sent(any_node: Node, valkey: EmbeddedValkey) -> None:
    """Bytes that were stored and never sent are sent by the keeper, the same ones."""
    async with lane_side(any_node, valkey.url) as lane:
        saga = await lane.intended("unsent")
        assert lane.in_pool == 0
        await lane.keeper().round()
        assert lane.in_pool == 1
        fact = await mined(lane, saga)
    assert isinstance(fact, Mined)
    assert fact.receipt.tx_hash == first(saga).hash


async def test_forgotten_bytes_are_sent_again(node: Node, valkey: EmbeddedValkey) -> None:
    """What a node dropped from its pool is given to it again, the same bytes."""
    async with lane_side(node, valkey.url) as lane:
        saga = await lane.intended("forgotten")
        await lane.side.chain.send(saga, Step.DEPLOY)
        node.request("anvil_dropTransaction", first(saga).hash)
        assert lane.in_pool == 0
        await lane.keeper().round()
        assert lane.in_pool == 1
        assert isinstance(await mined(lane, saga), Mined)


async def test_what_is_known_is_left_alone(node: Node, valkey: EmbeddedValkey) -> None:
    """What the node has is asked for, and never sent again."""
    async with open_proxy(node.url) as proxy, lane_side(node, valkey.url, url=proxy.url) as lane:
        saga = await lane.intended("known")
        await lane.side.chain.send(saga, Step.DEPLOY)
        sent = proxy.received.count("eth_sendRawTransaction")
        keeper = lane.keeper()
        for _ in range(3):
            await keeper.round()
        assert proxy.received.count("eth_sendRawTransaction") == sent
        assert "eth_getTransactionByHash" in proxy.received


async def test_young_bytes_are_not_asked_for(node: Node, valkey: EmbeddedValkey) -> None:
    """What was sent a moment ago costs no question."""
    async with open_proxy(node.url) as proxy, lane_side(node, valkey.url, url=proxy.url) as lane:
        saga = await lane.intended("young")
        await lane.side.chain.send(saga, Step.DEPLOY)
        await lane.keeper(pace=SLOW).round()
        assert "eth_getTransactionByHash" not in proxy.received


# --- What is stuck.


async def test_priced_out_is_replaced(any_node: Node, valkey: EmbeddedValkey) -> None:
    """Bytes below the base fee are replaced on the same nonce; both hashes are watched."""
    async with lane_side(any_node, valkey.url) as lane:
        saga = await lane.intended("dear")
        await lane.side.chain.send(saga, Step.DEPLOY)
        keeper = lane.keeper(pace=AT_ONCE)
        await keeper.round()
        dear(any_node, 3 * first(saga).max_fee)
        any_node.mine()
        await keeper.round()
        out = await lane.out(saga)
        assert len(out.attempts) == 2
        assert out.attempts[0] == first(saga)
        old, new = out.attempts
        assert 8 * new.max_fee >= 9 * old.max_fee
        assert 8 * new.max_priority_fee >= 9 * old.max_priority_fee
        fact = await mined_with(lane, saga)
    assert isinstance(fact, Mined)
    assert fact.receipt.tx_hash == new.hash


async def mined_with(lane: LaneSide, saga: Saga) -> object:
    """As `mined`, by a replica that knows the attempts from the store alone."""
    lane.side.watcher._attempts_of = lane.lane.attempts_of
    return await mined(lane, saga)


@pytest.mark.parametrize("message", ["transaction underpriced", "insufficient funds for gas"])
async def test_a_dead_endpoint_hides_no_refusal(
    node: Node, valkey: EmbeddedValkey, message: str
) -> None:
    """What the node that answers refuses is raised, or held, though another does not answer."""
    async with (
        open_proxy(node.url) as proxy,
        lane_side(node, valkey.url, url=[proxy.url, "http://127.0.0.1:1"]) as lane,
    ):
        saga = await lane.intended(f"unheard-{message[:5]}")
        method = "eth_sendRawTransaction"
        proxy.always(method, rpc_error(method, -32000, message))
        keeper = lane.keeper(pace=AT_ONCE)
        for _ in range(3):
            node.mine()
            await keeper.round()
        if "funds" in message:
            assert message in keeper.hold
            assert len((await lane.out(saga)).attempts) == 1
        else:
            assert len((await lane.out(saga)).attempts) > 1
        proxy.heal()
        await keeper.round()
        assert isinstance(await mined_with(lane, saga), Mined)


async def test_a_price_that_is_taken_after_all(node: Node, valkey: EmbeddedValkey) -> None:
    """Bytes that were refused for their price once, and then taken, are not refused any more."""
    async with open_proxy(node.url) as proxy, lane_side(node, valkey.url, url=proxy.url) as lane:
        saga = await lane.intended("taken-after-all")
        method = "eth_sendRawTransaction"
        keeper = lane.keeper(pace=AT_ONCE, limits=Limits(max_fee=first(saga).max_fee))
        proxy.once(method, rpc_error(method, -32000, "transaction underpriced"))
        await keeper.round()
        await keeper.round()
        assert lane.in_pool == 1
        node.request("evm_setBlockGasLimit", hex(100_000))
        node.mine(2)
        node.request("evm_setBlockGasLimit", hex(30_000_000))
        await keeper.round()
        await keeper.round()
        assert keeper.hold == ""


async def test_a_lost_replacement_is_sent(any_node: Node, valkey: EmbeddedValkey) -> None:
    """A replacement that was stored and never arrived is sent again, though the node has the
    attempt before it."""
    async with (
        open_proxy(any_node.url) as proxy,
        lane_side(any_node, valkey.url, url=proxy.url) as lane,
    ):
        saga = await lane.intended("half-sent")
        await lane.side.chain.send(saga, Step.DEPLOY)
        keeper = lane.keeper(pace=AT_ONCE)
        await keeper.round()
        proxy.always("eth_sendRawTransaction", answer(b"busy", status=503))
        dear(any_node, 3 * first(saga).max_fee)
        any_node.mine()
        await keeper.round()
        assert len((await lane.out(saga)).attempts) == 2
        proxy.heal()
        await lane.keeper("keeper", pace=NO_BUMPS).round()
        fact = await mined_with(lane, saga)
    assert isinstance(fact, Mined)
    assert fact.receipt.tx_hash != first(saga).hash


async def test_only_the_lowest_is_raised_blindly(node: Node, valkey: EmbeddedValkey) -> None:
    """When blocks go by for no reason that the market knows, the nonce that the chain waits for is
    raised, and none behind it."""
    async with lane_side(node, valkey.url) as lane:
        sagas = [await lane.intended(f"behind-{number}") for number in range(2)]
        keeper = lane.keeper(pace=AT_ONCE)
        await keeper.round()
        node.request("evm_setBlockGasLimit", hex(100_000))
        node.mine()
        node.request("evm_setBlockGasLimit", hex(30_000_000))
        await keeper.round()
        counts = [len((await lane.out(saga)).attempts) for saga in sagas]
    assert counts == [2, 1]


async def test_above_the_limit_it_holds(any_node: Node, valkey: EmbeddedValkey) -> None:
    """Above MAX_FEE_GWEI nothing is replaced, the hold is told to all, and ends by itself."""
    async with lane_side(any_node, valkey.url) as lane:
        saga = await lane.intended("held")
        await lane.side.chain.send(saga, Step.DEPLOY)
        top = first(saga).max_fee
        keeper = lane.keeper(pace=AT_ONCE, limits=Limits(max_fee=top + top // 100))
        await keeper.round()
        dear(any_node, 40 * top)
        any_node.mine()
        await keeper.round()
        await keeper.round()
        assert len((await lane.out(saga)).attempts) == 1
        standing = await lane.lane.standing()
        assert "MAX_FEE_GWEI" in standing.hold
        assert lane.side.lane.kept == standing.hold
        assert saga.deploy is not None
        watching = asyncio.create_task(lane.side.watcher.run())
        with pytest.raises(HeldError, match="MAX_FEE_GWEI"):
            await lane.side.chain.watch(saga.deploy, 1.0)
        watching.cancel()
        dear(any_node, 1)
        await keeper.round()
        assert isinstance(await mined(lane, saga), Mined)
        await keeper.round()
        await keeper.round()
        assert (await lane.lane.standing()).hold == ""


async def test_a_held_lane_sends_again(any_node: Node, valkey: EmbeddedValkey) -> None:
    """While a lane holds, what a node forgot is given to it all the same."""
    async with (
        open_proxy(any_node.url) as proxy,
        lane_side(any_node, valkey.url, url=proxy.url) as lane,
    ):
        saga = await lane.intended("held-and-forgotten")
        await lane.side.chain.send(saga, Step.DEPLOY)
        keeper = lane.keeper(pace=AT_ONCE, limits=Limits(max_fee=first(saga).max_fee))
        await keeper.round()
        dear(any_node, 2 * first(saga).max_fee)
        any_node.mine()
        any_node.request("hardhat_dropTransaction", first(saga).hash)
        sent = proxy.received.count("eth_sendRawTransaction")
        await keeper.round()
        assert "MAX_FEE_GWEI" in keeper.hold
        assert proxy.received.count("eth_sendRawTransaction") == sent + 1
        dear(any_node, 1)
        await keeper.round()
        assert isinstance(await mined(lane, saga), Mined)


# --- Holes.


async def test_a_hole_is_filled(any_node: Node, valkey: EmbeddedValkey) -> None:
    """A nonce that nobody's bytes will spend is spent by a self-send after three looks; what is
    behind it goes on."""
    async with lane_side(any_node, valkey.url) as lane:
        hole = any_node.nonce()
        await lane.lane.raise_to(hole + 1)
        saga = await lane.intended("behind-a-hole")
        assert saga.deploy is not None
        assert saga.deploy.nonce == hole + 1
        keeper = lane.keeper()
        for _ in range(HOLE_OBSERVATIONS - 1):
            await keeper.round()
        (seen,) = await lane.lane.read([hole])
        assert not seen.attempts
        await keeper.round()
        (seen,) = await lane.lane.read([hole])
        assert [attempt.kind for attempt in seen.attempts] == [AttemptKind.FILL]
        assert isinstance(await mined(lane, saga), Mined)
    filled = any_node.request("eth_getTransactionByHash", seen.attempts[0].hash)
    assert (filled["to"].lower(), int(filled["value"], 16)) == (DEV_ACCOUNT.lower(), 0)


async def test_no_hole_where_a_node_has_something(node: Node, valkey: EmbeddedValkey) -> None:
    """A nonce that is spoken for in the pool is no hole, known to us or not."""
    async with lane_side(node, valkey.url) as lane:
        hole = node.nonce()
        node.request("eth_sendTransaction", {"from": DEV_ACCOUNT, "to": STRANGER})
        await lane.lane.raise_to(hole + 1)
        keeper = lane.keeper()
        for _ in range(HOLE_OBSERVATIONS + 1):
            await keeper.round()
        (seen,) = await lane.lane.read([hole])
    assert not seen.attempts


async def test_refused_bytes_of_the_dead_are_filled(any_node: Node, valkey: EmbeddedValkey) -> None:
    """Bytes that no node takes, of a saga that is dead-lettered, give way to a self-send."""
    async with lane_side(any_node, valkey.url) as lane:
        saga = await lane.intended("refused", gas=1_000_000_000)
        await lane.dead_lettered(saga)
        keeper = lane.keeper()
        for _ in range(HOLE_OBSERVATIONS + 1):
            await keeper.round()
        out = await lane.out(saga)
        assert [attempt.kind for attempt in out.attempts] == [AttemptKind.CALL, AttemptKind.FILL]
        fact = await mined_with(lane, saga)
    assert saga.deploy is not None
    assert fact == NonceTaken(saga.deploy.nonce, any_node.cost(out.attempts[-1].hash))


async def test_refused_bytes_of_the_living_are_not(any_node: Node, valkey: EmbeddedValkey) -> None:
    """While its saga is at work, nobody spends its nonce."""
    async with lane_side(any_node, valkey.url) as lane:
        saga = await lane.intended("living", gas=1_000_000_000)
        keeper = lane.keeper()
        for _ in range(HOLE_OBSERVATIONS + 2):
            await keeper.round()
        assert len((await lane.out(saga)).attempts) == 1
        await lane.dead_lettered(saga)
        await keeper.round()
        await keeper.round()


async def test_a_tampered_record_stops_nobody(node: Node, valkey: EmbeddedValkey) -> None:
    """A record that no script of ours wrote is left as it is, and the others are looked after."""
    async with lane_side(node, valkey.url) as lane:
        broken, sound = await lane.intended("broken"), await lane.intended("sound")
        assert broken.deploy is not None
        key = lane.corner.keys.nonce(node.chain_id, DEV_ACCOUNT, broken.deploy.nonce)
        await lane.corner.client.hset(key, "a0", b"{")
        keeper = lane.keeper()
        for _ in range(HOLE_OBSERVATIONS + 1):
            await keeper.round()
        assert await lane.corner.client.hget(key, "a0") == b"{"
        assert await lane.corner.client.hget(key, "n") == b"1"
        assert node.request("eth_getTransactionByHash", first(sound).hash) is not None
        await lane.side.chain.send(broken, Step.DEPLOY)
        assert isinstance(await mined(lane, sound), Mined)


# --- Others.


async def test_a_foreign_transaction_moves_the_lane(any_node: Node, valkey: EmbeddedValkey) -> None:
    """A nonce that somebody else has used is never given: the lane goes on behind it."""
    async with lane_side(any_node, valkey.url) as lane:
        saga = await lane.intended("before")
        await lane.side.chain.send(saga, Step.DEPLOY)
        assert isinstance(await mined(lane, saga), Mined)
        keeper = lane.keeper()
        await keeper.round()
        any_node.request("eth_sendTransaction", {"from": DEV_ACCOUNT, "to": STRANGER})
        any_node.mine()
        keeper._idle_looked_ms = 0
        for _ in range(HOLE_OBSERVATIONS - 1):
            await keeper.round()
            assert (await lane.lane.standing()).next == any_node.nonce() - 1
        await keeper.round()
        assert (await lane.lane.standing()).next == any_node.nonce()


async def test_a_foreign_transaction_takes_a_nonce(
    node: Node, valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A saga whose nonce a foreign transaction spent is told so after three looks at depth."""
    monkeypatch.setattr(watches, "OBSERVATION_SECONDS", 0.0)
    async with lane_side(node, valkey.url, confirmations=2) as lane:
        saga = await lane.intended("robbed")
        assert saga.deploy is not None
        settled = lane.side.watcher.expect(saga.deploy, sent=True)
        node.request("eth_sendTransaction", {"from": DEV_ACCOUNT, "to": STRANGER})
        node.mine()
        for _ in range(6):
            await lane.side.watcher.poll()
        assert not settled.done()
        node.mine()
        for _ in range(2):
            await lane.side.watcher.poll()
        assert settled.result() == NonceTaken(saga.deploy.nonce)


# --- One keeper.


async def test_a_keeper_without_a_node_gives_up(node: Node, valkey: EmbeddedValkey) -> None:
    """A replica that reaches no node leaves the lane to one that does."""
    async with open_proxy(node.url) as proxy, lane_side(node, valkey.url, url=proxy.url) as cut_off:
        await cut_off.intended("waits")
        one = cut_off.keeper("one")
        await one.round()
        assert one.keeping
        proxy.always(EVERY, lost_request)
        rests = [await one.look() for _ in range(FAILED_ROUNDS)]
        assert rests[-1] > rests[0]
        assert not one.keeping
        gauge = f'saga_lane_keeper{{signer="{DEV_ACCOUNT}"}} 0.0'
        assert gauge.encode() in cut_off.metrics.exposition()[0]
        two = cut_off.keeper("two")
        proxy.heal()
        await two.round()
        assert two.keeping


async def test_one_keeper_at_a_time(node: Node, valkey: EmbeddedValkey) -> None:
    """A second replica stands by; it keeps the lane when the first has given it up."""
    async with lane_side(node, valkey.url) as lane:
        one, two = lane.keeper("one"), lane.keeper("two")
        await one.round()
        await two.round()
        assert (one.keeping, two.keeping) == (True, False)
        fence = (await lane.lane.standing()).fence
        await one.resign()
        await two.round()
        assert two.keeping
        assert (await lane.lane.standing()).fence == fence + 1
        await one.round()
        assert not one.keeping


async def test_a_former_keeper_stores_and_sends_nothing(node: Node, valkey: EmbeddedValkey) -> None:
    """A keeper whose lease was taken over while it was thinking neither stores nor sends."""
    async with open_proxy(node.url) as proxy, lane_side(node, valkey.url, url=proxy.url) as lane:
        saga = await lane.intended("fenced")
        await lane.side.chain.send(saga, Step.DEPLOY)
        one, two = lane.keeper("one", pace=AT_ONCE), lane.keeper("two", pace=SLOW)
        await one.round()
        dear(node, 3 * first(saga).max_fee)
        node.mine()
        asked = one._tend_all

        async def overtaken(standing: Standing, due: list[int]) -> None:
            await one.resign()
            await two.round()
            await asked(standing, due)

        one._tend_all = overtaken  # type: ignore[method-assign]
        sent = proxy.received.count("eth_sendRawTransaction")
        await one.round()
        assert len((await lane.out(saga)).attempts) == 1
        assert proxy.received.count("eth_sendRawTransaction") == sent
