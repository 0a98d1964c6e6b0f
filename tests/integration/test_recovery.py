"""The engine with a real store and a real chain: retries, holds, poison."""

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from adapters.embedded import EmbeddedValkey
from adapters.metrics import Metrics
from adapters.otel import build_telemetry
from saga.actions import Action
from saga.dispatch import Dispatcher
from saga.engine import HELD, Engine, Postponed
from saga.facts import Fact
from saga.machine import Row, Table
from saga.model import ErrorClass, Saga, State
from saga.policy import Override, Policy
from states.table import TABLE
from tests.integration.lua.store import Corner, Worker, opened
from tests.support.chain import ChainSide, Node, chain_side
from tests.support.fleet import message
from tests.support.proxy import EVERY, SEND, Proxy, each_call, lost_request, open_proxy

ASK = "eth_getTransactionReceipt"
FEES = "eth_feeHistory"
POLICY = Policy(network="localhost", retry_base_seconds=5.0, retry_max_seconds=60.0)


@pytest.fixture
async def corner(valkey: EmbeddedValkey) -> AsyncIterator[Corner]:
    async with opened(valkey.url) as found:
        yield found


@pytest.fixture
async def proxy(node: Node) -> AsyncIterator[Proxy]:
    async with open_proxy(node.url) as server:
        yield server


def engine_of(
    worker: Worker,
    side: ChainSide,
    *,
    policy: Policy = POLICY,
    table: Table = TABLE,
    seconds: float = 20.0,
) -> Engine:
    telemetry = build_telemetry(inbound_queue="in", worker="w1", on_hold=Metrics().held)
    return Engine(
        table,
        worker,
        side.chain,
        telemetry,
        policy,
        Dispatcher(worker, side.chain),
        step_timeout_seconds=seconds,
        rng=random.Random(7),
    )


def no_fees(call: dict[str, Any]) -> dict[str, Any] | None:
    """An answer that means nothing: an error that may pass."""
    return {"result": {"baseFeePerGas": []}} if call["method"] == FEES else None


async def begin(corner: Corner, worker: Worker, model: str) -> Saga:
    return await corner.begin(worker, message(model))


async def test_a_retry_holds_no_worker(corner: Corner, node: Node, proxy: Proxy) -> None:
    """What failed waits in `due` by the store's clock, without a lease, as its state's override
    says; when it has failed as often as that allows, it is dead-lettered."""
    override = Override(max_retries=1, base_seconds=30.0, cap_seconds=40.0)
    policy = Policy(network="localhost", retry_overrides={"VALIDATED": override})
    worker = corner.worker()
    async with chain_side(node, url=proxy.url) as side:
        proxy.always(FEES, each_call(no_fees))
        saga = await begin(corner, worker, "model-retry")
        result = await engine_of(worker, side, policy=policy).run(saga)
        assert isinstance(result, Postponed)
        assert 0 < result.seconds <= 30
        stored = await corner.read(saga)
        assert (stored.state, stored.attempts, stored.lease.owner) == (State.VALIDATED, 1, "")
        due = await corner.views.due_ms(saga.id)
        assert due == stored.updated_ms + int(result.seconds * 1000)
        await corner.lapse(saga)
        (taken,) = await worker.take_due(1)
        assert (taken.takeovers, taken.crashes) == (0, 0)
        ended = await engine_of(worker, side, policy=policy).run(taken)
    assert isinstance(ended, Saga)
    assert (ended.state, ended.error_class) == (State.DEAD_LETTERED, ErrorClass.RETRIES)
    assert (ended.error or "").endswith("(tried 2 times)")


async def test_a_hold_uses_up_no_retry(corner: Corner, node: Node, proxy: Proxy) -> None:
    """However often a saga is held, its tries stay as they are."""
    worker = corner.worker()
    async with chain_side(node, url=proxy.url, watching=False) as side:
        proxy.always(EVERY, lost_request)
        saga = await begin(corner, worker, "model-held")
        for _ in range(2):
            policy = Policy(network="localhost", max_retries=0)
            assert isinstance(await engine_of(worker, side, policy=policy).run(saga), Postponed)
            stored = await corner.read(saga)
            assert (stored.state, stored.attempts) == (State.VALIDATED, 0)
            assert stored.lease.owner == ""
            assert (stored.error or "").startswith(HELD)
            await corner.lapse(saga)
            (saga,) = await worker.take_due(1)


async def test_a_time_out_asks_before_it_sends(corner: Corner, node: Node, proxy: Proxy) -> None:
    """A transaction without a receipt in time is a failed try, which holds no worker; the chain is
    asked about it before the same bytes, and no others, are sent again."""
    worker = corner.worker()
    sent: list[str] = []

    def swallow(call: dict[str, Any]) -> dict[str, Any] | None:
        note(call)
        return {"result": "0x" + "00" * 32} if call["method"] == SEND else None

    def note(call: dict[str, Any]) -> None:
        if call["method"] == SEND:
            sent.append(call["params"][0])

    async with chain_side(node, url=proxy.url) as side:
        proxy.always(SEND, each_call(swallow))
        engine = engine_of(worker, side, seconds=0.5)
        saga = await begin(corner, worker, "model-late")
        running = asyncio.create_task(engine.run(saga))
        while not running.done():  # blocks go by without it
            node.mine()
            await asyncio.sleep(0.05)
        assert isinstance(await running, Postponed)
        stored = await corner.read(saga)
        assert (stored.state, stored.attempts, stored.lease.owner) == (State.VALIDATED, 1, "")
        assert "no receipt within 0.5 s" in (stored.error or "")
        first, proxy.received[:] = list(sent), []
        proxy.heal()
        await corner.lapse(saga)
        (taken,) = await worker.take_due(1)
        proxy.always(SEND, each_call(note))
        ended = await engine.run(taken)
    assert isinstance(ended, Saga)
    assert ended.state is State.ACKED
    assert proxy.received.index(ASK) < proxy.received.index(SEND)
    assert len(first) == 2
    assert sent == 2 * first
    assert len(await corner.listed(corner.keys.outbound)) == 1


def untouched() -> Table:
    """A table whose states nobody may ask."""

    def decide(_saga: Saga, _fact: Fact | None, _policy: Policy) -> Action:
        raise AssertionError("the saga was run")

    return {
        state: Row(decide=decide, ok=row.ok, fail=row.fail, skip=row.skip)
        for state, row in TABLE.items()
    }


async def crashed(corner: Corner, saga: Saga, workers: int) -> Saga:
    """The saga as taken by a last worker, after so many have died under it."""
    for number in range(workers):
        await corner.lapse(saga)
        (saga,) = await corner.worker(f"dead-{number}").take_due(1)
    await corner.lapse(saga)
    return saga


async def test_poison(corner: Corner, node: Node) -> None:
    """A saga under which MAX_CRASHES workers died is dead-lettered before anything of it is done:
    the letter says how often and under whom. A resume runs it again, as if none had."""
    policy = Policy(network="localhost", max_crashes=3)
    worker = corner.worker("last")
    async with chain_side(node) as side:
        saga = await begin(corner, corner.worker("first"), "model-poison")
        await crashed(corner, saga, 2)
        (taken,) = await worker.take_due(1)
        assert (taken.takeovers, taken.crashes) == (3, 3)
        ended = await engine_of(worker, side, policy=policy, table=untouched()).run(taken)
        assert isinstance(ended, Saga)
        assert (ended.state, ended.error_class) == (State.DEAD_LETTERED, ErrorClass.POISON)
        assert ended.error == "its worker died 3 times in RECEIVED: first, dead-0, dead-1"
        (letter,) = await corner.views.dead_letters()
        assert b'"error_class":"poison"' in letter
        assert ended.error.encode() in letter
        stored = await corner.read(saga)
        assert await corner.views.resume(stored, State.RECEIVED, actor="operator") == "OK"
        (again,) = await worker.take_due(1)
        assert again.crashes == 0
        done = await engine_of(worker, side, policy=policy).run(again)
    assert isinstance(done, Saga)
    assert done.state is State.ACKED


@pytest.mark.parametrize(("most", "crashes"), [(3, 2), (0, 9)])
async def test_no_poison_yet(corner: Corner, node: Node, most: int, crashes: int) -> None:
    """One crash fewer, or MAX_CRASHES 0, and the saga is run as ever."""
    worker = corner.worker("last")
    async with chain_side(node) as side:
        saga = await begin(corner, worker, f"model-sound-{most}")
        await crashed(corner, saga, crashes - 1)
        (taken,) = await worker.take_due(1)
        assert taken.crashes == crashes
        policy = Policy(network="localhost", max_crashes=most)
        done = await engine_of(worker, side, policy=policy).run(taken)
    assert isinstance(done, Saga)
    assert done.state is State.ACKED
