"""VALIDATED → TOKEN_DEPLOYED: bring the model's one token into being, or find it.

Fails to DEAD_LETTERED when the chain holds the model's token with other content, another saga took
the model over, or the chain refuses the call for good. Crash-safe: signed bytes are stored before
they are sent, and the chain is asked before anything is signed.
"""

from saga.actions import Action, Advance, Fail
from saga.costs import owned
from saga.facts import ClaimLost, EntryExists, Fact, Mined, RegistryConflict, TokenExists
from saga.interaction import pursue
from saga.messages import InvalidMessage, parse, token_name
from saga.model import Deployment, ErrorClass, Saga, Step
from saga.policy import Policy


def decide(saga: Saga, fact: Fact | None, policy: Policy) -> Action:
    """Deploy once, adopt what is there, never replace it. SIDE EFFECTS: none."""
    found = pursue(saga, Step.DEPLOY, fact)
    match found:
        case Mined(receipt):
            intent = saga.deploy
            assert intent is not None  # noqa: S101 - only an intent can be mined
            return Advance(deployment=Deployment(token=intent.predicted, receipt=receipt))
        case TokenExists():
            return _adopt(saga, found, policy)
        case ClaimLost(holder):
            return Fail(
                ErrorClass.CONFLICT,
                f"saga {holder} took the model over before this one had sent anything",
                conflicts_with=holder,
            )
        case RegistryConflict(reason):
            return Fail(ErrorClass.REGISTRY_CONFLICT, reason)
        case EntryExists():
            return Fail(ErrorClass.REGISTRY_CONFLICT, "an entry was reported for a deployment")
        case action:
            return action


def _adopt(saga: Saga, found: TokenExists, policy: Policy) -> Action:
    try:
        message = parse(saga.message, max_bytes=policy.max_message_bytes)
    except InvalidMessage as error:
        return Fail(ErrorClass.INVALID, f"the stored message is no longer accepted: {error}")
    differing = [
        f"{field} {theirs!r} instead of {ours!r}"
        for field, theirs, ours in (
            ("name", found.name, token_name(message.model_id)),
            ("symbol", found.symbol, message.token_symbol),
            ("mlflow_run_id", found.mlflow_run_id, message.mlflow_run_id),
        )
        if theirs != ours
    ]
    if differing:
        return Fail(
            ErrorClass.CONFLICT,
            f"the chain holds token {found.deployment.token} for this model with "
            f"{', '.join(differing)}; a model has one token for ever",
        )
    deployment = owned(saga, found.deployment)
    if not deployment.adopted:
        return Advance(deployment=deployment, note="what was left to the lane was mined after all")
    return Advance(deployment=deployment, note="adopted: the chain held the token already")
