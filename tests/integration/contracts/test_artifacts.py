import json
import re
import shutil
import subprocess
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from adapters.embedded import EmbeddedAnvil, node_path
from tests.integration.contracts.chain import CONTRACTS, Chain, artifact

NAMES = ("HokusaiToken", "ModelRegistry", "TokenManager")
COMPILED = ("compile.mjs", "package.json", "src", "artifacts")
# https://eips.ethereum.org/EIPS/eip-170
MAX_RUNTIME_BYTES = 24_576

Result = tuple[int, list[str]]


def compile_contracts(folder: Path, *args: str, cwd: Path | None = None) -> Result:
    """Exit code and lines of compile.mjs, errors first."""
    done = subprocess.run(
        [node_path(), str(folder / "compile.mjs"), *args],
        cwd=cwd or folder,
        capture_output=True,
        text=True,
        timeout=100,
    )
    return done.returncode, (done.stderr + done.stdout).splitlines()


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The contracts elsewhere, to be changed; the packages stay where they are."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    for name in COMPILED:
        source = CONTRACTS / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)
    (folder / "node_modules").symlink_to(CONTRACTS / "node_modules", target_is_directory=True)
    return folder


def rewrite(path: Path, change: Callable[[str], str]) -> None:
    before = path.read_text()
    after = change(before)
    assert after != before
    path.write_text(after)


def change_keys(path: Path, **changes: object) -> None:
    rewrite(path, lambda text: json.dumps({**json.loads(text), **changes}, indent=2) + "\n")


def test_fresh() -> None:
    """The committed artifacts are what the pinned compiler makes of the committed sources."""
    assert compile_contracts(CONTRACTS, "--check") == (0, [])


def test_tampered_artifacts(copy: Path) -> None:
    """A check names each artifact that is not the compiler's, and what differs in it."""
    artifacts = copy / "artifacts"
    change_keys(artifacts / "TokenManager.json", bytecode="0x00", abi=[])
    rewrite(artifacts / "HokusaiToken.json", str.rstrip)
    (artifacts / "ModelRegistry.json").unlink()
    (artifacts / "Stranger.json").write_text("{}")
    assert compile_contracts(copy, "--check") == (
        1,
        [
            "artifacts/Stranger.json: no source",
            "artifacts/HokusaiToken.json: layout differs",
            "artifacts/ModelRegistry.json: missing",
            "artifacts/TokenManager.json: abi, bytecode differs",
            "run: node contracts/compile.mjs",
        ],
    )


def test_broken_artifact(copy: Path) -> None:
    """An artifact that cannot be read is a difference, not a crash."""
    (copy / "artifacts" / "TokenManager.json").write_text("[]")
    code, lines = compile_contracts(copy, "--check")
    assert (code, lines[0]) == (1, "artifacts/TokenManager.json: not a JSON object")


def test_edited_comment(copy: Path) -> None:
    """A comment changes the source hash of what depends on the file, and no bytecode."""
    rewrite(copy / "src" / "HokusaiToken.sol", lambda text: f"{text}// a remark\n")
    code, lines = compile_contracts(copy, "--check")
    assert (code, lines[:-1]) == (
        1,
        [
            "artifacts/HokusaiToken.json: sourceHash differs",
            "artifacts/TokenManager.json: sourceHash differs",
        ],
    )


def test_edited_code(copy: Path) -> None:
    """A changed statement changes the bytecode of what depends on it."""
    rewrite(
        copy / "src" / "ModelRegistry.sol",
        lambda text: text.replace("model.active = true", "model.active = false"),
    )
    code, lines = compile_contracts(copy, "--check")
    assert (code, lines[:-1]) == (
        1,
        ["artifacts/ModelRegistry.json: sourceHash, bytecode, deployedBytecode differs"],
    )


def test_reproducible(copy: Path, tmp_path: Path) -> None:
    """Compiled in another folder, from a third one, over strangers, the bytes are the same."""
    shutil.rmtree(copy / "artifacts")
    (copy / "artifacts").mkdir()
    (copy / "artifacts" / "Stranger.json").write_text("{}")
    assert compile_contracts(copy, cwd=tmp_path)[0] == 0
    made = {path.name: path.read_bytes() for path in (copy / "artifacts").iterdir()}
    assert made == {path.name: path.read_bytes() for path in (CONTRACTS / "artifacts").iterdir()}


def test_compiler_errors(copy: Path) -> None:
    """Sources with an error are refused, and no artifact is touched."""
    rewrite(copy / "src" / "TokenManager.sol", lambda text: text.replace("tokenOf;", "tokenOf"))
    before = (copy / "artifacts" / "TokenManager.json").read_bytes()
    code, lines = compile_contracts(copy)
    assert code == 1
    assert lines[0].startswith("ParserError: ")
    assert (copy / "artifacts" / "TokenManager.json").read_bytes() == before


def test_compiler_warnings(copy: Path) -> None:
    """Sources with a warning are refused."""
    rewrite(
        copy / "src" / "ModelRegistry.sol",
        lambda text: text.replace("model.active = true;", "model.active = true; uint256 unused;"),
    )
    code, lines = compile_contracts(copy)
    assert code == 1
    assert any(line.startswith("Warning: ") for line in lines)


def test_too_large(copy: Path) -> None:
    """A contract that is too large for the chain is refused with both numbers."""
    rewrite(copy / "compile.mjs", lambda text: text.replace("24_576", "1_000"))
    size = len(artifact("HokusaiToken")["deployedBytecode"]) // 2 - 1
    assert compile_contracts(copy) == (
        1,
        [f"HokusaiToken: runtime code is {size} bytes, limit 1000"],
    )


@pytest.mark.parametrize("package", ["solc", "@openzeppelin/contracts"])
def test_other_version(copy: Path, package: str) -> None:
    """A package of another version than the pinned one compiles nothing."""
    pinned = json.loads((copy / "package.json").read_text())["devDependencies"]
    change_keys(copy / "package.json", devDependencies={**pinned, package: "0.0.1"})
    assert compile_contracts(copy) == (
        1,
        [f"{package} {pinned[package]} is installed, 0.0.1 is pinned: run npm ci"],
    )


def test_no_packages(copy: Path) -> None:
    """Without its packages the compilation says how to get them."""
    (copy / "node_modules").unlink()
    assert compile_contracts(copy) == (1, ["solc is not installed: run npm ci"])


def test_unknown_argument() -> None:
    """An argument that is not known is refused: a misspelt check must not write."""
    assert compile_contracts(CONTRACTS, "--chek") == (
        1,
        ["unknown argument --chek; there is only --check"],
    )


@pytest.mark.parametrize("name", NAMES)
def test_shape(name: str) -> None:
    """An artifact says what it was made of, with what, and fits the chain."""
    made = artifact(name)
    assert list(made) == [
        "contractName",
        "sourceName",
        "solcVersion",
        "settings",
        "sourceHash",
        "abi",
        "bytecode",
        "deployedBytecode",
    ]
    package = json.loads((CONTRACTS / "package.json").read_text())
    assert (made["contractName"], made["sourceName"]) == (name, f"src/{name}.sol")
    assert made["solcVersion"].startswith(f"{package['devDependencies']['solc']}+commit.")
    assert made["settings"]["optimizer"] == {"enabled": True, "runs": 200}
    assert made["settings"]["metadata"] == {"bytecodeHash": "none"}
    assert 0 < len(bytes.fromhex(made["deployedBytecode"][2:])) <= MAX_RUNTIME_BYTES


@pytest.mark.parametrize("name", NAMES)
def test_source_hash(name: str) -> None:
    """The source hash covers name and content of the source and all it imports, in name order."""
    digest = sha256()
    for source, content in sorted(imported(f"src/{name}.sol", {}).items()):
        for part in (source.encode(), content):
            digest.update(b"%d:" % len(part) + part)
    assert artifact(name)["sourceHash"] == digest.hexdigest()


def imported(source: str, found: dict[str, bytes]) -> dict[str, bytes]:
    """`found` with this source and everything it imports."""
    if source in found:
        return found
    root = CONTRACTS if source.startswith("src/") else CONTRACTS / "node_modules"
    found[source] = (root / source).read_bytes()
    for target in re.findall(r'^import [^;]*?"([^"]+)";', found[source].decode(), re.MULTILINE):
        imported(resolved(source, target), found)
    return found


def resolved(importer: str, target: str) -> str:
    """The name of an import as the compiler knows it."""
    if not target.startswith("."):
        return target
    parts: list[str] = []
    for part in (PurePosixPath(importer).parent / target).parts:
        if part == "..":
            parts.pop()
        else:
            parts.append(part)
    return "/".join(parts)


def test_manager_embeds_token() -> None:
    """The manager deploys the very token of the token's own artifact."""
    token = artifact("HokusaiToken")["bytecode"][2:]
    assert artifact("TokenManager")["deployedBytecode"].count(token) == 1


def test_runtime_code(anvil: EmbeddedAnvil) -> None:
    """What the node stores is the artifact's runtime code."""
    chain = Chain.at(anvil.url)
    admin = chain.account(0)
    arguments: dict[str, tuple[Any, ...]] = {
        "HokusaiToken": ("Name", "SYM", admin, admin, "model", "run"),
        "ModelRegistry": (admin,),
        "TokenManager": (admin,),
    }
    for name, given in arguments.items():
        contract, _ = chain.deploy(name, *given)
        code = chain.w3.eth.get_code(contract.address)
        assert "0x" + bytes(code).hex() == artifact(name)["deployedBytecode"]


def test_lock() -> None:
    """The lock file names no registry, and pins each package of this platform by its hash."""
    text = (CONTRACTS / "package-lock.json").read_text()
    assert "registry." not in text
    assert "resolved" not in text
    locked = json.loads(text)["packages"]
    installed = {
        name: entry for name, entry in locked.items() if name and (CONTRACTS / name).is_dir()
    }
    assert {"node_modules/solc", "node_modules/@openzeppelin/contracts"} <= installed.keys()
    assert all(entry["integrity"].startswith("sha512-") for entry in installed.values())
