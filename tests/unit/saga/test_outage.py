import pytest
from structlog.testing import capture_logs

from saga.errors import ChainUnavailableError, StoreUnavailableError
from saga.outage import AGAIN_SECONDS, Outage, Outages


class Clock:
    """A monotonic clock that a test turns."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def outage(clock: Clock) -> Outage:
    return Outage("gone", "back", monotonic=clock)


def test_a_minute(clock: Clock) -> None:
    """A minute's outage that many meet all the time is a line every ten seconds, and one more."""
    it = outage(clock)
    with capture_logs() as lines:
        for _ in range(600):
            for loop in ("intake", "due", "sweep"):
                it.met(f"{loop}: refused")
            clock.now += 0.1
        it.over()
        it.over()
    assert [(line["event"], line["seconds"]) for line in lines] == [
        *(("gone", seconds) for seconds in (0, 10, 20, 30, 40, 50)),
        ("back", 60),
    ]


def test_flapping(clock: Clock) -> None:
    """What comes and goes is told no more often than what stays away."""
    it = outage(clock)
    with capture_logs() as lines:
        for _ in range(2 * int(AGAIN_SECONDS)):
            it.met("refused")
            it.over()
            clock.now += 1
    assert [line["event"] for line in lines] == ["gone", "back"] * 2


def test_never_away(clock: Clock) -> None:
    """What was always there has no line."""
    with capture_logs() as lines:
        outage(clock).over()
    assert lines == []


def test_apart(clock: Clock) -> None:
    """Redis and the chain have each lines of their own, and each error goes to its own."""
    both = Outages(monotonic=clock)
    with capture_logs() as lines:
        both.met(StoreUnavailableError("Redis: gone"))
        both.met(ChainUnavailableError("node: gone"))
        both.met(StoreUnavailableError("Redis: gone"))
    assert [(line["event"], line["error"]) for line in lines] == [
        ("redis.unavailable", "Redis: gone"),
        ("chain.unavailable", "node: gone"),
    ]
