import pytest

from saga.actions import Advance, ClaimModel, Fail, Skip
from saga.facts import Sent
from saga.model import ErrorClass, State
from states.received import decide
from tests.support.sagas import CONTENT, OTHER, OWN, POLICY, make, message


def test_invalid() -> None:
    """A message that cannot be read fails as invalid, with the reason, before any claim."""
    action = decide(make(State.RECEIVED, message=b"{"), None, POLICY)
    assert isinstance(action, Fail)
    assert action.error_class is ErrorClass.INVALID
    assert "not JSON" in action.reason


def test_field_named() -> None:
    """A message that lacks a field fails with the name of the field."""
    action = decide(make(State.RECEIVED, message=message(model_name=None)), None, POLICY)
    assert isinstance(action, Fail)
    assert action.reason.startswith("model_name ")


@pytest.mark.parametrize(("current", "skipped"), [(0.79, True), (0.808, True), (0.8081, False)])
def test_criterion(current: float, skipped: bool) -> None:
    """An improvement must be above the criterion; equal to it is not enough."""
    given = message(
        current_value=current, improvement_percentage=round((current / 0.8 - 1) * 100, 4)
    )
    action = decide(make(State.RECEIVED, message=given), None, POLICY)
    assert isinstance(action, Skip) == skipped


def test_criterion_reason() -> None:
    """A skip by the criterion tells both numbers."""
    action = decide(make(State.RECEIVED, message=message(current_value=0.804)), None, POLICY)
    reason = "improvement_percentage is 0.5, not above MIN_IMPROVEMENT_PERCENT 1"
    assert action == Skip(ErrorClass.CRITERIA, reason)


def test_claim_asked() -> None:
    """A valid message claims its model before anything else happens."""
    assert decide(make(State.RECEIVED), None, POLICY) == ClaimModel("model_123", CONTENT)


def test_claim_ours() -> None:
    """The saga that owns its model goes on."""
    saga = make(State.RECEIVED, claim=OWN)
    assert decide(saga, None, POLICY) == Advance(model_id="model_123")


def test_claim_same() -> None:
    """A model whose saga deploys the same content is skipped as a duplicate."""
    action = decide(make(State.RECEIVED, claim=OTHER, claim_same=True), None, POLICY)
    assert isinstance(action, Skip)
    assert action.error_class is ErrorClass.DUPLICATE
    assert OTHER in action.reason
    assert action.duplicate_of == OTHER


def test_claim_different() -> None:
    """A model whose saga deploys other content fails as a conflict."""
    action = decide(make(State.RECEIVED, claim=OTHER), None, POLICY)
    assert isinstance(action, Fail)
    assert action.error_class is ErrorClass.CONFLICT
    assert OTHER in action.reason
    assert action.conflicts_with == OTHER


def test_facts_ignored() -> None:
    """No fact of the chain changes the judgement of a message."""
    saga = make(State.RECEIVED)
    assert decide(saga, Sent(), POLICY) == decide(saga, None, POLICY)
