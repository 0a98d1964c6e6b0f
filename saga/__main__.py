"""Entry point of `saga` and `saga-resume`.

Other projects on the public index own the names `adapters` and `states`. Before anything of ours
is imported, this checks that all three packages lie side by side.
"""

import sys
from importlib.util import find_spec
from pathlib import Path


def _misplaced() -> list[str]:
    root = Path(__file__).resolve().parents[1]
    wrong = []
    for name in ("saga", "states", "adapters"):
        spec = find_spec(name)
        where = None if spec is None or spec.origin is None else Path(spec.origin).resolve()
        if where is None or where.parents[1] != root:
            wrong.append(f"the package '{name}' was found at {where}, not beside {root / 'saga'}")
    return wrong


def _start(arguments: list[str]) -> None:
    wrong = _misplaced()
    if wrong:
        sys.stderr.write("\n".join(wrong) + "\nuninstall what owns that name, or set PYTHONPATH\n")
        sys.exit(2)
    from saga.cli.main import cli  # noqa: PLC0415 - after the check

    cli(arguments)


def main() -> None:
    """`saga …`."""
    _start(sys.argv[1:])


def resume() -> None:
    """`saga-resume …` is `saga resume …`."""
    _start(["resume", *sys.argv[1:]])


if __name__ == "__main__":
    main()
