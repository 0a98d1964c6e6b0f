import asyncio

import pytest

from saga.model import State
from tests.integration.lua.store import CHAIN_ID, SENDER, Corner, intent, message

HEIR = "0x" + "Cd" * 20
OTHER = "0x" + "Ef" * 20


async def given(corner: Corner, nonce: int, model: str = "model_1") -> None:
    """A lane that has given a nonce."""
    worker = corner.worker()
    saga = await corner.begin_in(worker, State.VALIDATED, message(model))
    assert (await worker.propose(saga, intent(nonce), spent=0, known=nonce)).saga is not None


async def mark(corner: Corner) -> str:
    return (await corner.stored_lane()).get(b"retired", b"").decode()


async def test_handed_over(corner: Corner) -> None:
    """A lane is drained first and retired then; next nonce, keeper and records stay as they are."""
    await given(corner, 5)
    lane = corner.lane()
    await lane.keep("w1", lease_ms=60_000, hold="funds")
    before, records = await corner.stored_lane(), await corner.records()
    drained = await lane.retire("drain", HEIR)
    assert (drained.done, drained.mark, drained.next) == (True, f"draining:{HEIR}", 6)
    assert (await lane.standing()).retired == f"draining:{HEIR}"
    retired = await lane.retire("finish", HEIR, seen=6)
    assert (retired.done, retired.mark, retired.next) == (True, f"retired:{HEIR}", 6)
    assert await corner.stored_lane() == before | {b"retired": f"retired:{HEIR}".encode()}
    assert await corner.records() == records


async def test_no_new_nonces(corner: Corner) -> None:
    """While a mark stands the lane gives no nonce, and says who will; without it, it does again."""
    await given(corner, 5)
    lane, worker = corner.lane(), corner.worker()
    saga = await corner.begin_in(worker, State.VALIDATED, message("model_2"))
    await lane.retire("drain", HEIR)
    for done in ("drain", "finish"):
        answer = await worker.propose(saga, intent(6), spent=5, known=6)
        assert worker.outcome == b"RETIRED", done
        assert answer.retired is not None
        assert HEIR in answer.retired
        await lane.retire("finish", HEIR, seen=6)
    assert (await lane.standing()).next == 6
    await lane.retire("lift")
    assert (await worker.propose(saga, intent(6), spent=5, known=6)).saga is not None


async def test_taken_before(corner: Corner) -> None:
    """An intent that was stored before the mark is answered as stored, not as refused."""
    worker = corner.worker()
    saga = await corner.begin_in(worker, State.VALIDATED)
    await worker.propose(saga, intent(5), spent=0, known=5)
    await corner.lane().retire("drain", HEIR)
    assert await worker.scripts.again() == [b"DUPLICATE"]


async def test_proven_for_another_nonce(corner: Corner) -> None:
    """A lane that has gone on since it was read is not retired."""
    await given(corner, 5)
    lane = corner.lane()
    await lane.retire("drain", HEIR)
    await lane.raise_to(9)
    for seen in (6, None, 10):
        refused = await lane.retire("finish", HEIR, seen=seen)
        assert (refused.done, refused.stale, refused.next) == (False, True, 9)
    assert await mark(corner) == f"draining:{HEIR}"
    assert (await lane.retire("finish", HEIR, seen=9)).done


async def test_never_used(corner: Corner) -> None:
    """A lane that never gave a nonce is handed over as one that never did, and as no other."""
    lane = corner.lane()
    await lane.retire("drain", HEIR)
    assert (await lane.retire("finish", HEIR, seen=0)).stale
    assert (await lane.retire("finish", HEIR)).done
    assert await corner.stored_lane() == {b"retired": f"retired:{HEIR}".encode()}


@pytest.mark.parametrize("before", ["", f"draining:{OTHER}", f"retired:{OTHER}"])
async def test_never_drained(corner: Corner, before: str) -> None:
    """Nothing is retired that is not drained for the same address."""
    lane, key = corner.lane(), corner.keys.lane(CHAIN_ID, SENDER)
    await corner.client.hset(key, mapping={"next": 6, "retired": before})
    refused = await lane.retire("finish", HEIR, seen=6)
    assert (refused.done, refused.stale, refused.mark) == (False, False, before)
    assert await mark(corner) == before


async def test_drained_anew(corner: Corner) -> None:
    """A drain that was left may be begun for another address; what is retired stays retired."""
    lane = corner.lane()
    await lane.retire("drain", OTHER)
    assert (await lane.retire("drain", HEIR)).done
    await lane.retire("finish", HEIR)
    assert (await lane.retire("drain", HEIR)).mark == f"retired:{HEIR}"
    refused = await lane.retire("drain", OTHER)
    assert (refused.done, refused.mark) == (False, f"retired:{HEIR}")
    assert await mark(corner) == f"retired:{HEIR}"


async def test_lifted(corner: Corner) -> None:
    """Who drained for an address lifts that mark alone; an operator lifts any."""
    lane = corner.lane()
    for nothing in (await lane.retire("lift"), await lane.retire("lift", HEIR)):
        assert (nothing.done, nothing.mark) == (True, "")
    await lane.retire("drain", HEIR)
    assert not (await lane.retire("lift", OTHER)).done
    assert await mark(corner) == f"draining:{HEIR}"
    assert (await lane.retire("lift", HEIR)).done
    assert await mark(corner) == ""
    await lane.retire("drain", HEIR)
    await lane.retire("finish", HEIR)
    assert not (await lane.retire("lift", HEIR)).done
    assert await mark(corner) == f"retired:{HEIR}"
    assert (await lane.retire("lift")).done
    assert await mark(corner) == ""


async def test_handed_back(corner: Corner) -> None:
    """A lane that is handed back gives nonces again; until then its own mark stands."""
    lane, heir = corner.lane(), corner.lane(HEIR)
    await lane.retire("drain", HEIR)
    await lane.retire("finish", HEIR)
    await heir.retire("drain", SENDER)
    assert (await lane.standing()).retired == f"retired:{HEIR}"
    await heir.retire("finish", SENDER)
    assert (await lane.standing()).retired == ""
    assert (await heir.standing()).retired == f"retired:{SENDER}"


async def test_two_askers(corner: Corner) -> None:
    """Of several that drain for the same address the last one has the mark: it alone finishes and
    lifts. Who the mark belonged to is forgotten with it."""
    await given(corner, 5)
    lane = corner.lane()
    await lane.retire("drain", HEIR, by="one")
    assert (await lane.retire("drain", HEIR, by="two")).done
    assert (await lane.standing()).retired_by == "two"
    for asker in ("one", ""):
        for refused in (
            await lane.retire("finish", HEIR, seen=6, by=asker),
            await lane.retire("lift", HEIR, by=asker),
        ):
            assert (refused.done, refused.stale) == (False, False)
            assert refused.mark == f"draining:{HEIR}"
    assert (await lane.retire("lift", HEIR, by="two")).done
    assert (await lane.standing()).retired_by == ""
    await lane.retire("drain", HEIR, by="two")
    assert (await lane.retire("finish", HEIR, seen=6, by="two")).done
    assert b"retired_by" not in await corner.stored_lane()
    # What is done is done, for whoever asks.
    assert (await lane.retire("finish", HEIR, seen=6, by="one")).done


@pytest.mark.parametrize("before", ["", f"draining:{OTHER}", f"retired:{OTHER}"])
async def test_abandoned(corner: Corner, before: str) -> None:
    """A lost key's lane is retired with all that it has out, whatever stood before."""
    await given(corner, 5)
    if before:
        await corner.client.hset(corner.keys.lane(CHAIN_ID, SENDER), "retired", before)
    records = await corner.records()
    assert (await corner.lane().retire("abandon", HEIR)).mark == f"retired:{HEIR}"
    assert await mark(corner) == f"retired:{HEIR}"
    assert (await corner.lane().standing()).retired_by == "abandon"
    assert await corner.records() == records
    heir = corner.lane(HEIR)
    await heir.retire("drain", SENDER)
    await heir.retire("finish", SENDER)
    assert {b"retired", b"retired_by"}.isdisjoint(await corner.stored_lane())


async def test_retried(corner: Corner) -> None:
    """A call whose reply was lost is answered as done when it is repeated, and changes nothing."""
    await given(corner, 5)
    lane = corner.lane()
    for what, seen in (("drain", None), ("finish", 6), ("abandon", None), ("lift", None)):
        to = "" if what == "lift" else HEIR
        await lane.retire(what, to, seen=seen)  # type: ignore[arg-type]
        before = await corner.contents()
        again = await lane.scripts.again()
        assert isinstance(again, list)
        assert again[0] == b"OK", what
        assert await corner.contents() == before


async def test_at_once(corner: Corner) -> None:
    """Of nonces and a drain at once, none is given behind the drain's answer."""
    worker = corner.worker()
    sagas = [
        await corner.begin_in(worker, State.VALIDATED, message(f"model_{n}")) for n in range(20)
    ]
    await corner.lane().raise_to(7)
    workers = [corner.worker() for _ in sagas]
    proposals = [
        each.propose(saga, intent(7), spent=7, known=7)
        for each, saga in zip(workers, sagas, strict=True)
    ]
    answers, drained = await asyncio.gather(
        asyncio.gather(*proposals), corner.lane().retire("drain", HEIR)
    )
    assert drained.next is not None
    assert sum(answer.saga is not None for answer in answers) == drained.next - 7
    assert (await corner.lane().standing()).next == drained.next
