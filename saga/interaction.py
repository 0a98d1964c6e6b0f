"""When to ask, send, watch, give up a transaction: the one pure rule of both chain steps.

    no intent ─▶ LookUp ─▶ exists: adopt │ absent: Intend ─▶ Send ─▶ Watch ─▶ mined
    intent, after a crash ─▶ Ask for its receipts ─▶ unmined: Send the same bytes ─▶ Watch
    reverted, or nonce spent by another ─▶ Abandon ─▶ LookUp

The chain is asked before anything is signed, and stored bytes are sent again, never signed again.
A fact about a transaction is worth nothing without a stored intent: then the chain is asked.
"""

from saga.actions import Abandon, Action, Ask, Fail, Intend, LookUp, Retry, Send, Watch
from saga.facts import (
    Absent,
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
    TimedOut,
    TokenExists,
    Unmined,
)
from saga.model import ErrorClass, Saga, Step

Settled = Mined | TokenExists | EntryExists | RegistryConflict | ClaimLost
"""The facts that each state judges itself."""

OfIntent = Intended | Sent | Unmined | TimedOut | Mined | Reverted | NonceTaken
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
        case Absent(call) if intent is None:
            return Intend(step, call)
        case None | Absent():
            return LookUp(step) if intent is None else Ask(step)
        case Intended() | Unmined():
            return Send(step)
        case Sent():
            return Watch(step)
        case TimedOut(seconds):
            return Retry(f"no receipt within {seconds:g} s; the same bytes are sent again")
        case Reverted(tx_hash):
            return Abandon(step, f"transaction {tx_hash} reverted", counts=True)
        case NonceTaken(nonce):
            reason = f"nonce {nonce} was spent by a transaction that is not this saga's"
            return Abandon(step, reason, counts=False)
