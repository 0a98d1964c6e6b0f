"""The contracts' ABI as cheap codecs: selectors and types are computed once, not per call.

The artifacts are those of `contracts/artifacts` (`make contracts`).
"""

import functools
from pathlib import Path
from typing import Any

import msgspec
from eth_abi.abi import decode as abi_decode
from eth_abi.abi import encode as abi_encode
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

ARTIFACTS = Path(__file__).resolve().parents[1] / "contracts" / "artifacts"
ZERO_ADDRESS = "0x" + "00" * 20

DEFAULT_ADMIN_ROLE = "0x" + "00" * 32
DEPLOYER_ROLE = "0x" + keccak(text="DEPLOYER_ROLE").hex()
REGISTRAR_ROLE = "0x" + keccak(text="REGISTRAR_ROLE").hex()


class Artifact(msgspec.Struct, frozen=True, rename="camel"):
    """One compiled contract."""

    contract_name: str
    abi: list[dict[str, Any]]
    bytecode: str
    """Creation code, 0x hex."""
    deployed_bytecode: str
    """Runtime code, 0x hex."""


@functools.cache
def artifact(name: str) -> Artifact:
    """The artifact of a contract by its Solidity name."""
    return msgspec.json.decode((ARTIFACTS / f"{name}.json").read_bytes(), type=Artifact)


class Function:
    """One contract function: `call` data in, return values out."""

    def __init__(self, signature: str, returns: str = "") -> None:
        self.signature = signature
        self._inputs = _types(signature[signature.index("(") :])
        self._outputs = _types(f"({returns})")
        self._selector = keccak(text=signature)[:4]

    def encode(self, *args: Any) -> str:
        """Calldata, 0x hex."""
        return "0x" + (self._selector + abi_encode(self._inputs, args)).hex()

    def decode(self, data: str) -> tuple[Any, ...]:
        """The return values; addresses in checksum case. Raises ValueError."""
        try:
            values = abi_decode(self._outputs, bytes.fromhex(data[2:]))
        except Exception as error:
            raise ValueError(f"{self.signature} returned {str(data)[:80]!r}") from error
        return tuple(
            to_checksum_address(value) if kind == "address" else value
            for kind, value in zip(self._outputs, values, strict=True)
        )


class Event:
    """One contract event: its topic, and the values that are not indexed."""

    def __init__(self, signature: str, data: str) -> None:
        self.topic = "0x" + keccak(text=signature).hex()
        self._data = _types(f"({data})")

    def decode(self, data: str) -> tuple[Any, ...]:
        return tuple(abi_decode(self._data, bytes.fromhex(data[2:])))


def _types(signature: str) -> list[str]:
    inner = signature.strip()[1:-1]
    return inner.split(",") if inner else []


def topic_of(text: str) -> str:
    """The topic of an indexed string."""
    return "0x" + keccak(text=text).hex()


def topic_address(address: str) -> str:
    return "0x" + "00" * 12 + address[2:].lower()


# HokusaiToken
NAME = Function("name()", "string")
SYMBOL = Function("symbol()", "string")
MODEL_ID = Function("modelId()", "string")
MLFLOW_RUN_ID = Function("mlflowRunId()", "string")
CONTROLLER = Function("controller()", "address")
OWNER = Function("owner()", "address")
MODEL_LINKED = Event("ModelLinked(string,string,string)", "string,string")
CONTROLLER_UPDATED = Event("ControllerUpdated(address)", "")

# TokenManager
TOKEN_OF = Function("tokenOf(string)", "address")
PREDICT_TOKEN = Function("predictToken(string,string,string,string)", "address")
DEPLOY_TOKEN = Function("deployToken(string,string,string,string)", "address")
TOKEN_DEPLOYED = Event(
    "TokenDeployed(string,address,address,string,string,string,string)",
    "string,string,string,string",
)

# ModelRegistry
GET_TOKEN = Function("getToken(string)", "address")
MODEL_OF = Function("modelOf(address)", "string")
REGISTER_MODEL = Function("registerModel(string,address,string,string)")
MODEL_REGISTERED = Event("ModelRegistered(string,address,string,string)", "string,string")

# AccessControl
HAS_ROLE = Function("hasRole(bytes32,address)", "bool")
GRANT_ROLE = Function("grantRole(bytes32,address)")
REVOKE_ROLE = Function("revokeRole(bytes32,address)")


@functools.cache
def _custom_errors() -> dict[str, tuple[str, list[str], list[str]]]:
    found: dict[str, tuple[str, list[str], list[str]]] = {}
    for name in ("HokusaiToken", "TokenManager", "ModelRegistry"):
        for entry in artifact(name).abi:
            if entry["type"] == "error":
                kinds = [field["type"] for field in entry["inputs"]]
                signature = f"{entry['name']}({','.join(kinds)})"
                labels = [field["name"] for field in entry["inputs"]]
                found[keccak(text=signature)[:4].hex()] = (entry["name"], labels, kinds)
    found[keccak(text="Error(string)")[:4].hex()] = ("Error", ["reason"], ["string"])
    found[keccak(text="Panic(uint256)")[:4].hex()] = ("Panic", ["code"], ["uint256"])
    return found


def revert_reason(data: str | None) -> str | None:
    """A revert's data as `Name(field=value, …)`, by the ABI of our contracts; None if unknown."""
    if data is None or len(data) < 10:
        return None
    known = _custom_errors().get(data[2:10].lower())
    if known is None:
        return f"custom error {data[:10]}"
    name, labels, kinds = known
    try:
        values = abi_decode(kinds, bytes.fromhex(data[10:]))
    except Exception:  # noqa: BLE001 - foreign bytes; the name alone must do
        return name
    fields = zip(labels, values, strict=True)
    return f"{name}({', '.join(f'{label}={_shown(value)}' for label, value in fields)})"


def _shown(value: Any) -> str:
    """Roles as they stand in a block explorer, all else as Python writes it."""
    return "0x" + value.hex() if isinstance(value, bytes) else repr(value)
