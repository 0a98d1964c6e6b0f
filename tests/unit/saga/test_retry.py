import pytest

from saga.model import State
from saga.policy import Backoff, Override, Policy
from saga.retry import LEAST_SECONDS, delay

BACKOFF = Backoff(max_retries=3, base_seconds=1.0, cap_seconds=60.0)
LARGEST = 1 - 2**-53


@pytest.mark.parametrize(("tries", "span"), [(0, 1), (1, 2), (2, 4), (5, 32), (6, 60), (7, 60)])
def test_doubles(tries: int, span: float) -> None:
    """The longest wait doubles with each failed try up to the cap."""
    assert delay(BACKOFF, tries, LARGEST) == pytest.approx(span)


@pytest.mark.parametrize("tries", [0, 3, 31, 1024, 10**9])
def test_least_and_most(tries: int) -> None:
    """However often something failed, the wait is a number between the least and the cap."""
    for jitter in (0.0, 0.5, LARGEST):
        assert LEAST_SECONDS <= delay(BACKOFF, tries, jitter) <= BACKOFF.cap_seconds


def test_spread() -> None:
    """Jitter spreads the waits over the whole span, evenly."""
    waits = [delay(BACKOFF, 3, jitter / 10) for jitter in range(1, 10)]
    assert waits == pytest.approx([0.8 * step for step in range(1, 10)])


def test_cap_below_base() -> None:
    """The cap wins over a base that is longer, and over the least."""
    assert delay(Backoff(max_retries=3, base_seconds=100, cap_seconds=60), 0, LARGEST) <= 60
    assert delay(Backoff(max_retries=3, base_seconds=1, cap_seconds=0.01), 5, 0.0) == 0.01


def test_override() -> None:
    """What a state's override does not name is as everywhere; other states know nothing of it."""
    policy = Policy(
        network="x",
        max_retries=3,
        retry_base_seconds=1.0,
        retry_max_seconds=60.0,
        retry_overrides={"VALIDATED": Override(max_retries=0, cap_seconds=300.0)},
    )
    assert policy.backoff(State.VALIDATED) == Backoff(
        max_retries=0, base_seconds=1.0, cap_seconds=300.0
    )
    assert policy.backoff(State.RECEIVED) == BACKOFF
