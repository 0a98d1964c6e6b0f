import pytest

from saga.actions import Advance
from saga.facts import Fact, Reverted
from saga.model import State
from states.published import decide
from tests.support.sagas import POLICY, make


@pytest.mark.parametrize("fact", [None, Reverted("0x12", 9)])
def test_acknowledged(fact: Fact | None) -> None:
    """A saga whose event is out acknowledges and publishes nothing again, whatever else is told."""
    assert decide(make(State.PUBLISHED), fact, POLICY) == Advance(ack=True)
