"""The picture of the saga, drawn from the table of edges as Mermaid.

`python -m saga.diagram` writes it to `docs/state-diagrams`, `--check` fails when it is stale.

SIDE EFFECTS: main() reads and writes files there; the rest none.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from saga.machine import Row, Table
from saga.model import State

DIRECTORY: Final = Path(__file__).resolve().parents[1] / "docs" / "state-diagrams"
MMD: Final = "saga.mmd"
PAGE: Final = "README.md"
MARKS: Final = ("<!-- diagram -->\n", "<!-- /diagram -->\n")
STYLES: Final = {
    State.ACKED: "fill:#d5f0d5,stroke:#2b7a2b,color:#000",
    State.SKIPPED: "fill:#fff3c4,stroke:#a07800,color:#000",
    State.DEAD_LETTERED: "fill:#f8d3d3,stroke:#a02020,color:#000",
}


def draw(table: Table) -> str:
    """The Mermaid source: every edge by its outcome, every resume, the file in each state's box."""
    lines = ["stateDiagram-v2", "    direction TB", f"    [*] --> {State.RECEIVED}"]
    for state, row in table.items():
        lines += [f"    {state} : {state}", f"    {state} : {source(row)}"]
    lines += [f"    {left} --> {entered} : {label}" for left, label, entered in edges(table)]
    for state in State:
        if state not in table and state is not State.DEAD_LETTERED:
            lines.append(f"    {state} --> [*]")
    for state, style in STYLES.items():
        lines += [f"    classDef {state.lower()} {style}", f"    class {state} {state.lower()}"]
    return "\n".join(lines) + "\n"


def edges(table: Table) -> list[tuple[State, str, State]]:
    """Every edge there is: the state left, the outcome or `resume`, the state entered."""
    found: list[tuple[State, str, State]] = [
        (state, outcome, dest)
        for state, row in table.items()
        for outcome, dest in row.edges().items()
    ]
    return found + [(State.DEAD_LETTERED, "resume", state) for state in table]


def source(row: Row) -> str:
    """The file that decides, from the repository's root."""
    return row.decide.__module__.replace(".", "/") + ".py"


def section(table: Table) -> str:
    """What stands between the marks of the page: the diagram, and a link to each state's file."""
    lines = ["```mermaid", draw(table).rstrip(), "```", ""]
    lines += ["| in state | decides | `ok` | `skip` | `fail` |", "| --- | --- | --- | --- | --- |"]
    for state, row in table.items():
        cells = [f"`{state}`", f"[`{source(row)}`](../../{source(row)})"]
        to = row.edges()
        cells += [f"`{to[name]}`" if name in to else "" for name in ("ok", "skip", "fail")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def placed(page: str, text: str) -> str:
    """The page with its generated section replaced. Raises ValueError when it has no marks."""
    head, begin, rest = page.partition(MARKS[0])
    _, end, tail = rest.partition(MARKS[1])
    if not (begin and end):
        raise ValueError(f"{PAGE} lacks the marks {MARKS[0].strip()} and {MARKS[1].strip()}")
    return head + begin + text + end + tail


def main(table: Table, arguments: Sequence[str], directory: Path = DIRECTORY) -> int:
    """Write the files, or compare them; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m saga.diagram", description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail on a difference, write nothing")
    check = parser.parse_args(arguments).check
    page = (directory / PAGE).read_text("utf-8")
    wanted = {MMD: draw(table), PAGE: placed(page, section(table))}
    stale = [name for name, text in wanted.items() if _read(directory / name) != text]
    if check and stale:
        sys.stderr.write(f"docs/state-diagrams: {', '.join(stale)} stale; run `make diagrams`\n")
        return 1
    for name in stale:
        (directory / name).write_text(wanted[name], "utf-8")
    return 0


def _read(path: Path) -> str | None:
    return path.read_text("utf-8") if path.is_file() else None


if __name__ == "__main__":
    from states.table import TABLE  # here alone, so that importing this module needs no state

    sys.exit(main(TABLE, sys.argv[1:]))
