"""Laws of the purse: whose balance is believed when, and what is given up for it."""

import asyncio
from collections.abc import AsyncIterator
from typing import NamedTuple

import pytest

from adapters.chain_lane import ChainLane
from adapters.embedded import DEV_ACCOUNT
from adapters.key_local import LocalKey
from adapters.metrics import Metrics
from adapters.purse import Purse
from adapters.rpc_pool import RpcPool
from adapters.signer import Signer
from adapters.watcher import BlockWatcher
from adapters.watches import Settled
from saga.facts import Stranded
from saga.fees import ETHER
from saga.model import Step
from saga.start import readiness
from tests.support.chain import (
    STRANGER,
    STRANGER_KEY,
    ChainSide,
    Node,
    chain_side,
    new_saga,
    stored_attempts,
)
from tests.support.proxy import Proxy, each_call, open_proxy

BALANCE = "eth_getBalance"


class TwoLanes(NamedTuple):
    """A chain side with a second lane; the first one's signer has something out."""

    node: Node
    side: ChainSide
    purse: Purse
    proxy: Proxy
    lanes: list[ChainLane]
    out: "asyncio.Future[Settled]"


@pytest.fixture
async def two(node: Node) -> AsyncIterator[TwoLanes]:
    """On a node that mines nothing by itself and is as before afterwards."""
    with node.rolled_back():
        node.hold_blocks()
        async with (
            open_proxy(node.url) as proxy,
            chain_side(node, url=[proxy.url, node.url], watching=False) as side,
        ):
            addresses = [DEV_ACCOUNT, STRANGER]
            purse = Purse(
                side.rpc, addresses, Metrics(), least=0, poll_seconds=1, busy=lambda: True
            )
            lanes = [
                ChainLane(side.rpc, side.watcher, signer, purse, chain_id=node.chain_id)
                for signer in (side.signer, Signer(LocalKey(STRANGER_KEY)))
            ]
            side.chain.lanes = lanes
            purse.on_look = side.chain.balance_seen
            saga = await side.intend(new_saga("purse"), Step.DEPLOY)
            await side.chain.send(saga, Step.DEPLOY)
            assert saga.deploy is not None
            watch = side.watcher.known(saga.deploy)
            assert watch is not None
            await purse.look()
            yield TwoLanes(node, side, purse, proxy, lanes, watch.settled)
            side.chain.release(saga)


async def test_left_when_another_can_pay(two: TwoLanes) -> None:
    """What its signer cannot pay for is left as soon as all nodes say so, if another lane can."""
    two.node.request("anvil_setBalance", DEV_ACCOUNT, "0x1")
    await two.purse.look()
    fact = await two.out
    assert isinstance(fact, Stranded)
    assert fact.reason.startswith(f"{DEV_ACCOUNT} has 1 wei")


async def test_not_left_when_nobody_can_pay(two: TwoLanes) -> None:
    """A lane that has something, but not enough, is no better."""
    for account in (DEV_ACCOUNT, STRANGER):
        two.node.request("anvil_setBalance", account, "0x1")
    await two.purse.look()
    await two.purse.look()
    assert not two.out.done()


async def test_one_node_that_lies(two: TwoLanes) -> None:
    """One node that knows no balance strands nothing: every node that answers must say so."""
    two.proxy.always(
        BALANCE, each_call(lambda call: {"result": "0x0"} if call["method"] == BALANCE else None)
    )
    for _ in range(3):
        await two.purse.look()
    assert not two.out.done()


async def test_mined_is_not_left(two: TwoLanes) -> None:
    """A balance that is low because the transaction was mined strands nothing, also when the block
    has not been seen yet."""
    two.node.mine()
    two.node.request("anvil_setBalance", DEV_ACCOUNT, "0x1")
    await two.purse.look()
    assert not two.out.done()


@pytest.mark.parametrize("answer", ["0x", "", "lots", 7, None, ["0x1"], {}])
async def test_no_balance_in_an_answer(two: TwoLanes, answer: object) -> None:
    """An answer that is no quantity changes nothing and ends nothing."""
    two.proxy.always(
        BALANCE, each_call(lambda call: {"result": answer} if call["method"] == BALANCE else None)
    )
    for _ in range(3):
        await two.purse.look()
    assert two.lanes[0].hold(ETHER) is None
    assert not two.out.done()


async def test_empty_is_told(two: TwoLanes) -> None:
    """A lane without anything is held though no least balance is set; `/ready` says so, and is
    ready as long as another one can pay."""
    two.node.request("anvil_setBalance", DEV_ACCOUNT, "0x0")
    await two.purse.look()
    found = readiness(two.lanes)
    assert found.ready
    (reason,) = found.reasons
    assert reason.startswith(f"funds: insufficient funds: {DEV_ACCOUNT} has 0 of")
    two.node.request("anvil_setBalance", STRANGER, "0x0")
    await two.purse.look()
    assert not readiness(two.lanes).ready


async def test_refused_cost_is_told(two: TwoLanes) -> None:
    """A balance that could not pay for what was wanted is trouble until it can."""
    assert two.purse.hold(STRANGER, 10**6 * ETHER) is not None
    assert two.purse.trouble(STRANGER) is not None
    two.node.request("anvil_setBalance", STRANGER, hex(10**6 * ETHER))
    await two.purse.look()
    assert two.purse.trouble(STRANGER) is None


async def test_counts_while_nothing_is_watched(node: Node) -> None:
    """A replica that has nothing out itself learns what others' transactions of its key have spent:
    else it would take them for out, and wait for funds that it does not need."""
    rpc = RpcPool([node.url])
    watcher = BlockWatcher(
        rpc, [DEV_ACCOUNT], confirmations=1, poll_seconds=1, attempts_of=stored_attempts
    )
    purse = Purse(rpc, [DEV_ACCOUNT], Metrics(), least=0, poll_seconds=1, busy=lambda: watcher.busy)

    async def counted(sender: str, _balance: int, spent: int) -> None:
        watcher.counted(sender, spent)

    purse.on_look = counted
    await watcher.poll()
    before = watcher.spent(DEV_ACCOUNT)
    node.transact(DEV_ACCOUNT, STRANGER)
    await watcher.poll()
    await purse.look()
    assert watcher.spent(DEV_ACCOUNT) == before + 1
    await rpc.close()
