"""Laws of `saga republish`, as an operator meets it."""

import json
import os
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest

from adapters.embedded import EmbeddedValkey
from saga.actions import Advance
from saga.config import Settings
from saga.model import Saga, State
from saga.policy import Policy
from saga.ports import Change
from states.registered import decide
from tests.integration.lua.store import (
    DEPLOYMENT,
    REGISTRATION,
    Corner,
    Worker,
    advance,
    intent,
    opened,
    walk,
)
from tests.support import fleet
from tests.support.commands import Ended, command, running
from tests.support.redis_proxy import open_redis_proxy

POLICY = Policy(network="localhost")
DONE = "published again"


@pytest.fixture
async def corner(valkey: EmbeddedValkey) -> AsyncIterator[Corner]:
    """Keys of the test's own."""
    async with opened(valkey.url) as found:
        yield found


@pytest.fixture
def saga(valkey: EmbeddedValkey, corner: Corner) -> Callable[..., Any]:
    """`saga …` in that corner, without any setting of the chain."""

    async def call(*arguments: str, **changes: str) -> Ended:
        return await command(environment(valkey.url, corner) | changes, *arguments)

    return call


def environment(url: str, corner: Corner) -> dict[str, str]:
    inherited = {k: v for k, v in os.environ.items() if k not in Settings.model_fields}
    return inherited | {
        "REDIS_URL": url,
        "KEY_PREFIX": corner.keys.prefix,
        "INBOUND_QUEUE": corner.keys.inbound,
        "PROCESSING_QUEUE": corner.keys.processing,
        "OUTBOUND_QUEUE": corner.keys.outbound,
        "DLQ_NAME": corner.keys.dead_letters,
    }


async def publish(corner: Corner, worker: Worker, number: int, to: State = State.ACKED) -> bytes:
    """A saga of a model brought to PUBLISHED or further, as the engine does it; its event."""
    model = f"model_{number}"
    saga = await corner.begin(worker, fleet.message(model))
    saga = await worker.claim_model(saga, model, "content")
    saga = await advance(worker, saga, State.VALIDATED, model_id=model)
    answer = await worker.propose(saga, intent(number), spent=0, known=number)
    assert answer.saga is not None
    saga = await advance(worker, answer.saga, State.TOKEN_DEPLOYED, deployment=DEPLOYMENT)
    saga = await advance(worker, saga, State.REGISTERED, registration=REGISTRATION)
    action = decide(saga, None, POLICY)
    assert isinstance(action, Advance)
    assert action.event is not None
    saga = await worker.move(saga, State.PUBLISHED, Change(saga=saga, event=action.event))
    await walk(worker, saga, to)
    return action.event


async def published(corner: Corner, count: int) -> list[bytes]:
    """Events of ACKED sagas in the order of their publication; the consumer has lost them all."""
    worker = corner.worker()
    events = [await publish(corner, worker, number) for number in range(count)]
    await corner.client.delete(corner.keys.outbound)
    return events


async def sent(corner: Corner) -> list[bytes]:
    """What a consumer pops now, in its order."""
    return (await corner.listed(corner.keys.outbound))[::-1]


async def first_sent(corner: Corner) -> None:
    """Wait for the only event on the list; it stays there."""
    outbound, seconds = corner.keys.outbound, 2  # less than the client's own timeout
    for _ in range(15):
        if await corner.client.blmove(outbound, outbound, seconds, "LEFT", "LEFT") is not None:
            return
    raise AssertionError("nothing was sent")


async def by_model(corner: Corner) -> dict[str, Saga]:
    return {str(saga.model_id): saga async for saga in corner.views.sagas(list(State))}


def lines(ended: Ended) -> list[dict[str, Any]]:
    return [json.loads(line) for line in ended.out.splitlines()]


async def test_dry_by_default(corner: Corner, saga: Callable[..., Any]) -> None:
    """Without --execute it is said what would be done, and nothing is."""
    events = await published(corner, 2)
    before = await corner.contents()
    ended = await saga("republish", "--all", "--json")
    assert ended.status == 0, ended.err
    assert [line["model_id"] for line in lines(ended)] == ["model_0", "model_1"]
    assert {line["result"] for line in lines(ended)} == {"would be published again"}
    assert [line["bytes"] for line in lines(ended)] == [len(event) for event in events]
    shown = await saga("republish", "--all")
    assert "2 event(s) would be published again; at 50/s; give --execute to do it" in shown.out
    assert await corner.contents() == before


async def test_all(corner: Corner, saga: Callable[..., Any]) -> None:
    """All events go out byte for byte, in the order of their first publication, once; histories
    and the audit list say by whom."""
    events = await published(corner, 5)
    ended = await saga("republish", "--all", "--execute", "--json", "--rate", "1000/s")
    assert (ended.status, ended.err) == (0, "")
    assert await sent(corner) == events
    assert [(line["result"], line["done"]) for line in lines(ended)] == [(DONE, True)] * 5
    audit = [json.loads(line) for line in await corner.listed(corner.keys.audit)]
    assert [line["model_id"] for line in audit] == [f"model_{number}" for number in range(5)]
    assert len({line["run"] for line in audit}) == 1
    for each in (await by_model(corner)).values():
        entry = (await corner.views.history(each.id))[-1]
        assert (entry.kind, entry.worker) == ("republished", audit[0]["by"])
    shown = await saga("show", "model_3")
    assert "republished" in shown.out


async def test_named(corner: Corner, saga: Callable[..., Any]) -> None:
    """Sagas are named by id or model, in any order: the events keep theirs, and come once."""
    events = await published(corner, 4)
    sagas = await by_model(corner)
    names = (sagas["model_3"].id, "model_1", sagas["model_1"].id)
    ended = await saga("republish", *names, "--model", "model_0", "--execute")
    assert ended.status == 0, ended.err
    assert "3 event(s) published again" in ended.out
    assert await sent(corner) == [events[n] for n in (0, 1, 3)]


async def test_since(corner: Corner, saga: Callable[..., Any]) -> None:
    """--since takes a time to the microsecond, or an age; both as the server's clock has it."""
    events = await published(corner, 3)
    listed = lines(await saga("republish", "--all", "--json"))
    ended = await saga("republish", "--since", listed[1]["published_at"], "--execute")
    assert ended.status == 0, ended.err
    assert await sent(corner) == events[1:]
    assert len(lines(await saga("republish", "--since", "1h", "--json"))) == 3
    assert lines(await saga("republish", "--since", "0s", "--json")) == []


async def test_event_outlives_its_saga(corner: Corner, saga: Callable[..., Any]) -> None:
    """A saga that has expired is published again by its model's name, or with all."""
    events = await published(corner, 1)
    found = (await by_model(corner))["model_0"]
    await corner.client.delete(corner.keys.saga(found.id), corner.keys.history(found.id))
    for chosen in (["model_0"], ["--all"]):
        ended = await saga("republish", *chosen, "--execute", "--json")
        assert ended.status == 0, ended.err
        assert lines(ended)[0]["model_id"] == "model_0"
    assert await sent(corner) == events * 2


async def test_rebuilt(corner: Corner, saga: Callable[..., Any]) -> None:
    """A saga of a release that kept no events has its event rebuilt from its hash, and it is said;
    one that was adopted does not say its network."""
    events = await published(corner, 2)
    sagas = await by_model(corner)
    keys = corner.keys
    await corner.client.delete(keys.events, *(keys.event(each.id) for each in sagas.values()))
    ended = await saga("republish", "--all", "--execute", "--json")
    assert ended.status == 0, ended.err
    assert [line["rebuilt"] for line in lines(ended)] == [True, True]
    assert await sent(corner) == events
    note = (await corner.views.history(sagas["model_0"].id))[-1].note
    assert note == "rebuilt: its bytes were not kept"
    await corner.client.hdel(keys.saga(sagas["model_1"].id), "deploy")
    ended = await saga("republish", "model_1", "--json")
    assert "set CHAIN_ID or NETWORK_NAME" in lines(ended)[0]["result"]
    ended = await saga("republish", "model_1", "--execute", NETWORK_NAME="localhost")
    assert "1 event(s) published again, 1 of them rebuilt" in ended.out
    assert await sent(corner) == [*events, events[1]]


async def test_left_alone(corner: Corner, saga: Callable[..., Any]) -> None:
    """What is not ACKED is left alone and said so, the others go out, and the status is 1."""
    worker = corner.worker()
    await publish(corner, worker, 0, State.PUBLISHED)
    event = await publish(corner, worker, 1)
    await corner.client.delete(corner.keys.outbound)
    ended = await saga("republish", "--all", "--execute", "--json")
    assert ended.status == 1
    first, second = lines(ended)
    assert first["result"].startswith("left alone: its saga is PUBLISHED")
    assert (first["done"], second["done"]) == (False, True)
    assert ended.err == "saga: not everything was published again; the lines above say why\n"
    assert await sent(corner) == [event]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "name sagas or models, or give --model, or --since, or --all: one of them"),
        (["--all", "x"], "name sagas or models, or give --model, or --since, or --all: one of"),
        (["nobody"], "no saga, no model and no kept event 'nobody'"),
        (["--since", "soon"], "--since 'soon' is no time: give --since as 2024-01-27T10:00:00Z"),
        (["--all", "--rate", "0"], "--rate '0': events a second are needed, as 50/s or 0.5/s"),
        (["--all", "--rate", "x/s"], "--rate 'x/s': events a second are needed"),
    ],
)
async def test_bad_orders(saga: Callable[..., Any], arguments: Sequence[str], line: str) -> None:
    """A bad order is one line that says what is needed."""
    ended = await saga("republish", *arguments, "--execute")
    assert (ended.status, ended.out) == (1, "")
    assert ended.err.startswith(f"saga: {line}")
    assert ended.err.count("\n") == 1


async def test_interrupted(
    valkey: EmbeddedValkey, corner: Corner, saga: Callable[..., Any]
) -> None:
    """A run that is interrupted says how to go on, and what follows then makes it whole."""
    events = await published(corner, 4)
    settings = environment(valkey.url, corner)
    async with running(settings, "republish", "--all", "--execute", "--rate", "0.001") as slow:
        await first_sent(corner)
        slow.signal(signal.SIGINT)
        ended = await slow.ended()
    assert ended.status == 1
    (line,) = ended.err.splitlines()
    assert line.startswith("saga: stopped after 1 of 4 events; go on with --since 20")
    ended = await saga("republish", "--since", line.split()[-1], "--execute")
    assert ended.status == 0, ended.err
    assert await sent(corner) == events


async def test_lost_replies(valkey: EmbeddedValkey, corner: Corner) -> None:
    """An event whose reply is lost is asked for again, and goes out once."""
    events = await published(corner, 3)
    async with open_redis_proxy(valkey.url) as proxy:
        proxy.lose(corner.keys.audit)
        ended = await command(
            environment(proxy.url, corner), "republish", "--all", "--execute", "--json"
        )
    assert ended.status == 0, ended.err
    assert proxy.met.is_set()
    assert [line["result"] for line in lines(ended)] == [DONE] * 3
    assert await sent(corner) == events
    assert len(await corner.listed(corner.keys.audit)) == 3
