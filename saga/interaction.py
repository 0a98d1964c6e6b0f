"""When to ask, send, watch, give up a transaction: the one pure rule of both chain steps.

    no intent ─▶ LookUp ─▶ exists: adopt │ absent: Intend ─▶ Send ─▶ Watch ─▶ mined
                                           (with the registration right behind the deployment)
    intent, after a crash ─▶ Ask for its receipts ─▶ unmined: Send the same bytes ─▶ Watch
    reverted, nonce spent by another, or a lane that cannot pay ─▶ Abandon ─▶ LookUp

The chain is asked before anything is signed, and stored bytes are sent again, never signed again.
A fact about a transaction is worth nothing without a stored intent: then the chain is asked.
"""

from saga.actions import Abandon, Action, Ask, Fail, Intend, LookUp, Retry, Send, Watch
from saga.facts import (
    Absent,
    Cancelled,
    ClaimLost,
    EntryExists,
    Fact,
    Intended,
    Mined,
    NonceTaken,
    Refused,
    RegistryConflict,
    Reverted,
    Sent,
    Stranded,
    TimedOut,
    TokenExists,
    Unmined,
)
from saga.model import ErrorClass, Saga, Step

Settled = Mined | TokenExists | EntryExists | RegistryConflict | ClaimLost
"""The facts that each state judges itself."""

OfIntent = (
    Intended | Sent | Unmined | TimedOut | Mined | Reverted | NonceTaken | Cancelled | Stranded
)
"""The facts that only a stored intent can give rise to."""


def pursue(saga: Saga, step: Step, fact: Fact | None) -> Action | Settled:
    """The next action of a chain step, or the fact that settles it. SIDE EFFECTS: none."""
    intent = saga.intent(step)
    if intent is None and isinstance(fact, OfIntent):
        return LookUp(step)
    match fact:
        case Mined() | TokenExists() | EntryExists() | RegistryConflict() | ClaimLost():
            return fact
        case Refused(reason):
            return Fail(ErrorClass.REVERTED, reason)
        case Absent(call, follow) if intent is None:
            # A registration may be out already, of a deployment that came to nothing.
            behind = step is Step.DEPLOY and saga.register is None
            return Intend(step, call, follow if behind else None)
        case None | Absent():
            return LookUp(step) if intent is None else Ask(step)
        case Intended() | Unmined():
            return Send(step)
        case Sent():
            return Watch(step)
        case TimedOut(seconds):
            return Retry(f"no receipt within {seconds:g} s; the same bytes are sent again")
        case Reverted() | NonceTaken() | Stranded():
            return _abandoned(saga, step, fact)
        case Cancelled(tx_hash, cost):
            reason = f"cancelled by an operator's transaction {tx_hash}"
            forget = (Step.DEPLOY, Step.REGISTER) if step is Step.DEPLOY else (step,)
            return Fail(ErrorClass.CANCELLED, reason, forget=forget, cost=cost)


def _abandoned(saga: Saga, step: Step, fact: Reverted | NonceTaken | Stranded) -> Abandon:
    """The intent comes to nothing, and the chain is asked anew."""
    match fact:
        case Reverted():
            return _reverted(saga, step, fact)
        case NonceTaken(nonce, cost):
            reason = f"nonce {nonce} was spent by a transaction that is not this saga's"
            return Abandon(step, reason, counts=False, cost=cost)
        case Stranded(reason):
            return Abandon(step, reason, counts=False, leave=True)


def _reverted(saga: Saga, step: Step, fact: Reverted) -> Abandon:
    """A registration that was mined before its token was there had to revert: it went out behind a
    deployment which came to nothing. That is no failed try. A later one is."""
    reason = f"transaction {fact.tx_hash} reverted"
    if step is Step.REGISTER and _before_its_token(saga, fact.block_number):
        reason = f"{reason}: the token was not there yet"
        return Abandon(step, reason, counts=False, cost=fact.cost)
    return Abandon(step, reason, counts=True, cost=fact.cost)


def _before_its_token(saga: Saga, block_number: int) -> bool:
    deployment, deploy, register = saga.deployment, saga.deploy, saga.register
    if deployment is None:
        return False
    deployed_in = deployment.receipt.block_number
    if block_number != deployed_in:
        return block_number < deployed_in
    # In one block a signer's transactions are in the order of their nonces.
    if deploy is None or register is None or deploy.sender != register.sender:
        return False
    return deploy.nonce > register.nonce
