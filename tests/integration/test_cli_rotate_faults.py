"""`saga keys rotate` that is stopped, loses Redis's replies, or meets another one: the last line
says how things stand, and no lane is left draining without a word."""

import signal
from collections.abc import Iterator

import pytest

from adapters.embedded import DEV_ACCOUNT, EmbeddedValkey
from tests.support.chain import STRANGER, Node
from tests.support.commands import Ended, command, environment, running
from tests.support.lane import LaneSide, lane_side
from tests.support.redis_proxy import open_redis_proxy

THIRD = "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC"
STOPPED = "saga: stopped: nothing was handed over"
HANDED_OVER = (
    f"saga: {DEV_ACCOUNT} was handed over to {STRANGER}; run this again to see what is left"
)
BY_SIGNAL = [(signal.SIGTERM, 1), (signal.SIGINT, 130)]
ROTATE = ("keys", "rotate", "--to")


@pytest.fixture(autouse=True)
def _undone(node: Node) -> Iterator[None]:
    with node.rolled_back():
        node.hold_blocks()
        yield


async def mark(lane: LaneSide) -> str:
    return (await lane.lane.standing()).retired


def last(ended: Ended) -> str:
    assert "Traceback" not in ended.err
    return ended.err.splitlines()[-1]


# --- What Redis does not answer.


async def test_reply_to_the_mark_lost(node: Node, valkey: EmbeddedValkey) -> None:
    """A mark whose reply is lost is lifted; what to do when the command is killed was said before
    it was set."""
    async with lane_side(node, valkey.url) as lane, open_redis_proxy(valkey.url) as proxy:
        proxy.lose("drain")
        settings = environment(lane, proxy.url)
        ended = await command(settings, *ROTATE, STRANGER)
        assert proxy.met.is_set()
        assert await mark(lane) == ""
        await lane.intended("goes-on")
    assert (ended.status, ended.out) == (1, "")
    first, second, third = ended.err.splitlines()
    assert f"lift the mark with `saga keys rotate --to {DEV_ACCOUNT}`" in first
    assert second == f"saga: {DEV_ACCOUNT} gives nonces again"
    assert third.startswith("saga: Redis: ")


async def test_redis_away_after_the_mark(node: Node, valkey: EmbeddedValkey) -> None:
    """Where the mark cannot be lifted either, the last line says that it may stand, and how it is
    lifted, as it can be given."""
    async with lane_side(node, valkey.url) as lane, open_redis_proxy(valkey.url) as proxy:
        await lane.intended("waits")
        settings = environment(lane, proxy.url, DEPLOYER_PRIVATE_KEY=None)
        arguments = (*ROTATE, STRANGER, "--from", DEV_ACCOUNT)
        async with running(settings, *arguments) as rotating:
            await rotating.until_said("waiting, 1 out")
            proxy.away = True
            await proxy.end()
            await rotating.until_said("waiting, Redis: ")
            rotating.terminate()
            ended = await rotating.ended()
        assert ended.status == 1
        assert "it is not known whether" in last(ended)
        undo = f"saga keys rotate --to {DEV_ACCOUNT} --from {DEV_ACCOUNT}"
        assert f"lift the mark with `{undo}`" in last(ended)
        assert await mark(lane) == f"draining:{STRANGER}"
        settings = environment(lane, valkey.url, DEPLOYER_PRIVATE_KEY=None)
        assert (await command(settings, *undo.split()[1:])).status == 0
        assert await mark(lane) == ""


async def test_reply_to_the_handover_lost(node: Node, valkey: EmbeddedValkey) -> None:
    """A handover whose reply is lost is found done at the next look, or told when there is none."""
    async with lane_side(node, valkey.url) as lane:
        for wait in ("60", "0"):
            async with open_redis_proxy(valkey.url) as proxy:
                proxy.lose("finish")
                settings = environment(lane, proxy.url)
                ended = await command(settings, *ROTATE, STRANGER, "--wait", wait)
                assert proxy.met.is_set()
            assert await mark(lane) == f"retired:{STRANGER}"
            if wait == "0":
                assert (ended.status, ended.out) == (1, "")
                assert last(ended).startswith(HANDED_OVER)
                ended = await command(environment(lane, valkey.url), *ROTATE, STRANGER)
            assert ended.status == 0, ended.err
            assert f"retired, to {STRANGER}" in ended.out
            await lane.lane.retire("lift")


# --- Stopped.


@pytest.mark.parametrize(("number", "status"), BY_SIGNAL)
async def test_stopped_while_marking(
    node: Node, valkey: EmbeddedValkey, number: int, status: int
) -> None:
    """A signal before the mark's reply is there leaves no mark behind, by SIGTERM as by Ctrl-C."""
    async with lane_side(node, valkey.url) as lane, open_redis_proxy(valkey.url) as proxy:
        await lane.intended("in-the-way")
        proxy.keep("drain")
        async with running(environment(lane, proxy.url), *ROTATE, STRANGER) as rotating:
            await proxy.met.wait()
            assert await mark(lane) == f"draining:{STRANGER}"
            rotating.signal(number)
            proxy.released.set()
            ended = await rotating.ended()
        assert (ended.status, ended.out, last(ended)) == (status, "", STOPPED)
        assert await mark(lane) == ""


async def test_stopped_before_the_mark(node: Node, valkey: EmbeddedValkey) -> None:
    """A mark that is still on its way to Redis is waited for: it is not lifted before it is set."""
    async with lane_side(node, valkey.url) as lane, open_redis_proxy(valkey.url) as proxy:
        await lane.intended("in-the-way")
        await lane.lane.retire("lift")  # Redis knows the script
        proxy.delay("drain")
        async with running(environment(lane, proxy.url), *ROTATE, STRANGER) as rotating:
            await proxy.met.wait()
            rotating.signal(signal.SIGTERM)
            proxy.released.set()
            ended = await rotating.ended()
        assert (ended.status, last(ended)) == (1, STOPPED)
        assert await mark(lane) == ""


@pytest.mark.parametrize(("number", "status"), BY_SIGNAL)
async def test_stopped_while_waiting(
    node: Node, valkey: EmbeddedValkey, number: int, status: int
) -> None:
    """A signal while transactions are out lifts the mark, and says so."""
    async with lane_side(node, valkey.url) as lane:
        await lane.intended("in-the-way")
        async with running(environment(lane, valkey.url), *ROTATE, STRANGER) as rotating:
            await rotating.until_said("waiting, 1 out")
            rotating.signal(number)
            ended = await rotating.ended()
        assert (ended.status, ended.out, last(ended)) == (status, "", STOPPED)
        assert await mark(lane) == ""


@pytest.mark.parametrize(("number", "status"), BY_SIGNAL)
async def test_stopped_while_handing_over(
    node: Node, valkey: EmbeddedValkey, number: int, status: int
) -> None:
    """A signal before the handover's reply is there is no reason to call it not done."""
    async with lane_side(node, valkey.url) as lane, open_redis_proxy(valkey.url) as proxy:
        proxy.keep("finish")
        async with running(environment(lane, proxy.url), *ROTATE, STRANGER) as rotating:
            await proxy.met.wait()
            rotating.signal(number)
            ended = await rotating.ended()
        assert (ended.status, ended.out) == (status, "")
        assert last(ended).startswith(HANDED_OVER)
        assert await mark(lane) == f"retired:{STRANGER}"


# --- Two operators.


async def test_lifted_by_another(node: Node, valkey: EmbeddedValkey) -> None:
    """Where somebody lifts the mark, the command ends at once and says that it was lifted."""
    async with lane_side(node, valkey.url) as lane:
        await lane.intended("in-the-way")
        async with running(environment(lane, valkey.url), *ROTATE, STRANGER) as rotating:
            await rotating.until_said("waiting, 1 out")
            undone = await command(environment(lane, valkey.url), *ROTATE, DEV_ACCOUNT)
            assert undone.status == 0
            ended = await rotating.ended()
        assert (ended.status, ended.out) == (1, "")
        assert "somebody else has lifted the mark" in last(ended)
        assert await mark(lane) == ""


@pytest.mark.parametrize("heir", [STRANGER, THIRD])
async def test_drained_by_another(node: Node, valkey: EmbeddedValkey, heir: str) -> None:
    """Of two that drain a lane, be it for the same address, the last one has it: the first ends at
    once, and leaves the mark as it is."""
    async with lane_side(node, valkey.url) as lane:
        await lane.intended("in-the-way")
        settings = environment(lane, valkey.url)
        async with running(settings, *ROTATE, STRANGER) as first:
            await first.until_said("waiting, 1 out")
            async with running(settings, *ROTATE, heir) as second:
                await second.until_said("waiting, 1 out")
                ended = await first.ended()
                assert (ended.status, ended.out) == (1, "")
                said = f"another `saga keys rotate` drains {DEV_ACCOUNT} for {heir} now"
                assert said in last(ended)
                assert "gives nonces again" not in ended.err
                assert await mark(lane) == f"draining:{heir}"
                second.terminate()
                assert last(await second.ended()) == STOPPED
        assert await mark(lane) == ""


async def test_handed_over_by_another(node: Node, valkey: EmbeddedValkey) -> None:
    """Where somebody hands the lane over to another address, the command ends at once."""
    async with lane_side(node, valkey.url) as lane:
        await lane.intended("in-the-way")
        async with running(environment(lane, valkey.url), *ROTATE, STRANGER) as rotating:
            await rotating.until_said("waiting, 1 out")
            await lane.lane.retire("abandon", THIRD)
            ended = await rotating.ended()
        assert ended.status == 1
        assert f"somebody else has handed {DEV_ACCOUNT} over to {THIRD} meanwhile" in last(ended)
        assert await mark(lane) == f"retired:{THIRD}"
