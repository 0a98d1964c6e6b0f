"""What the contract tests share: deploying artifacts, sending, reading reverts and raw logs.

Expected topics and data are built from signatures by hand, never from the ABI under test.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from eth_abi.abi import decode as abi_decode
from eth_abi.abi import encode as abi_encode
from eth_typing import ChecksumAddress
from eth_utils.crypto import keccak
from web3 import HTTPProvider, Web3
from web3.contract import Contract
from web3.contract.contract import ContractConstructor, ContractFunction
from web3.exceptions import ContractCustomError, ContractPanicError
from web3.types import RPCEndpoint, TxReceipt

CONTRACTS = Path(__file__).resolve().parents[3] / "contracts"
ZERO = Web3.to_checksum_address("0x" + "00" * 20)
ADMIN_ROLE = bytes(32)
ARITHMETIC_OVERFLOW = "0x11"

# Address, topics and data of one log.
Log = tuple[str, list[bytes], bytes]
# Name and arguments of a custom error.
Revert = tuple[str, tuple[Any, ...]]


def artifact(name: str) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads((CONTRACTS / "artifacts" / f"{name}.json").read_text())
    return parsed


def role(name: str) -> bytes:
    return keccak(text=name)


def topic(address: str) -> bytes:
    return bytes(12) + bytes.fromhex(address[2:])


def event(
    emitter: str, signature: str, indexed: Sequence[bytes], types: Sequence[str], *values: Any
) -> Log:
    """The log that an event must leave."""
    return emitter, [keccak(text=signature), *indexed], abi_encode(types, values)


def role_granted(emitter: str, role_id: bytes, account: str, sender: str) -> Log:
    topics = [role_id, topic(account), topic(sender)]
    return event(emitter, "RoleGranted(bytes32,address,address)", topics, [])


def logs(receipt: TxReceipt) -> list[Log]:
    return [
        (str(log["address"]), [bytes(found) for found in log["topics"]], bytes(log["data"]))
        for log in receipt["logs"]
    ]


@dataclass(frozen=True)
class Chain:
    """A node with unlocked development accounts."""

    w3: Web3

    @classmethod
    def at(cls, url: str) -> "Chain":
        return cls(Web3(HTTPProvider(url)))

    def account(self, index: int) -> ChecksumAddress:
        return self.w3.eth.accounts[index]

    def creation(self, name: str, *args: Any) -> ContractConstructor:
        compiled = artifact(name)
        factory = self.w3.eth.contract(abi=compiled["abi"], bytecode=compiled["bytecode"])
        return factory.constructor(*args)

    def deploy(self, name: str, *args: Any) -> tuple[Contract, TxReceipt]:
        """Create a contract from account 0, which thereby has no rights in it."""
        receipt = self.send(self.creation(name, *args), self.account(0))
        return self.contract(name, receipt["contractAddress"]), receipt

    def contract(self, name: str, address: str | None) -> Contract:
        assert address is not None
        checksummed = Web3.to_checksum_address(address)
        return self.w3.eth.contract(address=checksummed, abi=artifact(name)["abi"])

    def send(self, call: ContractFunction | ContractConstructor, sender: str) -> TxReceipt:
        """Send and wait until mined; fails when the transaction reverted."""
        receipt = self.w3.eth.wait_for_transaction_receipt(call.transact({"from": sender}))
        assert receipt["status"] == 1
        return receipt

    def revert(self, call: ContractFunction | ContractConstructor, sender: str, abi: Any) -> Revert:
        """The custom error, decoded by `abi`, that the call ends in when `sender` makes it."""
        with pytest.raises(ContractCustomError) as caught:
            self._simulate(call, sender)
        data = bytes.fromhex(str(caught.value.data)[2:])
        for entry in abi:
            if entry["type"] != "error":
                continue
            kinds = [field["type"] for field in entry["inputs"]]
            if data[:4] == keccak(text=f"{entry['name']}({','.join(kinds)})")[:4]:
                values = zip(kinds, abi_decode(kinds, data[4:]), strict=True)
                return entry["name"], tuple(
                    Web3.to_checksum_address(value) if kind == "address" else value
                    for kind, value in values
                )
        raise AssertionError(f"error {data.hex()} is not in the ABI")

    def overflows(self, call: ContractFunction, sender: str) -> bool:
        """Whether the call ends in the arithmetic panic."""
        with pytest.raises(ContractPanicError) as caught:
            self._simulate(call, sender)
        return str(caught.value.data).endswith(ARITHMETIC_OVERFLOW[2:])

    @contextmanager
    def rolled_back(self) -> Iterator[None]:
        """Undo what the block does to the chain."""
        snapshot = self.request("evm_snapshot")
        yield
        assert self.request("evm_revert", snapshot) is True

    def request(self, method: str, *params: Any) -> Any:
        """One of the node's own methods, which web3 has no name for."""
        return self.w3.provider.make_request(RPCEndpoint(method), params)["result"]

    def _simulate(self, call: ContractFunction | ContractConstructor, sender: str) -> None:
        source = Web3.to_checksum_address(sender)
        if isinstance(call, ContractConstructor):
            call.estimate_gas({"from": source})
        else:
            call.call({"from": source})


def errors_of(name: str) -> set[str]:
    return {entry["name"] for entry in artifact(name)["abi"] if entry["type"] == "error"}
