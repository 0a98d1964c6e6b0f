"""Laws of the ABI codecs: they agree with the artifacts, and decode whatever a node returns."""

from typing import Any

import pytest
from eth_abi.abi import encode as abi_encode
from eth_utils.crypto import keccak

from adapters import contracts
from adapters.contracts import Event, Function, artifact, revert_reason, topic_address, topic_of

CONTRACTS = ("HokusaiToken", "TokenManager", "ModelRegistry")
FUNCTIONS = [value for value in vars(contracts).values() if isinstance(value, Function)]
EVENTS = [name for name, value in vars(contracts).items() if isinstance(value, Event)]
ADDRESS = "0x5FbDB2315678afecb367f032d93F642f64180aa3"


def entries(kind: str) -> list[dict[str, Any]]:
    return [e for name in CONTRACTS for e in artifact(name).abi if e["type"] == kind]


def types(fields: list[dict[str, Any]]) -> list[str]:
    return [field["type"] for field in fields]


def signature(entry: dict[str, Any]) -> str:
    return f"{entry['name']}({','.join(types(entry['inputs']))})"


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.signature)
def test_functions_are_the_artifacts(function: Function) -> None:
    """Each function has the signature and the return values of a compiled contract."""
    (outputs,) = {
        tuple(types(e["outputs"]))
        for e in entries("function")
        if signature(e) == function.signature
    }
    assert function._outputs == list(outputs)


@pytest.mark.parametrize("name", EVENTS)
def test_events_are_the_artifacts(name: str) -> None:
    """Each event has the topic and the unindexed fields of a compiled contract."""
    event: Event = getattr(contracts, name)
    (fields,) = {
        tuple(types([field for field in e["inputs"] if not field["indexed"]]))
        for e in entries("event")
        if "0x" + keccak(text=signature(e)).hex() == event.topic
    }
    assert event._data == list(fields)


@pytest.mark.parametrize(
    ("function", "selector"),
    [
        (contracts.NAME, "0x06fdde03"),
        (contracts.SYMBOL, "0x95d89b41"),
        (contracts.HAS_ROLE, "0x91d14854"),
        (contracts.GRANT_ROLE, "0x2f2ff15d"),
    ],
)
def test_selectors(function: Function, selector: str) -> None:
    """Selectors are those that the standards publish."""
    arguments = {
        contracts.HAS_ROLE: (bytes(32), ADDRESS),
        contracts.GRANT_ROLE: (bytes(32), ADDRESS),
    }
    assert function.encode(*arguments.get(function, ()))[:10] == selector


def test_roles() -> None:
    """Role ids are those of the contracts' source, keccak256 of the name."""
    roles = (contracts.DEPLOYER_ROLE, contracts.REGISTRAR_ROLE)
    assert roles == tuple(topic_of(name) for name in ("DEPLOYER_ROLE", "REGISTRAR_ROLE"))


def test_call_and_answer() -> None:
    """Calldata is selector and arguments; returned addresses come in checksum case."""
    data = contracts.GET_TOKEN.encode("model_1")
    expected = keccak(text="getToken(string)")[:4] + abi_encode(["string"], ["model_1"])
    assert data == "0x" + expected.hex()
    returned = "0x" + abi_encode(["address"], [ADDRESS.lower()]).hex()
    assert contracts.GET_TOKEN.decode(returned) == (ADDRESS,)


@pytest.mark.parametrize("returned", ["0x", "", "0x01", "0xzz", "0x" + "ff" * 32, None])
def test_answers_that_are_none(returned: Any) -> None:
    """What a function cannot have returned is ValueError, naming the function."""
    with pytest.raises(ValueError, match=r"getToken\(string\) returned"):
        contracts.GET_TOKEN.decode(returned)


def test_log_fields() -> None:
    """A log's data are its unindexed fields; indexed text is its hash, an address is padded."""
    data = "0x" + abi_encode(["string", "string"], ["model_1", "run_1"]).hex()
    assert contracts.MODEL_LINKED.decode(data) == ("model_1", "run_1")
    assert topic_of("model_1") == "0x" + keccak(b"model_1").hex()
    assert topic_address(ADDRESS) == "0x" + "00" * 12 + ADDRESS[2:].lower()


def revert(text: str, kinds: list[str], values: list[Any]) -> str:
    return "0x" + (keccak(text=text)[:4] + abi_encode(kinds, values)).hex()


ROLE = keccak(b"REGISTRAR_ROLE")
NO_ROLE = revert(
    "AccessControlUnauthorizedAccount(address,bytes32)", ["address", "bytes32"], [ADDRESS, ROLE]
)
TWICE = revert("TokenAlreadyDeployed(string,address)", ["string", "address"], ["m", ADDRESS])
LOWER = ADDRESS.lower()
REASONS = [
    (revert("Error(string)", ["string"], ["no"]), "Error(reason='no')"),
    (revert("Panic(uint256)", ["uint256"], [17]), "Panic(code=17)"),
    (revert("EmptyField(string)", ["string"], ["modelId"]), "EmptyField(field='modelId')"),
    (TWICE, f"TokenAlreadyDeployed(modelId='m', token='{LOWER}')"),
    (
        NO_ROLE,
        f"AccessControlUnauthorizedAccount(account='{LOWER}', neededRole=0x{ROLE.hex()})",
    ),
]


@pytest.mark.parametrize(("data", "reason"), REASONS)
def test_revert_reason(data: str, reason: str) -> None:
    """A revert of our contracts reads as its name and fields, whatever the case of its hex."""
    assert revert_reason(data) == reason
    assert revert_reason("0x" + data[2:].upper()) == reason


@pytest.mark.parametrize("entry", entries("error"), ids=signature)
def test_every_error_is_known(entry: dict[str, Any]) -> None:
    """Each custom error of the contracts has its name."""
    selector = "0x" + keccak(text=signature(entry))[:4].hex()
    found = revert_reason(selector)
    assert found is not None
    assert found.startswith(entry["name"])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (None, None),
        ("", None),
        ("0x", None),
        ("0x08c379", None),
        ("0xdeadbeef", "custom error 0xdeadbeef"),
        ("0xdeadbeef" + "00" * 40, "custom error 0xdeadbeef"),
        ("0x08c379a0", "Error"),
        ("0x08c379a0" + "ff" * 64, "Error"),
        ("0x08c379a0abc", "Error"),
        ("0x08c379a0zz", "Error"),
        ("no hex at all", "custom error no hex at "),
    ],
)
def test_foreign_reverts(data: str | None, reason: str | None) -> None:
    """Foreign or broken data never raises: the name alone, the selector, or nothing."""
    assert revert_reason(data) == reason
