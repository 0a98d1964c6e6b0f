import re
from pathlib import Path

import msgspec
import pytest

from saga import diagram
from saga.machine import Guard
from saga.model import State
from states.table import TABLE

ARROW = re.compile(r"^    (\w+) --> (\w+) : (\w+)$", re.MULTILINE)
EMPTY = f"before\n{''.join(diagram.MARKS)}after\n"


def test_every_edge() -> None:
    """The picture has each edge that the guard has, and no other."""
    drawn = {(left, entered) for left, entered, _ in ARROW.findall(diagram.draw(TABLE))}
    guard = Guard(TABLE).machine.get_transitions()
    assert drawn == {(edge.source, edge.dest) for edge in guard}


def test_labels() -> None:
    """Each edge is labelled with its outcome, and those of a dead letter with `resume`."""
    for left, entered, label in ARROW.findall(diagram.draw(TABLE)):
        if left == State.DEAD_LETTERED:
            assert label == "resume"
        else:
            assert TABLE[State(left)].edges()[label] == entered


def test_follows_table() -> None:
    """An edge taken out of the table is out of the picture."""
    row = msgspec.structs.replace(TABLE[State.RECEIVED], skip=None)
    assert ": skip" not in diagram.draw({**TABLE, State.RECEIVED: row})


def test_ends() -> None:
    """The picture begins at RECEIVED and ends at the states that nothing leaves."""
    drawn = diagram.draw(TABLE)
    assert re.findall(r"\[\*\] --> (\w+)", drawn) == ["RECEIVED"]
    assert re.findall(r"(\w+) --> \[\*\]", drawn) == ["ACKED", "SKIPPED"]


def test_links() -> None:
    """The section links each row to a file that exists."""
    links = re.findall(r"\]\((\S+)\)", diagram.section(TABLE))
    assert len(links) == len(TABLE)
    assert all((diagram.DIRECTORY / link).is_file() for link in links)


def test_placed() -> None:
    """Only what stands between the marks is replaced, and placing twice changes nothing."""
    page = diagram.placed(EMPTY, "new\n")
    assert page == EMPTY.replace(diagram.MARKS[0], diagram.MARKS[0] + "new\n")
    assert diagram.placed(page, "new\n") == page


def test_no_marks() -> None:
    """A page without marks is refused, not overwritten."""
    with pytest.raises(ValueError, match="lacks the marks"):
        diagram.placed("before\n", "new\n")


def test_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A check names what is stale in one line and writes nothing; after a run it passes."""
    (tmp_path / diagram.PAGE).write_text(EMPTY, "utf-8")
    assert diagram.main(TABLE, ["--check"], tmp_path) == 1
    assert capsys.readouterr().err.splitlines() == [
        "docs/state-diagrams: saga.mmd, README.md stale; run `make diagrams`"
    ]
    assert (tmp_path / diagram.PAGE).read_text("utf-8") == EMPTY
    assert diagram.main(TABLE, [], tmp_path) == 0
    assert diagram.main(TABLE, ["--check"], tmp_path) == 0
    assert capsys.readouterr().err == ""


def test_current() -> None:
    """The pictures in the repository are those of the table."""
    assert diagram.main(TABLE, ["--check"]) == 0
