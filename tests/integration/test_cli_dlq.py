"""`saga dlq` as an operator meets it: real Valkey, real node, ten thousand letters."""

import asyncio
import json
import os
import pty
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import msgspec
import pytest

from adapters.redis_codec import dead_letter
from adapters.redis_dlq import PAGE, RedisDeadLetters
from saga.cli.dlq_plan import Forecaster, refusal
from saga.messages import identify
from saga.model import Lease, Saga, State
from tests.integration.lua.store import Corner, fail, opened
from tests.support.chain import Node
from tests.support.commands import ROOT, Ended, command
from tests.support.fleet import Fleet, message
from tests.support.redis_proxy import open_redis_proxy

MakeFleet = Callable[..., Fleet]
MANY = 10_000
FAILED_AT = "2026-01-02T03:04:05.678Z"


class Dlq:
    """A corner of Valkey, and `saga dlq` on it. No node is there unless one is given."""

    def __init__(self, corner: Corner, redis_url: str) -> None:
        self.corner = corner
        keys = corner.keys
        self.settings = {
            "REDIS_URL": redis_url,
            "KEY_PREFIX": keys.prefix,
            "INBOUND_QUEUE": keys.inbound,
            "PROCESSING_QUEUE": keys.processing,
            "OUTBOUND_QUEUE": keys.outbound,
            "FAILURE_QUEUE": keys.failures,
            "DLQ_NAME": keys.dead_letters,
        }

    async def said(self, *arguments: str) -> Ended:
        return await command(self.settings, "dlq", *arguments)

    async def lines(self, *arguments: str) -> list[dict[str, Any]]:
        ended = await self.said(*arguments, "--json")
        assert ended.status == 0, ended.err
        return [json.loads(line) for line in ended.out.splitlines()]

    async def dead(self, model: str, state: State = State.VALIDATED) -> Saga:
        worker = self.corner.worker()
        await fail(worker, await self.corner.begin_in(worker, state, message(model)))
        saga = await self.corner.views.get(identify(message(model)).saga_id)
        assert saga is not None
        return saga

    async def put(self, *entries: bytes) -> None:
        """As others do."""
        await self.corner.client.lpush(self.corner.keys.dead_letters, *entries)

    async def entries(self) -> list[bytes]:
        return await self.corner.listed(self.corner.keys.dead_letters)

    async def calls(self) -> dict[str, int]:
        """Commands that the server carried out since the last question, those of scripts too."""
        stats = await self.corner.client.info("commandstats")
        await self.corner.client.config_resetstat()
        return {name.removeprefix("cmdstat_"): int(of["calls"]) for name, of in stats.items()}

    async def fill(self, count: int) -> list[str]:
        """So many dead sagas, oldest first."""
        keys, ids = self.corner.keys, []
        pipe = self.corner.client.pipeline(transaction=False)
        for n in range(count):
            raw = message(f"m-{n}")
            saga = Saga(
                id=identify(raw).saga_id,
                state=State.VALIDATED,
                version=2,
                lease=Lease(owner="", fence=1),
                message=raw,
                created_ms=1,
                updated_ms=1,
                model_id=f"m-{n}",
                attempts=5,
            )
            fields = {
                "id": saga.id,
                "state": "DEAD_LETTERED",
                "version": "3",
                "owner": "",
                "fence": "1",
                "message": raw,
                "created_ms": "1",
                "updated_ms": "1",
                "model_id": f"m-{n}",
                "failed_in": "VALIDATED",
                "failed_at": FAILED_AT,
                "error": "no",
                "error_class": "reverted",
                "attempts": "5",
            }
            pipe.hset(keys.saga(saga.id), mapping=fields)
            pipe.zadd(keys.index(State.DEAD_LETTERED), {saga.id: n})
            pipe.lpush(
                keys.dead_letters,
                dead_letter(
                    saga,
                    error="no",
                    error_class="reverted",
                    failed_at=FAILED_AT,
                    queue=keys.inbound,
                ),
            )
            ids.append(saga.id)
        await pipe.execute()
        await self.corner.client.config_resetstat()
        return ids


@pytest.fixture
async def dlq(valkey: Any) -> AsyncIterator[Dlq]:
    async with opened(valkey.url) as corner:
        yield Dlq(corner, valkey.url)


def foreign(model: str, **fields: str) -> bytes:
    """As the producers' own tool writes it."""
    return json.dumps(
        {
            "original_message": message(model).decode(),
            "error": "schema",
            "failed_at": FAILED_AT,
            "original_queue": "somewhere",
        }
        | fields
    ).encode()


GARBAGE = (b"", b"\xff\x00\x1b[31m", b"null", b"[]", b"[" * 10_000, b"{}", b'{"saga_id": 7}')


async def test_ten_thousand(dlq: Dlq) -> None:
    """Listing, resuming and discarding cost a number of commands that grows with the letters, not
    with their square; each letter is resumed once, oldest first."""
    ids = await dlq.fill(MANY)
    listed = await dlq.lines("list")
    assert [line["id"] for line in listed] == ids[::-1]
    calls = await dlq.calls()
    assert (calls["hmget"], calls["lrange"]) == (MANY, MANY // PAGE)
    assert not calls.keys() & {"hgetall", "scan", "keys", "get"}
    done = await dlq.lines("discard", *ids[:2], "--reason", "r", "--execute")
    assert [line["result"] for line in done] == ["discarded"] * 2
    await dlq.calls()
    done = await dlq.lines("replay", "--all", "--execute")
    assert [line["id"] for line in done] == ids[2:]
    assert all(line["done"] and line["resumes_to"] == "VALIDATED" for line in done)
    calls = await dlq.calls()
    resumed = MANY - 2
    assert calls["lrem"] == calls["hgetall"] == calls["lpush"] == calls["rpush"] == resumed
    assert calls["evalsha"] <= resumed + 1
    assert calls["lrange"] == MANY // PAGE
    assert await dlq.entries() == []
    keys = dlq.corner.keys
    assert await dlq.corner.client.zcard(keys.index(State.VALIDATED)) == resumed
    assert await dlq.corner.client.zcard(keys.due) == resumed
    processing = await dlq.corner.listed(keys.processing)
    assert processing[::-1] == [message(f"m-{n}") for n in range(2, MANY)]
    assert await dlq.lines("replay", "--all", "--execute") == []


async def test_list(dlq: Dlq) -> None:
    """The newest is first; ours stand beside their sagas, what others put there is marked."""
    saga = await dlq.dead("ours")
    await dlq.put(foreign("theirs"), message("raw"), b"\xff")
    rubbish, raw, theirs, ours = await dlq.lines("list")
    assert [line["number"] for line in (rubbish, raw, theirs, ours)] == [1, 2, 3, 4]
    assert (ours["entry"], ours["saga_state"]) == ("ours", "DEAD_LETTERED")
    assert (ours["id"], ours["model_id"]) == (saga.id, "ours")
    assert (ours["failed_in"], ours["error_class"]) == ("VALIDATED", "reverted")
    assert (theirs["entry"], theirs["model_id"], theirs["error"]) == ("foreign", "theirs", "schema")
    assert (theirs["failed_at"], theirs["original_queue"]) == (FAILED_AT, "somewhere")
    assert (raw["entry"], raw["model_id"]) == ("foreign", "raw")
    assert (rubbish["entry"], "model_id" in rubbish) == ("foreign", False)
    text = (await dlq.said("list")).out
    assert [line.split()[0] for line in text.splitlines()] == ["no", "1", "2", "3", "4"]


@pytest.mark.parametrize(
    ("filters", "models"),
    [
        (("--state", "VALIDATED", "--class", "reverted"), ["b"]),
        (("--older-than", "1d"), ["c"]),
        (("--limit", "2"), ["c", "b"]),
    ],
)
async def test_filters(dlq: Dlq, filters: Sequence[str], models: list[str]) -> None:
    """Each filter leaves what it names; all together what all name."""
    await dlq.dead("a", State.RECEIVED)
    await dlq.dead("b")
    await dlq.put(foreign("c", failed_at="2020-01-01T00:00:00"))
    assert [line["model_id"] for line in await dlq.lines("list", *filters)] == models


async def test_garbage(dlq: Dlq) -> None:
    """Whatever bytes lie in the list, all commands work, and no control character comes through."""
    await dlq.put(*GARBAGE)
    assert len(await dlq.lines("list")) == len(GARBAGE)
    text = await dlq.said("list")
    assert (text.status, "\x1b" in text.out) == (0, False)
    shown = await dlq.said("show", "6")
    assert (shown.status, "\x1b" in shown.out) == (0, False)
    done = await dlq.lines("replay", "--all", "--execute")
    assert [line["done"] for line in done] == [True] * len(GARBAGE)
    assert await dlq.entries() == []
    assert (await dlq.corner.listed(dlq.corner.keys.inbound))[::-1] == list(GARBAGE)


async def test_show(dlq: Dlq) -> None:
    """By id, model or number: message, saga, history, and what a replay would do."""
    saga = await dlq.dead("a")
    await dlq.put(foreign("b"))
    for name in (saga.id, "a", "2"):
        shown = (await dlq.said("show", name, "--json")).document
        assert shown["id"] == saga.id
    assert shown["message"]["model_id"] == "a"
    assert shown["saga"]["failed_in"] == "VALIDATED"
    assert shown["history"][-1]["note"] == "no"
    assert shown["replay"]["resumes_to"] == "VALIDATED"
    theirs = (await dlq.said("show", "b", "--json")).document
    assert "back to the inbound list" in theirs["replay"]["what"]
    text = (await dlq.said("show", "a")).out
    assert '  "model_id": "a",' in text.splitlines()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("show", "x"), "no dead letter of 'x'"),
        (("replay", "x", "--execute"), "no dead letter of 'x'"),
        (("discard", "--all", "--reason", " "), "--reason: say why"),
        (("list", "--older-than", "soon"), "for example 90m, 1h or 2d"),
    ],
)
async def test_refused(dlq: Dlq, arguments: Sequence[str], text: str) -> None:
    """What cannot be done is one line, and nothing was done."""
    ended = await dlq.said(*arguments)
    assert (ended.status, ended.out) == (1, "")
    assert text in ended.err
    assert len(ended.err.splitlines()) == 1


async def test_an_unknown_name_stops_all(dlq: Dlq) -> None:
    """One id too many, and none of the named is replayed."""
    await dlq.dead("a")
    before = await dlq.corner.contents()
    assert (await dlq.said("replay", "a", "x", "--execute")).status == 1
    assert await dlq.corner.contents() == before


async def test_discard(dlq: Dlq) -> None:
    """Dry by default. A discarded saga stays dead-lettered and comes back by its id alone."""
    saga = await dlq.dead("a")
    other = await dlq.dead("b")
    await dlq.put(foreign("c"))
    before = await dlq.corner.contents()
    dry = await dlq.lines("discard", "a", "c", "--reason", "withdrawn")
    assert [line["done"] for line in dry] == [False, False]
    assert await dlq.corner.contents() == before
    done = await dlq.lines("discard", "a", "c", "--reason", "withdrawn", "--execute")
    assert [line["result"] for line in done] == ["discarded", "entry taken out"]
    assert [line["id"] for line in await dlq.lines("list")] == [other.id]
    assert (await dlq.said("replay", saga.id, "--execute")).status == 1
    resumed = await command(dlq.settings, "resume", "--all", "--json")
    assert [json.loads(line)["id"] for line in resumed.out.splitlines()] == [other.id]
    by_model = await command(dlq.settings, "resume", "a")
    assert (by_model.status, "was discarded (withdrawn): name its id" in by_model.err) == (1, True)
    shown = await command(dlq.settings, "show", "a", "--json")
    assert shown.document["state"] == "DEAD_LETTERED"
    assert shown.document["discarded"] == "withdrawn"
    assert shown.document["history"][-1]["note"] == "discarded: withdrawn"
    by_id = await command(dlq.settings, "resume", saga.id, "--json")
    assert json.loads(by_id.out)["result"] == "resumed"


async def test_stale_letters(dlq: Dlq) -> None:
    """Law 2: the letter of a saga that works again is taken out, and the saga is left alone."""
    saga = await dlq.dead("a")
    worker = dlq.corner.worker()
    (letter,) = await dlq.entries()
    again = await dlq.corner.read(await dlq.corner.begin(worker, saga.message))
    assert await dlq.entries() == []
    await dlq.put(letter)  # as releases left it there
    (line,) = await dlq.lines("list")
    assert (line["entry"], line["saga_state"]) == ("stale", "VALIDATED")
    (done,) = await dlq.lines("replay", "--all", "--execute")
    assert done["result"] == "entry taken out"
    assert await dlq.entries() == []
    assert await dlq.corner.read(again) == again


async def test_one_bad_saga(dlq: Dlq) -> None:
    """A saga that cannot be read, or that no edge leads back from, stops no other; what is said
    before is what is done, and nothing is done to it."""
    first, broken, unreadable, last = [await dlq.dead(model) for model in "abcd"]
    corner = dlq.corner
    await corner.client.hset(corner.keys.saga(broken.id), "failed_in", "ACKED")
    await corner.client.hset(corner.keys.saga(unreadable.id), "version", "x")
    for arguments in (("discard", "c", "--reason", "r"), ("replay", "c", "--execute")):
        (line,) = await dlq.lines(*arguments)
        assert (line["result"], line["done"]) == ("left alone: its saga cannot be read", False)
    shown = await dlq.said("show", "c", "--json")
    assert shown.status == 0, shown.err
    assert shown.document["id"] == unreadable.id
    assert shown.document["saga"] is None
    assert "cannot be read" in shown.document["saga_problem"]
    assert shown.document["replay"]["what"] == "left alone: its saga cannot be read"
    assert shown.document["history"]
    assert "saga_problem" in (await dlq.said("show", "c")).out
    done = await dlq.lines("replay", "--all", "--execute")
    assert [line["done"] for line in done] == [True, False, False, True]
    assert "no edge" in done[1]["result"]
    assert await dlq.corner.indexes(first) == await dlq.corner.indexes(last) == [State.VALIDATED]
    resumed = await command(dlq.settings, "resume", "--all", "--json")
    assert "no edge" in json.loads(resumed.out)["result"]
    assert len(await dlq.entries()) == 2


async def test_failed_again(dlq: Dlq) -> None:
    """Law 2: a letter that was read before its saga failed anew gives no order for that."""
    saga = await dlq.dead("a")
    views, letters = dlq.corner.views, RedisDeadLetters(dlq.corner.client, dlq.corner.keys)
    (old,) = [entry async for entry in letters.entries()]
    newer = msgspec.structs.replace(saga, failed_at="2099-01-01T00:00:00.000Z")
    assert refusal(old, saga) is None
    assert refusal(old, newer) == "left alone: it has failed again since"
    assert (await Forecaster(views).of(old, newer)).what == refusal(old, newer)
    assert refusal(old, None) == "left alone: its saga cannot be read"


async def test_complete_orphan(dlq: Dlq) -> None:
    """Law 1: the letter of a saga that is gone, whose event was published, is only taken out."""
    saga = await dlq.dead("a")
    keys = dlq.corner.keys
    await dlq.corner.client.delete(keys.saga(saga.id))
    await dlq.corner.client.set(keys.event(saga.id), b"{}")
    shown = await dlq.said("show", saga.id, "--json")
    assert shown.document["replay"]["complete"]
    (done,) = await dlq.lines("replay", "--all", "--execute")
    assert done["result"] == "already complete: its event was published"
    assert (done["done"], await dlq.entries()) == (True, [])
    assert await dlq.corner.listed(keys.inbound) == []


async def test_redis_goes_away(valkey: Any, dlq: Dlq) -> None:
    """What was done before Redis went away is said before the error."""
    await dlq.put(foreign("a"), foreign("b"))  # the oldest is the first
    async with open_redis_proxy(valkey.url) as proxy:
        proxy.keep(message("b").decode())
        settings = dlq.settings | {"REDIS_URL": proxy.url}
        running = asyncio.create_task(
            command(settings, "dlq", "replay", "--all", "--execute", "--json")
        )
        await proxy.met.wait()
        proxy.away = True
        await proxy.end()
        ended = await running
    assert ended.status != 0
    (line,) = [json.loads(line) for line in ended.out.splitlines()]
    assert line["result"] == "message put on the inbound list"
    assert "after 1 of 2" in ended.err


async def test_two_replays_at_once(dlq: Dlq) -> None:
    """Of two operators that replay the same letters, each letter is replayed by one."""
    for n in range(15):
        await dlq.dead(f"m{n}")
        await dlq.put(foreign(f"f{n}"))
    both = await asyncio.gather(*[dlq.lines("replay", "--all", "--execute") for _ in range(2)])
    done = [line["id"] for lines in both for line in lines if line["done"]]
    assert (len(done), len(set(done))) == (30, 30)
    assert await dlq.entries() == []
    keys = dlq.corner.keys
    assert len(await dlq.corner.listed(keys.inbound)) == 15
    assert len(await dlq.corner.listed(keys.processing)) == 15


async def test_progress(dlq: Dlq) -> None:
    """A terminal on stderr sees how far many letters are; what is no terminal sees nothing."""
    await dlq.put(*[foreign(f"f{n}") for n in range(30)])
    keyboard, terminal = pty.openpty()
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "saga", "dlq", "discard", "--all", "--reason", "r"),
            env={**os.environ, **dlq.settings},
            cwd=ROOT,
            stdout=PIPE,
            stderr=terminal,
        )
        out, _ = await process.communicate()
        shown = os.read(keyboard, 65536)
    finally:
        os.close(keyboard)
        os.close(terminal)
    assert b"discarding" in shown
    assert b"30/30" in shown
    assert b"discarding" not in out
    piped = await dlq.said("discard", "--all", "--reason", "r")
    assert (piped.err, len(piped.out.splitlines())) == ("", 32)


async def test_resume_all_pages(dlq: Dlq) -> None:
    """`saga resume --all` resumes all, however many pages of the index they fill."""
    await dlq.fill(2 * PAGE + 1)
    ended = await command(dlq.settings, "resume", "--all", "--json")
    assert len(ended.out.splitlines()) == 2 * PAGE + 1
    assert await dlq.entries() == []


async def test_replayed_beside_a_replica(fleet_on: MakeFleet, node: Node) -> None:
    """Law 1: letters of ours and of others are replayed beside a running replica: one token for
    each model; what the chain has already is adopted, and the dry run says so."""
    first = fleet_on(node, MAX_MESSAGE_BYTES="256")
    long, theirs = message("dlq-ours", tags={"pad": "x" * 256}), message("dlq-theirs")
    first.start()
    first.send([long])
    await first.settled([long])
    assert first.stop() == [0]
    fleet = fleet_on(node)
    with fleet.redis as client:
        client.lpush(fleet.settings.dead_letter_queue, foreign("dlq-theirs"), b"\xff")
    fleet.start()
    environment = fleet.clean_environment()

    async def lines(settings: dict[str, str], *arguments: str) -> list[dict[str, Any]]:
        ended = await command(settings, "dlq", *arguments, "--json")
        assert ended.status == 0, ended.err
        return [json.loads(line) for line in ended.out.splitlines()]

    dry = await lines(environment, "replay", "--all")
    assert [(line["entry"], line["would_send"]) for line in dry] == [
        ("ours", True),
        ("foreign", True),
        ("foreign", False),
    ]
    assert "would sign and send: deploy" in dry[0]["result"]
    assert len(await fleet.dead_letters()) == 3
    done = await lines(environment, "replay", "--all", "--execute")
    assert [line["done"] for line in done] == [True] * 3
    evidence = await fleet.settled([long, theirs, b"\xff"])
    ended = {saga.model_id: saga for saga in evidence.sagas.values()}
    assert ended["dlq-ours"].state is ended["dlq-theirs"].state is State.ACKED
    assert len(evidence.contracts["dlq-ours"]) == len(evidence.contracts["dlq-theirs"]) == 1
    assert len(evidence.dead_letters) == 1

    # Another Redis: it knows nothing of what the chain has.
    elsewhere = environment | {"KEY_PREFIX": "elsewhere:", "DLQ_NAME": "elsewhere:dlq"}
    with fleet.redis as client:
        client.lpush("elsewhere:dlq", foreign("dlq-theirs"))
    (line,) = await lines(elsewhere, "replay", "--all")
    token = ended["dlq-theirs"].deployment
    assert token is not None
    assert (line["complete"], line["would_send"]) == (True, False)
    assert f"complete on the chain: token {token.token}" in line["result"]
    shown = await command(elsewhere, "dlq", "show", "dlq-theirs", "--ask", "--json")
    assert shown.document["replay"]["complete"] is True

    # The same entry here: its saga is done.
    with fleet.redis as client:
        client.lpush(fleet.settings.dead_letter_queue, foreign("dlq-theirs"))
    (line,) = await lines(environment, "replay", "dlq-theirs")
    assert "complete already" in line["result"]
    assert "ACKED" in line["result"]
    await lines(environment, "replay", "dlq-theirs", "--execute")
    after = await fleet.settled([long, theirs, b"\xff"])
    assert after.contracts == evidence.contracts
    assert after.events == evidence.events
