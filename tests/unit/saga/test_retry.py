import msgspec
import pytest

from saga.policy import Policy
from saga.retry import delay

POLICY = Policy(network="x", retry_base_seconds=1.0, retry_max_seconds=60.0)
LARGEST = 1 - 2**-53


@pytest.mark.parametrize(("tries", "span"), [(0, 1), (1, 2), (2, 4), (5, 32), (6, 60), (7, 60)])
def test_doubles(tries: int, span: float) -> None:
    """The wait doubles with each failed try up to the longest."""
    assert delay(POLICY, tries, LARGEST) == pytest.approx(span)
    assert delay(POLICY, tries, 0.0) == pytest.approx(span / 10)


@pytest.mark.parametrize("tries", [31, 1024, 10**9])
def test_never_overflows(tries: int) -> None:
    """However often something failed, the wait stays a number no longer than the longest."""
    assert 0 < delay(POLICY, tries, LARGEST) <= POLICY.retry_max_seconds


def test_spread() -> None:
    """Jitter spreads the waits over nine tenths of the span, evenly."""
    waits = [delay(POLICY, 3, jitter / 10) for jitter in range(10)]
    assert waits == sorted(waits)
    assert waits == pytest.approx([0.8 + 0.72 * step for step in range(10)])


def test_longest_below_base() -> None:
    """The longest wait wins over a base that is longer."""
    policy = msgspec.structs.replace(POLICY, retry_base_seconds=100.0)
    assert delay(policy, 0, LARGEST) <= policy.retry_max_seconds
