import asyncio
from collections.abc import Mapping

import pytest
from structlog.testing import capture_logs

from saga import intake
from saga.backpressure import IntakeLook, Pause, Reason
from saga.errors import StoreUnavailableError
from saga.intake import IntakeGate
from saga.outage import Outages

PAUSE = Pause(by="ann@desk", at_ms=1)


class Desk:
    """Shows what a test has put there."""

    def __init__(self) -> None:
        self.found: IntakeLook | StoreUnavailableError = IntakeLook(outbound=0, pause=None)

    async def look(self) -> IntakeLook:
        if isinstance(self.found, StoreUnavailableError):
            raise self.found
        return self.found


class Silent(Desk):
    """Never answers."""

    async def look(self) -> IntakeLook:
        await asyncio.Event().wait()
        raise AssertionError


def gate_of(desk: Desk, told: list[Mapping[Reason, str]]) -> IntakeGate:
    return IntakeGate(desk, Outages(monotonic=lambda: 0.0), most=10, on_change=told.append)


async def test_shut_before_the_first_look() -> None:
    """Nothing is taken before it is known that nothing forbids it."""
    gate = gate_of(Desk(), [])
    assert not gate.is_open
    waiting = asyncio.create_task(gate.opened())
    await gate.look()
    await waiting
    assert gate.is_open
    assert gate.reasons == []


async def test_lines() -> None:
    """A pause is one line when it begins and one when it ends, however often it is seen."""
    desk, told = Desk(), list[Mapping[Reason, str]]()
    gate = gate_of(desk, told)
    with capture_logs() as lines:
        desk.found = IntakeLook(outbound=0, pause=PAUSE)
        for _ in range(3):
            await gate.look()
        assert not gate.is_open
        assert gate.reasons == ["intake stopped (operator): paused by ann@desk"]
        desk.found = IntakeLook(outbound=0, pause=None)
        for _ in range(3):
            await gate.look()
    assert gate.is_open
    assert [(line["event"], line["reason"]) for line in lines] == [
        ("intake.stopped", "operator"),
        ("intake.resumed", "operator"),
    ]
    assert [sorted(each) for each in told] == [["operator"]] * 3 + [[]] * 3


async def test_hysteresis() -> None:
    """Between nine tenths and the limit, the gate stays as it was."""
    desk = Desk()
    gate = gate_of(desk, [])
    states = []
    for depth in (10, 11, 10, 9, 8, 9, 10):
        desk.found = IntakeLook(outbound=depth, pause=None)
        await gate.look()
        states.append(gate.is_open)
    assert states == [True, False, False, False, True, True, True]


async def test_away() -> None:
    """A Redis that is away, or takes no writes, shuts the gate; what was known stays known."""
    desk = Desk()
    gate = gate_of(desk, [])
    desk.found = IntakeLook(outbound=11, pause=None)
    await gate.look()
    with capture_logs() as lines:
        desk.found = StoreUnavailableError("Redis: gone")
        await gate.look()
        assert [why.split(":")[0] for why in gate.reasons] == [
            "intake stopped (outbound_depth)",
            "intake stopped (store)",
        ]
        desk.found = IntakeLook(outbound=0, pause=None, refusal="Redis takes no writes")
        await gate.look()
        assert gate.reasons == ["intake stopped (store): Redis takes no writes"]
        desk.found = IntakeLook(outbound=0, pause=None)
        await gate.look()
    assert gate.is_open
    assert [line["event"] for line in lines] == [
        "redis.unavailable",
        "intake.resumed",
        "redis.back",
    ]


async def test_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look that gets no answer is told and shuts the gate: nothing waits for redis-py's tries."""
    monkeypatch.setattr(intake, "LOOK_LIMIT_SECONDS", 0)
    desk = Silent()
    gate = gate_of(desk, [])
    with capture_logs() as lines:
        await gate.look()
    assert not gate.is_open
    assert [line["event"] for line in lines] == ["redis.unavailable"]
    assert lines[0]["error"].startswith("Redis: no answer within")


async def test_refused_between_looks() -> None:
    """What a loop was refused shuts the gate at once; the next look opens it."""
    gate = gate_of(Desk(), [])
    await gate.look()
    gate.refused(StoreUnavailableError("Redis is full", cause="oom"))
    assert not gate.is_open
    await gate.look()
    assert gate.is_open
