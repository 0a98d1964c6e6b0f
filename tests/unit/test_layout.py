"""What the folders promise: one page, one row, one file for each thing that has a name."""

import ast
import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from adapters.redis_keys import RedisKeys
from saga import settings_table
from saga.config import Settings
from saga.model import State
from states.table import TABLE

ROOT = Path(__file__).resolve().parents[2]
OURS = ("saga", "states", "adapters")
MODULES = sorted(path for name in OURS for path in (ROOT / name).rglob("*.py"))
SCRIPTS = sorted((ROOT / "adapters" / "lua").glob("*.lua"))
KEYS_FILE = ROOT / "adapters" / "redis_keys.py"
MODULE_LINES = 300
STATE_LINES = 80
LONGER: dict[str, int] = {}
"""Modules over the budget, and how long they may be: a number here may only go down."""


def ident(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def lines(path: Path) -> int:
    return len(path.read_text("utf-8").splitlines())


@pytest.mark.parametrize("state", TABLE)
def test_docstring_is_row(state: State) -> None:
    """A state's file begins with its row: the state being left → where `ok` leads."""
    path = ROOT / "states" / f"{state.lower()}.py"
    docstring = ast.get_docstring(ast.parse(path.read_text("utf-8")))
    assert docstring is not None
    assert docstring.startswith(f"{state} → {TABLE[state].ok}: ")


def test_files_are_rows() -> None:
    """Each file of `states` is a row of the table, but for the table itself."""
    files = {path.stem for path in (ROOT / "states").glob("*.py")} - {"__init__", "table"}
    assert files == {state.lower() for state in TABLE}


def test_tests_are_packages() -> None:
    """Every folder of tests is a package, or `states` would mean the folder of its tests."""
    folders = {path.parent for path in (ROOT / "tests").rglob("*.py")}
    assert [ident(folder) for folder in folders if not (folder / "__init__.py").is_file()] == []


@pytest.mark.parametrize("name", OURS)
def test_inits_are_empty(name: str) -> None:
    """Importing one of our packages runs nothing."""
    assert [ident(path) for path in (ROOT / name).rglob("__init__.py") if path.read_bytes()] == []


def test_no_strangers() -> None:
    """No other distribution that is installed here owns one of our names."""
    owners = packages_distributions()
    for name in OURS:
        assert set(owners.get(name, [])) <= {"contract-deploy-listener"}


@pytest.mark.parametrize("path", MODULES, ids=ident)
def test_line_budget(path: Path) -> None:
    """A state has at most 80 lines, any other module 300, and what is longer never grows."""
    name = ident(path)
    limit = STATE_LINES if name.startswith("states/") else LONGER.get(name, MODULE_LINES)
    assert lines(path) <= limit


def test_budget_exceptions_needed() -> None:
    """A module that is back within the budget is no exception any more."""
    assert [name for name in LONGER if lines(ROOT / name) <= MODULE_LINES] == []


def test_modules_have_a_layer() -> None:
    """Every module of `saga` has a place in the import contract of layers."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]
    (layers,) = [c["layers"] for c in contracts["contracts"] if c["type"] == "layers"]
    placed = {name for layer in layers for name in re.split(r"[ |:]+", layer)}
    modules = {f"saga.{path.stem}" for path in (ROOT / "saga").glob("*.py")} - {"saga.__init__"}
    assert sorted(modules - placed) == []


def key_parts() -> set[str]:
    """What RedisKeys puts around ids and names."""
    lists = {"inbound": "", "processing": "", "outbound": "", "dead_letters": ""}
    keys = RedisKeys(**lists, prefix="")
    built = [
        keys.history("\n"),
        keys.due,
        keys.index_prefix,
        keys.claim("\n"),
        keys.sagas_of("\n"),
        keys.event("\n"),
        keys.republishing("\n"),
        keys.operation("\n"),
        keys.price("\n"),
        keys.pause,
        keys.probe,
        keys.alert("\n", "\n"),
        keys.nonce(0, "\n", 0),
    ]
    parts = {part for key in built for part in re.split(r"\n|0:|0$", key)}
    return {part for part in parts if part.strip(":")}


def strings(path: Path) -> Iterator[str]:
    """The string constants of a module without its docstrings, those inside f-strings included."""
    tree = ast.parse(path.read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value.value = None
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_key_parts_known() -> None:
    """The parts that the next test looks for are those that keys are made of."""
    parts = {
        "id:",
        ":history",
        "due",
        "state:",
        "model:",
        "sagas-of:",
        "event:",
        "republish:",
        "operation:",
        "lane:",
        ":nonce:",
        "price:",
        "alert:",
        "pause",
        "probe",
    }
    assert key_parts() == parts


@pytest.mark.parametrize("path", [path for path in MODULES if path != KEYS_FILE], ids=ident)
def test_keys_in_one_file(path: Path) -> None:
    """No module but adapters/redis_keys.py spells a key or a part of one."""
    parts = {part for part in key_parts() if ":" in part}
    default = path.name == "config.py"  # its defaults name the lists and the prefix
    for text in strings(path):
        assert text not in parts
        assert default or "hokusai:" not in text


@pytest.mark.parametrize("path", [path for path in MODULES if path != KEYS_FILE], ids=ident)
def test_commands_take_built_keys(path: Path) -> None:
    """No Redis command in Python is given a key that is spelled out."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call) and re.match(
            r"(self\._client|self\._blocking|pipe|redis|client)\.\w+$", ast.unparse(node.func)
        ):
            for argument in node.args[:1]:
                assert not isinstance(argument, ast.Constant | ast.JoinedStr), ast.unparse(node)


@pytest.mark.parametrize("path", SCRIPTS, ids=ident)
def test_scripts_are_given_keys(path: Path) -> None:
    """No script spells a key: each comes in as one of KEYS, or below a prefix in ARGV."""
    text = re.sub(r"--.*", "", path.read_text("utf-8"))
    assert re.findall(r"redis\.call\('\w+',\s*['\"]", text) == []
    spelled = set(re.findall(r"'([^']*)'", text))
    assert spelled.isdisjoint(part for part in key_parts() if ":" in part)


def test_settings_in_readme(capsys: pytest.CaptureFixture[str]) -> None:
    """The README's table of settings is the one that the settings give."""
    status = settings_table._main(["--check"])
    assert (status, capsys.readouterr().err) == (0, "")
    readme = (ROOT / "README.md").read_text("utf-8")
    assert [name for name in Settings.model_fields if f"| `{name}` |" not in readme] == []


WALL_CLOCKS = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.today"}
TELL_THE_TIME = {
    "adapters/alerts.py": "when an alert was signed",
    "adapters/otel.py": "when spans begin and end",
    "adapters/redis_codec.py": "when a dead letter was written",
}
"""Modules that may read this machine's clock, and for what: nothing is decided by it."""


@pytest.mark.parametrize("path", MODULES, ids=ident)
def test_no_decision_by_the_wall_clock(path: Path) -> None:
    """A clock that jumps changes no lease, wait, bump or timeout: those go by the server's time
    and by the monotonic clock."""
    read = {
        ast.unparse(node)
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Attribute)
    }
    assert not read & WALL_CLOCKS or ident(path) in TELL_THE_TIME
