"""The guard: a `transitions` machine built from the table, which refuses every other edge.

The machine does no I/O and keeps no saga. The store is written first; memory follows.
"""

from collections.abc import Callable, Mapping
from typing import Literal

import msgspec
from transitions import Machine, MachineError

from saga.actions import Action
from saga.errors import IllegalEdgeError
from saga.facts import Fact
from saga.model import Saga, State
from saga.policy import Policy

Decide = Callable[[Saga, Fact | None, Policy], Action]
OutcomeName = Literal["ok", "skip", "fail"]


class Row(msgspec.Struct, frozen=True):
    """One state: who decides in it, and where each outcome leads. None: no such edge."""

    decide: Decide
    ok: State
    fail: State
    skip: State | None = None

    def edges(self) -> dict[OutcomeName, State]:
        named: dict[OutcomeName, State | None] = {
            "ok": self.ok,
            "skip": self.skip,
            "fail": self.fail,
        }
        return {outcome: state for outcome, state in named.items() if state is not None}


Table = Mapping[State, Row]


class _Cursor:
    """The model that the shared machine steps; set before each use."""

    state: str


class Guard:
    """Answers where an outcome leads. Built once; a lookup takes some microseconds."""

    def __init__(self, table: Table) -> None:
        self._cursor = _Cursor()
        transitions = [
            {"trigger": outcome, "source": state.value, "dest": dest.value}
            for state, row in table.items()
            for outcome, dest in row.edges().items()
        ]
        # A dead-lettered saga goes back to the state it failed in: an edge of its own for each.
        transitions += [
            {
                "trigger": f"resume_{state.value}",
                "source": State.DEAD_LETTERED.value,
                "dest": state.value,
            }
            for state in table
        ]
        self.machine = Machine(
            model=self._cursor,
            states=[state.value for state in State],
            initial=State.RECEIVED.value,
            transitions=transitions,
            auto_transitions=False,
        )

    def next_state(self, state: State, outcome: OutcomeName) -> State:
        """Where `outcome` leads from `state`. Raises IllegalEdgeError and changes nothing."""
        return self._step(state, outcome)

    def resumed_state(self, failed_in: State) -> State:
        """Where a dead-lettered saga is resumed to. Raises IllegalEdgeError."""
        return self._step(State.DEAD_LETTERED, f"resume_{failed_in.value}")

    def _step(self, state: State, trigger: str) -> State:
        self.machine.set_state(state.value, self._cursor)
        try:
            self._cursor.trigger(trigger)  # type: ignore[attr-defined]  # added by transitions
        except (MachineError, AttributeError) as error:
            raise IllegalEdgeError(f"{state} has no edge '{trigger}'") from error
        return State(self._cursor.state)
