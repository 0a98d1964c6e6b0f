import pytest

from saga.machine import OutcomeName
from saga.model import State
from states.table import TABLE

EDGES: list[tuple[State, OutcomeName, State]] = [
    (State.RECEIVED, "ok", State.VALIDATED),
    (State.RECEIVED, "skip", State.SKIPPED),
    (State.RECEIVED, "fail", State.DEAD_LETTERED),
    (State.VALIDATED, "ok", State.TOKEN_DEPLOYED),
    (State.VALIDATED, "fail", State.DEAD_LETTERED),
    (State.TOKEN_DEPLOYED, "ok", State.REGISTERED),
    (State.TOKEN_DEPLOYED, "fail", State.DEAD_LETTERED),
    (State.REGISTERED, "ok", State.PUBLISHED),
    (State.REGISTERED, "fail", State.DEAD_LETTERED),
    (State.PUBLISHED, "ok", State.ACKED),
    (State.PUBLISHED, "fail", State.DEAD_LETTERED),
]


def test_edges() -> None:
    """The table has these edges and no others."""
    found = [(state, name, to) for state, row in TABLE.items() for name, to in row.edges().items()]
    assert found == EDGES


def test_rows() -> None:
    """A state has a row if and only if it is not terminal."""
    assert set(TABLE) == {state for state in State if not state.terminal}


def test_one_way() -> None:
    """Each state is reached from exactly one other by `ok`, so that no step can be gone round."""
    entered = [row.ok for row in TABLE.values()]
    assert len(entered) == len(set(entered))
    assert State.RECEIVED not in entered


def test_own_decide() -> None:
    """A row decides with the function of the file named for its state."""
    for state, row in TABLE.items():
        assert row.decide.__module__ == f"states.{state.lower()}"


def test_frozen() -> None:
    """Nobody can add an edge at run time."""
    with pytest.raises(TypeError):
        TABLE[State.ACKED] = TABLE[State.PUBLISHED]  # type: ignore[index]
