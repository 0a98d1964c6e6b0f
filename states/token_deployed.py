"""TOKEN_DEPLOYED → REGISTERED: enter the token in the registry, or find it there.

Fails to DEAD_LETTERED when the registry holds another token for the model, or refuses the call for
good. Crash-safe as the deployment: stored before sent, asked before signed.
"""

from saga.actions import Action, Advance, Fail
from saga.costs import owned
from saga.facts import ClaimLost, EntryExists, Fact, Mined, RegistryConflict, TokenExists
from saga.interaction import pursue
from saga.model import ErrorClass, Registration, Saga, Step
from saga.policy import Policy


def decide(saga: Saga, fact: Fact | None, _policy: Policy) -> Action:
    """Register once; adopt an entry of our own token that another made. SIDE EFFECTS: none."""
    found = pursue(saga, Step.REGISTER, fact)
    match found:
        case Mined(receipt):
            return Advance(registration=Registration(receipt=receipt))
        case EntryExists(registration):
            registration = owned(saga, registration)
            note = "what was left to the lane was mined after all"
            if registration.adopted:
                note = "adopted: the registry held the entry already"
            return Advance(registration=registration, note=note)
        case RegistryConflict(reason):
            return Fail(ErrorClass.REGISTRY_CONFLICT, reason)
        case ClaimLost(holder):
            reason = f"saga {holder} owns the model"
            return Fail(ErrorClass.CONFLICT, reason, conflicts_with=holder)
        case TokenExists():
            return Fail(ErrorClass.REGISTRY_CONFLICT, "a token was reported for a registration")
        case action:
            return action
