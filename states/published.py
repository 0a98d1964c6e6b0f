"""PUBLISHED → ACKED: remove the source message, in the same write as the move.

Never fails by itself; DEAD_LETTERED is there for an operator's tampering. Crash-safe: removal and
state change together or not at all.
"""

from saga.actions import Action, Advance
from saga.facts import Fact
from saga.model import Saga
from saga.policy import Policy


def decide(_saga: Saga, _fact: Fact | None, _policy: Policy) -> Action:
    """The event is out: acknowledge. SIDE EFFECTS: none."""
    return Advance(ack=True)
