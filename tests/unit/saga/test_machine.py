import msgspec
import pytest

from saga.errors import IllegalEdgeError
from saga.machine import Guard, OutcomeName, Row
from saga.model import State
from states.table import TABLE

OUTCOMES: list[OutcomeName] = ["ok", "skip", "fail"]
EDGES = [(state, name, to) for state, row in TABLE.items() for name, to in row.edges().items()]
KNOWN = {(state, name) for state, name, _ in EDGES}
UNKNOWN = [(state, name) for state in State for name in OUTCOMES if (state, name) not in KNOWN]


@pytest.mark.parametrize(("state", "outcome", "to"), EDGES)
def test_edge(state: State, outcome: OutcomeName, to: State) -> None:
    """Every edge of the table leads where the table says."""
    assert Guard(TABLE).next_state(state, outcome) is to


@pytest.mark.parametrize(("state", "outcome"), UNKNOWN)
def test_no_edge(state: State, outcome: OutcomeName) -> None:
    """Every other pair of state and outcome raises, and the next lookup is as before."""
    guard = Guard(TABLE)
    before = [guard.next_state(left, name) for left, name, _ in EDGES]
    with pytest.raises(IllegalEdgeError, match=f"{state} has no edge '{outcome}'"):
        guard.next_state(state, outcome)
    assert guard._cursor.state == state
    assert [guard.next_state(left, name) for left, name, _ in EDGES] == before


@pytest.mark.parametrize("state", TABLE)
def test_resume(state: State) -> None:
    """A dead-lettered saga is resumed to the state that it failed in."""
    assert Guard(TABLE).resumed_state(state) is state


@pytest.mark.parametrize("state", [state for state in State if state not in TABLE])
def test_no_resume(state: State) -> None:
    """Nothing is resumed to a terminal state."""
    with pytest.raises(IllegalEdgeError):
        Guard(TABLE).resumed_state(state)


def test_nothing_else() -> None:
    """The machine has the table's edges, a resume for each row, and no others."""
    found = {(edge.source, edge.dest) for edge in Guard(TABLE).machine.get_transitions()}
    expected = {(state.value, to.value) for state, _, to in EDGES}
    expected |= {(State.DEAD_LETTERED.value, state.value) for state in TABLE}
    assert found == expected


def test_edges_without_skip() -> None:
    """A row without a skip has no such edge; a row with one has all three."""
    row = Row(TABLE[State.PUBLISHED].decide, ok=State.ACKED, fail=State.DEAD_LETTERED)
    assert row.edges() == {"ok": State.ACKED, "fail": State.DEAD_LETTERED}
    skipping = msgspec.structs.replace(row, skip=State.SKIPPED)
    assert list(skipping.edges()) == OUTCOMES
