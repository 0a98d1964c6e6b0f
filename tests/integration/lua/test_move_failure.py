"""`move.lua`: the failure event of a dead letter."""

import json

import pytest
from jsonschema import Draft202012Validator

from saga.actions import Fail
from saga.change import change_of
from saga.errors import LeaseLostError
from saga.failure_event import TokenDeployFailedMessage
from saga.model import ErrorClass, Saga, State, Step
from saga.schemas import FAILURE, schemas
from tests.integration.lua.store import (
    LOSSES,
    Corner,
    Worker,
    attempt,
    fail,
    message,
    pair,
    skip,
)

URL = "https://node.example/v3/hunter2hunter2"


async def failures(corner: Corner) -> list[dict[str, object]]:
    """The failure list, newest first; each entry is what the schema says."""
    found = [json.loads(raw) for raw in await corner.listed(corner.keys.failures)]
    for each in found:
        Draft202012Validator(schemas()[FAILURE]).validate(each)
    return found


async def test_failure_with_the_letter(corner: Corner) -> None:
    """A dead-lettering tells of itself in its own write, with what the letter says but for the
    message and secrets."""
    told: list[TokenDeployFailedMessage] = []
    worker = corner.worker(on_failed=told.append)
    saga = await corner.begin_in(worker, State.VALIDATED)
    assert await failures(corner) == []
    await fail(worker, saga, error=f"{URL} said no", why="reverted")
    (event,), (letter,) = await failures(corner), await corner.listed(corner.keys.dead_letters)
    entry = json.loads(letter)
    for name in ("saga_id", "model_id", "failed_in", "error_class", "attempts", "failed_at"):
        assert event[name] == entry[name]
    assert event["failed_at"] == (await corner.read(saga)).failed_at
    assert (event["network"], event["error"]) == (
        "localhost",
        "https://node.example/*** said no",
    )
    assert [each.failed_at for each in told] == [event["failed_at"]]


async def test_failure_once(corner: Corner) -> None:
    """However often the write is repeated, there is one failure."""
    told: list[TokenDeployFailedMessage] = []
    worker = corner.worker(on_failed=told.append)
    await fail(worker, await corner.begin(worker))
    before = await corner.contents()
    assert [await worker.scripts.again() for _ in range(3)] == [b"DUPLICATE"] * 3
    assert await corner.contents() == before
    assert (len(await failures(corner)), len(told)) == (1, 1)


async def test_failure_of_each_time(corner: Corner) -> None:
    """A saga that is resumed and fails again has one failure for each time; the resume takes the
    letter away, and never a failure that consumers may have read."""
    worker = corner.worker()
    saga = await fail(worker, await corner.begin(worker), error="first")
    stored = await corner.read(saga)
    assert await corner.views.resume(stored, State.RECEIVED, actor="op") == "OK"
    assert [each["error"] for each in await failures(corner)] == ["first"]
    (again,) = await worker.take_due(1)
    await fail(worker, again, error="second")
    assert [each["error"] for each in await failures(corner)] == ["second", "first"]
    assert len(await corner.listed(corner.keys.dead_letters)) == 1


async def test_failure_names_replacements(corner: Corner) -> None:
    """A failure names every transaction signed in the saga's name, those of the lane's keeper too,
    also where the failing write forgets the steps."""
    worker, lane = corner.worker(), corner.lane()
    saga = await corner.begin_in(worker, State.VALIDATED)
    given = (await worker.propose(saga, *pair(3), spent=0, known=3)).saga
    assert given is not None
    (out,) = await lane.read([3])
    assert await lane.add_attempt(out, attempt(99), note="bump", worker="k")
    change = change_of(given, Fail(ErrorClass.CANCELLED, "cancelled", tuple(Step)))
    await worker.move(given, State.DEAD_LETTERED, change)
    (event,) = await failures(corner)
    assert event["transaction_hashes"] == [attempt(number).hash for number in (3, 99, 4)]


async def test_no_failure(corner: Corner) -> None:
    """What is skipped or acknowledged has not failed."""
    worker = corner.worker()
    await skip(worker, await corner.begin(worker))
    await corner.begin_in(worker, State.ACKED, message("m2"))
    assert await failures(corner) == []


@pytest.mark.parametrize("loss", LOSSES)
async def test_failure_of_the_lost(corner: Corner, loss: str) -> None:
    """Who lost the lease tells of no failure, in no list and to nobody."""
    told: list[TokenDeployFailedMessage] = []
    worker: Worker = corner.worker(on_failed=told.append)
    saga: Saga = await corner.begin(worker)
    await LOSSES[loss][0](corner, saga)
    with pytest.raises(LeaseLostError):
        await fail(worker, saga)
    assert (await failures(corner), told) == ([], [])


async def test_one_reason(corner: Corner) -> None:
    """No secret in any record: entry, event, history and hash give one reason, masked and cut."""
    worker = corner.worker()
    saga = await corner.begin_in(worker, State.VALIDATED)
    action = Fail(ErrorClass.RETRIES, f"{URL} said {'x' * 100_000} (tried 3 times)")
    await worker.move(saga, State.DEAD_LETTERED, change_of(saga, action))
    (event,), (letter,) = await failures(corner), await corner.listed(corner.keys.dead_letters)
    last = json.loads((await corner.listed(corner.keys.history(saga.id)))[-1])
    stored = (await corner.read(saga)).error
    assert stored == event["error"] == json.loads(letter)["error"] == last["note"]
    assert stored is not None
    assert stored.startswith("https://node.example/*** said xxx")
    assert stored.endswith("xxx (tried 3 times)")
