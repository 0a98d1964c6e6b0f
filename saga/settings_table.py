"""The README's table of settings, from their declarations.

`python -m saga.settings_table` writes it, `--check` compares it.
"""

import sys
from pathlib import Path

from saga.config import Settings


def settings_table() -> str:
    """The README's table of settings, as Markdown."""
    rows = ["| setting | default | what |", "| --- | --- | --- |"]
    for name, field in Settings.model_fields.items():
        default = "**required**" if field.is_required() else _shown(field.default)
        rows.append(f"| `{name}` | {default} | {field.description} |")
    return "\n".join(rows) + "\n"


def _shown(default: object) -> str:
    if default is None or default == "":
        return ""
    if isinstance(default, bool):
        default = str(default).lower()
    if isinstance(default, float) and default.is_integer():
        default = int(default)
    return f"`{default}`"


_MARKS = ("<!-- settings -->\n", "<!-- /settings -->")


def _main(arguments: list[str]) -> int:
    readme = Path(__file__).resolve().parents[1] / "README.md"
    text = readme.read_text("utf-8")
    head, rest = text.split(_MARKS[0])
    old, tail = rest.split(_MARKS[1])
    if "--check" in arguments:
        if old == settings_table():
            return 0
        sys.stderr.write("README.md: the table of settings is stale; run `make settings`\n")
        return 1
    readme.write_text(head + _MARKS[0] + settings_table() + _MARKS[1] + tail, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
