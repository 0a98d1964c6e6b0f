"""What an outcome writes: results, errors, effects. Pure."""

import msgspec

from saga.actions import Advance, Fail, Outcome, Skip
from saga.model import Intent, Saga, Step
from saga.ports import Change


def change_of(saga: Saga, action: Outcome) -> Change:
    """The saga as it is to be, and what goes with it. SIDE EFFECTS: none."""
    match action:
        case Advance():
            receipt = None
            if action.deployment is not None:
                receipt = action.deployment.receipt
            elif action.registration is not None:
                receipt = action.registration.receipt
            after = msgspec.structs.replace(
                saga,
                model_id=action.model_id or saga.model_id,
                deployment=action.deployment or saga.deployment,
                registration=action.registration or saga.registration,
                deploy=_confirmed(saga.deploy) if action.deployment else saga.deploy,
                register=_confirmed(saga.register) if action.registration else saga.register,
                error=None,
            )
            return Change(
                saga=after,
                note=action.note,
                tx=None if receipt is None else receipt.tx_hash,
                event=action.event,
                ack=action.ack,
            )
        case Skip(error_class, reason):
            after = msgspec.structs.replace(saga, error=reason, error_class=error_class.value)
            return Change(saga=after, note=reason, ack=True)
        case Fail(error_class, reason, forget):
            after = msgspec.structs.replace(
                saga,
                error=reason,
                error_class=error_class.value,
                deploy=None if Step.DEPLOY in forget else saga.deploy,
                register=None if Step.REGISTER in forget else saga.register,
            )
            # The first step's nonce is spent; what was sent behind it may still be out.
            left = tuple(i for step in forget[1:] if (i := saga.intent(step)) is not None)
            return Change(saga=after, note=reason, ack=True, dead_letter=True, left=left)


def _confirmed(intent: Intent | None) -> Intent | None:
    """The intent without the signed bytes, which nobody needs any more."""
    if intent is None:
        return None
    attempts = tuple(msgspec.structs.replace(attempt, raw="") for attempt in intent.attempts)
    return msgspec.structs.replace(intent, attempts=attempts)
