"""Laws of `republish.lua`: one event more, who asked for it, and its own retry known."""

import json
from typing import Any

from adapters.redis_events import AUDIT_KEPT, Answer, RedisEvents
from saga.model import Saga, State
from tests.integration.lua.store import EVENT, Corner, Recorder, message


class Events(RedisEvents):
    """Whose last call can be repeated."""

    def __init__(self, corner: Corner) -> None:
        super().__init__(corner.client, corner.keys)
        self.scripts = Recorder(corner.client)
        self._scripts = self.scripts

    async def order(self, saga: Saga, place: int = 1, **changes: Any) -> Answer:
        given: dict[str, Any] = {"run": "run", "actor": "op@host", "model_id": "model_1"}
        return await self.republish(saga.id, place=place, **given | changes)


async def acked(corner: Corner, model: str = "model_1") -> Saga:
    saga = await corner.begin_in(corner.worker(), State.ACKED, message(model))
    await corner.client.delete(corner.keys.outbound)
    return saga


async def audited(corner: Corner) -> list[dict[str, Any]]:
    return [json.loads(line) for line in await corner.listed(corner.keys.audit)]


async def test_one_write(corner: Corner) -> None:
    """The kept bytes are pushed, and history and audit say who asked, in one write."""
    saga, events = await acked(corner), Events(corner)
    await corner.client.set(corner.keys.event(saga.id), b"\xff not even json")
    before = await corner.read(saga)
    assert await events.order(saga) == "OK"
    assert await corner.listed(corner.keys.outbound) == [b"\xff not even json"]
    assert await corner.read(saga) == before
    entry = (await corner.views.history(saga.id))[-1]
    assert (entry.kind, entry.worker, entry.state) == ("republished", "op@host", State.ACKED)
    (line,) = await audited(corner)
    assert line.pop("at_ms") == entry.at_ms
    assert line == {
        "what": "republished",
        "by": "op@host",
        "saga_id": saga.id,
        "model_id": "model_1",
        "run": "run",
    }


async def test_lost_reply(corner: Corner) -> None:
    """The same order sent again after its reply was lost changes nothing."""
    saga, events = await acked(corner), Events(corner)
    await events.order(saga)
    before = await corner.contents()
    assert await events.scripts.again() == b"DUPLICATE"
    assert await corner.contents() == before
    assert await corner.listed(corner.keys.outbound) == [EVENT]


async def test_places_and_runs(corner: Corner) -> None:
    """The next place, and the same place of another run, are orders of their own."""
    saga, events = await acked(corner), Events(corner)
    assert await events.order(saga, 1) == "OK"
    assert await events.order(saga, 3) == "OK"
    assert await events.order(saga, 2) == "DUPLICATE"
    assert await events.order(saga, 1, run="another") == "OK"
    assert len(await corner.listed(corner.keys.outbound)) == 3
    assert await corner.client.pttl(corner.keys.republishing("run")) > 0


async def test_only_acked(corner: Corner) -> None:
    """The event of a saga that is not ACKED is left to its own saga."""
    saga = await corner.begin_in(corner.worker(), State.PUBLISHED)
    before = await corner.contents()
    assert await Events(corner).order(saga) == "CONFLICT"
    assert await corner.contents() == before


async def test_saga_expired(corner: Corner) -> None:
    """An event outlives its saga; the saga's history does not begin anew for it."""
    saga, events = await acked(corner), Events(corner)
    await corner.client.delete(corner.keys.saga(saga.id), corner.keys.history(saga.id))
    assert await events.order(saga) == "OK"
    assert await corner.listed(corner.keys.outbound) == [EVENT]
    assert await corner.client.exists(corner.keys.history(saga.id)) == 0
    assert len(await audited(corner)) == 1


async def test_rebuilt(corner: Corner) -> None:
    """A rebuilt event goes out, and is told from a kept one, only where none is kept."""
    saga, events = await acked(corner), Events(corner)
    assert await events.order(saga, 1, rebuilt=b"rebuilt") == "OK"
    assert (await corner.views.history(saga.id))[-1].note is None
    await corner.client.delete(corner.keys.event(saga.id))
    assert await events.order(saga, 2) == "GONE"
    assert await events.order(saga, 2, rebuilt=b"rebuilt") == "OK"
    assert await corner.listed(corner.keys.outbound) == [b"rebuilt", EVENT]
    note = "rebuilt: its bytes were not kept"
    assert (await corner.views.history(saga.id))[-1].note == note
    assert (await audited(corner))[-1]["note"] == note


async def test_audit_is_capped(corner: Corner) -> None:
    """The audit list keeps its newest entries."""
    saga, events = await acked(corner), Events(corner)
    await corner.client.rpush(corner.keys.audit, *(b"{}" for _ in range(AUDIT_KEPT)))
    await events.order(saga)
    lines = await audited(corner)
    assert (len(lines), lines[-1]["saga_id"]) == (AUDIT_KEPT, saga.id)


async def test_listed_in_order(corner: Corner) -> None:
    """Events are listed as first published, from a time on; what was not kept comes last."""
    events = Events(corner)
    sagas = [await acked(corner, f"model_{number}") for number in range(4)]
    kept = [each async for each in events.published()]
    assert [(each.saga_id, each.kept) for each in kept] == [(saga.id, True) for saga in sagas]
    assert [each.at_us for each in kept] == sorted({each.at_us for each in kept})
    later = [each async for each in events.published(kept[2].at_us)]
    assert later == kept[2:]
    await corner.client.zrem(corner.keys.events, sagas[1].id)
    found = [each async for each in events.published()]
    assert [each.saga_id for each in found] == [sagas[n].id for n in (0, 2, 3, 1)]
    assert [each.kept for each in found] == [True, True, True, False]


async def test_more_than_a_page(corner: Corner) -> None:
    """Every event is listed once, however many there are."""
    members = {f"saga-{number:04}": 1_000_000 + number for number in range(1001)}
    await corner.client.zadd(corner.keys.events, members)
    found = [each.saga_id async for each in Events(corner).published()]
    assert found == sorted(members)


async def test_named(corner: Corner) -> None:
    """An event is found by its saga's id, and by the model, also when the saga has expired."""
    saga, events = await acked(corner), Events(corner)
    await corner.client.set(corner.keys.claim("model_1"), saga.id)
    by_id, by_model = await events.named(saga.id), await events.named("model_1")
    assert by_id is not None
    assert (by_id, by_id.saga_id, by_id.kept) == (by_model, saga.id, True)
    await corner.client.delete(corner.keys.saga(saga.id))
    assert await events.named("model_1") == by_id
    assert await events.named("nobody") is None


async def test_trimmed_meanwhile(corner: Corner) -> None:
    """Retention that takes ended sagas away while they are read hides none that stays."""
    index = corner.keys.index(State.ACKED)
    ids = [f"{n:032x}" for n in range(1200)]
    await corner.client.zadd(index, {saga_id: 1000 + n for n, saga_id in enumerate(ids)})
    seen: list[str] = []
    async for each in Events(corner).published():
        if not seen:
            await corner.client.zremrangebyscore(index, "-inf", 1099)
        seen.append(each.saga_id)
    assert seen == ids


async def test_ended_at_once(corner: Corner) -> None:
    """More sagas of one millisecond than a page has are all read, once, from a time on."""
    index = corner.keys.index(State.ACKED)
    early, ids = [f"a{n:031x}" for n in range(3)], [f"b{n:031x}" for n in range(1700)]
    await corner.client.zadd(index, dict.fromkeys(early, 4) | dict.fromkeys(ids, 5) | {"c": 6})
    assert [each.saga_id async for each in Events(corner).published(4001)] == [*ids, "c"]
    found = [each.saga_id async for each in Events(corner).published()]
    assert found == [*early, *ids, "c"]
