"""What an outcome writes: results, errors, effects. Pure."""

import msgspec

from saga.actions import Advance, Fail, Outcome, Skip
from saga.costs import charged, leaving, receipt_cost
from saga.model import Deployment, Intent, Registration, Saga, Step
from saga.ports import Change
from saga.redaction import kept


def change_of(saga: Saga, action: Outcome) -> Change:
    """The saga as it is to be, and what goes with it; its reasons as kept. SIDE EFFECTS: none."""
    match action:
        case Advance():
            result = action.deployment or action.registration
            after = msgspec.structs.replace(
                _paid(saga, result),
                model_id=action.model_id or saga.model_id,
                deployment=action.deployment or saga.deployment,
                registration=action.registration or saga.registration,
                deploy=_confirmed(saga.deploy) if action.deployment else saga.deploy,
                register=_confirmed(saga.register) if action.registration else saga.register,
                error=None,
            )
            return Change(
                saga=after,
                note=action.note and kept(action.note),
                tx=None if result is None else result.receipt.tx_hash,
                event=action.event,
                ack=action.ack,
            )
        case Skip(error_class, said, duplicate_of):
            reason = kept(said)
            after = msgspec.structs.replace(
                saga, error=reason, error_class=error_class.value, duplicate_of=duplicate_of
            )
            return Change(saga=after, note=reason, ack=True)
        case Fail(error_class, said, forget, cost, conflicts_with):
            reason = kept(said)
            # The first step's nonce is spent; what was sent behind it may still be out.
            left = tuple(i for step in forget[1:] if (i := saga.intent(step)) is not None)
            after = msgspec.structs.replace(
                leaving(charged(saga, cost), left),
                error=reason,
                error_class=error_class.value,
                conflicts_with=conflicts_with,
                deploy=None if Step.DEPLOY in forget else saga.deploy,
                register=None if Step.REGISTER in forget else saga.register,
            )
            return Change(saga=after, note=reason, ack=True, dead_letter=True, left=left)


def left_behind(saga: Saga, step: Step) -> tuple[Intent, ...]:
    """What a saga leaves in a lane that it gives up: the step's intent, and with a deployment's
    that of the registration which was sent right behind it."""
    intent, follow = saga.intent(step), saga.register
    if intent is None:
        return ()
    if step is not Step.DEPLOY or follow is None:
        return (intent,)
    behind = (follow.sender, follow.nonce) == (intent.sender, intent.nonce + 1)
    return (intent, follow) if behind else (intent,)


def _paid(saga: Saga, result: Deployment | Registration | None) -> Saga:
    if result is None or result.adopted:
        return saga
    return charged(saga, receipt_cost(result.receipt))


def _confirmed(intent: Intent | None) -> Intent | None:
    """The intent without the signed bytes, which nobody needs any more."""
    if intent is None:
        return None
    attempts = tuple(msgspec.structs.replace(attempt, raw="") for attempt in intent.attempts)
    return msgspec.structs.replace(intent, attempts=attempts)
