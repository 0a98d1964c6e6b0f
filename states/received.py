"""RECEIVED → VALIDATED: judge the message, and make this saga the model's own.

Skips to SKIPPED what does not meet the criteria or repeats a model's saga. Fails to DEAD_LETTERED
what is invalid or contradicts the model's saga. Crash-safe: the claim is one write in the store,
asked again it gives the same answer.
"""

from saga.actions import Action, Advance, ClaimModel, Fail, Skip
from saga.facts import Fact
from saga.messages import InvalidMessage, content_fingerprint, parse
from saga.model import ErrorClass, Saga
from saga.policy import Policy


def decide(saga: Saga, _fact: Fact | None, policy: Policy) -> Action:
    """Valid, above the criterion, and first for its model: go on. SIDE EFFECTS: none."""
    try:
        message = parse(saga.message, max_bytes=policy.max_message_bytes)
    except InvalidMessage as error:
        return Fail(ErrorClass.INVALID, str(error))
    if message.improvement_percentage <= policy.min_improvement_percent:
        return Skip(
            ErrorClass.CRITERIA,
            f"improvement_percentage is {message.improvement_percentage:.6g}, "
            f"not above MIN_IMPROVEMENT_PERCENT {policy.min_improvement_percent:g}",
        )
    if saga.claim is None:
        return ClaimModel(message.model_id, content_fingerprint(message))
    if saga.claim == saga.id:
        return Advance(model_id=message.model_id)
    if saga.claim_same:
        reason = f"saga {saga.claim} has the same model and content"
        return Skip(ErrorClass.DUPLICATE, reason, duplicate_of=saga.claim)
    return Fail(
        ErrorClass.CONFLICT,
        f"saga {saga.claim} owns the model with another token_symbol or mlflow_run_id; "
        "a model has one token for ever",
        conflicts_with=saga.claim,
    )
