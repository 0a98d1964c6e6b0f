import msgspec
import pytest

from saga.backpressure import IntakeLook, Pause, stops

PAUSE = Pause(by="ann@desk", at_ms=1, reason="new contracts")


def look(outbound: int = 0, pause: Pause | None = None, refusal: str = "") -> IntakeLook:
    return IntakeLook(outbound=outbound, pause=pause, refusal=refusal)


def test_nothing() -> None:
    """Where nothing is wrong, nothing stops."""
    assert stops(look(), most=10, lagging=False) == {}


def test_all() -> None:
    """Each reason is named, with words for it."""
    assert stops(look(11, PAUSE, "Redis is full"), most=10, lagging=False) == {
        "operator": "paused by ann@desk: new contracts",
        "outbound_depth": "11 events wait for consumers, OUTBOUND_MAX_DEPTH is 10",
        "store": "Redis is full",
    }


def test_no_words() -> None:
    """A pause without a reason says who."""
    assert str(msgspec.structs.replace(PAUSE, reason="")) == "paused by ann@desk"


@pytest.mark.parametrize(
    ("outbound", "lagging", "stopped"),
    [
        (10, False, False),
        (11, False, True),
        (11, True, True),
        (10, True, True),
        (9, True, True),
        (8, True, False),
        (9, False, False),
    ],
)
def test_hysteresis(outbound: int, lagging: bool, stopped: bool) -> None:
    """The intake stops above the limit, and goes on below nine tenths of it."""
    assert ("outbound_depth" in stops(look(outbound), most=10, lagging=lagging)) is stopped


def test_no_limit() -> None:
    """Without a limit the list may be of any length."""
    assert stops(look(10**9), most=0, lagging=True) == {}
