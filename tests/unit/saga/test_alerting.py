"""Laws of alerts: what is told, when, how often, and what is never in it."""

import json
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from saga.alerting import (
    MAX_REASON,
    SEVERITY,
    Alert,
    AlertKind,
    Pulse,
    Repeats,
    Rules,
    Sight,
    Thresholds,
    document,
    of_failure,
)
from saga.failure_event import failure_of
from saga.model import State
from tests.support.sagas import MESSAGE, make

A, B = "0x" + "aa" * 20, "0x" + "bb" * 20
THRESHOLDS = Thresholds(queue_depth=10, stall_seconds=600, stuck_seconds=300)
IDLE = Pulse(inbound=0, paused=False, active=0, newest_ms=5)


def sight(
    lacking: Mapping[str, str] | None = None,
    held: Mapping[str, str] | None = None,
    *,
    away: bool = False,
    **pulse: Any,
) -> Sight:
    """Two signers, and nothing wrong unless it is said."""
    return Sight(
        signers=(A, B),
        lacking=lacking or {},
        held=held or {},
        pulse=None if away else msgspec.structs.replace(IDLE, **pulse),
    )


def seen(rules: Rules, found: Sight, now: float) -> list[tuple[str, str]]:
    return [alert.key for alert in rules.look(found, now)]


def rules(**thresholds: Any) -> Rules:
    return Rules(msgspec.structs.replace(THRESHOLDS, **thresholds), began=0)


def test_all_is_well() -> None:
    """Nothing is told while nothing is wrong, however long that is."""
    found = rules()
    assert [seen(found, sight(), now) for now in (0, 1_000, 100_000)] == [[], [], []]


def test_balance() -> None:
    """A signer that cannot pay is told as long as it cannot, and once it can, until that is told;
    one that always could is not."""
    found = rules()
    low = sight({A: "0.01 of the native token"})
    assert seen(found, low, 0) == seen(found, low, 15) == [("low_balance", A)]
    (filled,) = found.look(sight(), 30)
    assert (filled.kind, filled.subject) == (AlertKind.BALANCE_FILLED, A)
    assert seen(found, sight(), 45) == [("balance_filled", A)]
    found.told(filled)
    assert seen(found, sight(), 60) == []
    assert seen(found, low, 75) == [("low_balance", A)]


def test_balance_told_is_not_filled() -> None:
    """That a balance is low is told does not mean that its end was."""
    found = rules()
    (low,) = found.look(sight({A: "low"}), 0)
    found.told(low)
    assert seen(found, sight(), 15) == [("balance_filled", A)]


def test_lane() -> None:
    """A lane is stuck once its keeper has held something for long, without a break."""
    found = rules()
    held = sight(held={B: "the fee cap"})
    assert seen(found, held, 0) == seen(found, held, 299) == []
    (alert,) = found.look(held, 300)
    assert alert.key == ("lane_stuck", B)
    assert alert.reason == f"{B} is stuck for 5 minutes: the fee cap"
    assert seen(found, sight(), 310) == []
    assert seen(found, held, 320) == seen(found, held, 619) == []
    assert seen(found, held, 620) == [("lane_stuck", B)]


@pytest.mark.parametrize(("inbound", "most", "told"), [(10, 10, 0), (11, 10, 1), (11, 0, 0)])
def test_depth(inbound: int, most: int, told: int) -> None:
    """A queue is too deep above its threshold; a threshold of 0 is none."""
    found = rules(queue_depth=most)
    assert seen(found, sight(inbound=inbound), 0) == [("queue_depth", "inbound")] * told


@pytest.mark.parametrize("waits", [{"inbound": 1}, {"active": 1}])
def test_no_progress(waits: dict[str, Any]) -> None:
    """No saga has moved for long while work waits, of whichever kind."""
    found = rules()
    stalled = sight(**waits)
    assert seen(found, stalled, 10) == seen(found, stalled, 609) == []
    assert seen(found, stalled, 610) == [("no_progress", "fleet")]


def test_progress() -> None:
    """A move of any saga, or a message taken, is progress; one that comes in is none."""
    found = rules()
    looks = [
        (10, sight(inbound=5, active=1)),
        (400, sight(inbound=5, active=1, newest_ms=6)),
        (800, sight(inbound=4, active=1, newest_ms=6)),
        (1300, sight(inbound=9, active=1, newest_ms=6)),
    ]
    assert [seen(found, look, now) for now, look in looks] == [[]] * len(looks)
    assert seen(found, looks[-1][1], 1400) == [("no_progress", "fleet")]


def test_idle_is_no_stall() -> None:
    """The time without work does not count, nor does what waits by an operator's order."""
    found = rules()
    assert seen(found, sight(), 0) == []
    assert seen(found, sight(), 5_000) == []
    assert seen(found, sight(inbound=1), 5_001) == []
    assert seen(found, sight(inbound=1), 5_599) == []
    assert seen(found, sight(inbound=1, paused=True), 9_000) == []
    assert seen(found, sight(inbound=1, active=1, paused=True), 9_599) == []
    assert seen(found, sight(inbound=1, active=1, paused=True), 9_600) == [("no_progress", "fleet")]


def test_store_away() -> None:
    """While Redis is away nothing moves, and that is told with its reason; a threshold of 0 is
    none."""
    found, never = rules(), rules(stall_seconds=0)
    assert seen(found, sight(), 0) == seen(found, sight(away=True), 599) == []
    (alert,) = found.look(sight(away=True), 600)
    assert alert.reason == "no saga has moved for 10 minutes, while Redis does not answer"
    assert seen(never, sight(away=True), 10_000) == []
    assert seen(found, sight(), 601) == []


def alert(kind: AlertKind = AlertKind.LOW_BALANCE, subject: str = A, reason: str = "no") -> Alert:
    return Alert(kind=kind, subject=subject, reason=reason)


def test_repeats() -> None:
    """The same kind about the same subject is given once in the time, whatever its reason; what
    was not given after all may be given at once."""
    found = Repeats(60)
    assert found.allows(alert(), 0)
    assert not found.allows(alert(reason="other"), 59)
    assert found.allows(alert(subject=B), 59)
    assert found.allows(alert(AlertKind.LANE_STUCK), 59)
    assert found.allows(alert(), 60)
    assert not found.allows(alert(), 119)
    found.forget(alert())
    assert found.allows(alert(), 119)
    assert not found.allows(alert(), 178)


def test_repeats_forgets() -> None:
    """What is older than the time is not kept: the memory has an end."""
    found = Repeats(60)
    for number in range(1000):
        assert found.allows(alert(subject=str(number)), number)
    assert len(found._until) <= 60


def test_an_end_is_news() -> None:
    """That a balance is filled makes that it is low news again, and the other way round."""
    found = Repeats(3600)
    low, filled = alert(AlertKind.LOW_BALANCE), alert(AlertKind.BALANCE_FILLED)
    assert [found.allows(each, 1) for each in (low, filled, low, filled)] == [True] * 4
    assert not found.allows(filled, 2)
    assert found.allows(alert(AlertKind.LOW_BALANCE, B), 2)
    assert not found.allows(alert(AlertKind.LOW_BALANCE, B), 3)


def test_deferred() -> None:
    """What another tells is asked for again when its claim ends, and never later than without."""
    found = Repeats(60)
    assert found.allows(alert(), 0)
    found.defer(alert(), 10)
    found.defer(alert(), 1000)
    assert not found.allows(alert(), 9)
    assert found.allows(alert(), 10)
    found.defer(alert(subject=B), 1000)
    assert found.allows(alert(subject=B), 11)


def test_a_letter_again() -> None:
    """A saga that is resumed and fails again is told again; the same failure is not."""
    saga = make(State.VALIDATED)
    times = ["2024-01-27T10:01:30.123Z", "2024-01-27T10:11:30.123Z"]
    first, again = (
        of_failure(failure_of(saga, saga, failed_at=at, network="sepolia")) for at in times
    )
    found = Repeats(3600)
    assert [found.allows(each, 1) for each in (first, first, again)] == [True, False, True]
    assert first.saga_id == again.saga_id == saga.id


def test_every_kind_has_a_severity() -> None:
    """Each kind says how bad it is."""
    assert set(SEVERITY) == set(AlertKind)


def test_document_of_a_failure() -> None:
    """A dead letter's alert names the saga and what failed; the message and secrets are not in
    it."""
    before = make(State.VALIDATED, id="0123456789abcdef0123456789abcdef", model_id="m <!channel>&")
    after = msgspec.structs.replace(
        before,
        error="https://user:hunter2@node.example/v3/hunter2hunter2 said no",
        error_class="reverted",
    )
    failure = failure_of(before, after, failed_at="2024-01-27T10:01:30.123Z", network="sepolia")
    found = document(of_failure(failure), worker="w", network="sepolia")
    assert found == {
        "text": "[error] sepolia: dead letter of model m &lt;!channel&gt;&amp;, saga "
        "0123456789abcdef0123456789abcdef\n"
        "reverted in VALIDATED: https://***@node.example/*** said no",
        "event": "dead_letter",
        "severity": "error",
        "saga_id": before.id,
        "model_id": "m <!channel>&",
        "reason": "reverted in VALIDATED: https://***@node.example/*** said no",
        "worker": "w",
        "network": "sepolia",
    }
    assert MESSAGE.decode() not in json.dumps(found)


def test_document_is_bounded() -> None:
    """What a node says may be long; what is sent of it is not."""
    found = document(alert(reason="x" * 100_000), worker="w", network="sepolia")
    assert found["reason"] == "x" * MAX_REASON + "…"
    assert found["saga_id"] is None
