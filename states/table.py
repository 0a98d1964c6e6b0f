"""Every edge of the saga's state machine. If it changes what may follow what, it is here.

A row is named for the state being left: `decide` chooses an outcome, the row says where it leads.
ACKED and SKIPPED have no row: nothing leaves them. DEAD_LETTERED is left only by a resume, to the
state that it failed in (`saga.machine.Guard`).
"""

from collections.abc import Mapping
from types import MappingProxyType

from saga.machine import Row
from saga.model import State
from states import published, received, registered, token_deployed, validated

TABLE: Mapping[State, Row] = MappingProxyType(
    {
        State.RECEIVED: Row(
            received.decide, ok=State.VALIDATED, skip=State.SKIPPED, fail=State.DEAD_LETTERED
        ),
        State.VALIDATED: Row(validated.decide, ok=State.TOKEN_DEPLOYED, fail=State.DEAD_LETTERED),
        State.TOKEN_DEPLOYED: Row(
            token_deployed.decide, ok=State.REGISTERED, fail=State.DEAD_LETTERED
        ),
        State.REGISTERED: Row(registered.decide, ok=State.PUBLISHED, fail=State.DEAD_LETTERED),
        State.PUBLISHED: Row(published.decide, ok=State.ACKED, fail=State.DEAD_LETTERED),
    }
)
