"""How a token comes into being: which call makes it, and at which address it will be."""

import functools
from typing import Protocol

import msgspec
from eth_abi.abi import encode as abi_encode
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

from adapters.contracts import DEPLOY_TOKEN, PREDICT_TOKEN, TOKEN_OF, ZERO_ADDRESS, artifact
from adapters.rpc import Request
from saga.adoption import Traits
from saga.messages import ModelReadyToDeployMessage, token_name

# The canonical deterministic-deployment proxy: same address on every chain.
# Source: github.com/Arachnid/deterministic-deployment-proxy
PROXY = "0x4e59b44847b379578588920cA78FbF26c0B4956C"
PROXY_DEPLOYER = "0x3fAB184622Dc19b6109349B94811493BF2a45362"
# The keyless transaction of that repository: signed once for all chains, before EIP-155.
PROXY_TRANSACTION = (
    "0xf8a58085174876e800830186a08080b853604580600e600039806000f350f"
    "e7fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffe"
    "03601600081602082378035828234f58015156039578182fd5b8082525050506014600cf31b"
    "a02222222222222222222222222222222222222222222222222222222222222222"
    "a02222222222222222222222222222222222222222222222222222222222222222"
)
PROXY_COST_WEI = 100_000 * 100 * 10**9
"""Its gas limit at its gas price: what its sender must hold."""
SALT_DOMAIN = keccak(text="hokusai.contract-deploy-listener.token.v1")


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The call that makes a token."""

    to: str
    data: str
    predicted: str
    initcode_hash: str = ""


class Strategy(Protocol):
    """One way to make a model's token so that the chain itself refuses a second one."""

    def traits(self, message: ModelReadyToDeployMessage) -> Traits:
        """What the token is like at its creation."""

    def questions(self, message: ModelReadyToDeployMessage) -> list[Request]:
        """What must be asked before the plan is known; sent in one batch with others."""

    def read(
        self, message: ModelReadyToDeployMessage, answers: list[str]
    ) -> tuple[str | None, Plan]:
        """The token that exists already (None: none), and the plan. `answers` are 0x hex."""


class ManagerStrategy:
    """`TokenManager.deployToken`: the manager refuses a second token for a model id.

    The token's address is asked of the manager once. When it is the one that follows from our own
    artifact, later ones are computed; else the manager's code is another, and is always asked.
    """

    def __init__(self, manager: str) -> None:
        self._manager = manager
        self._same_code: bool | None = None

    def questions(self, message: ModelReadyToDeployMessage) -> list[Request]:
        asked = [call_request(self._manager, TOKEN_OF.encode(message.model_id))]
        if not self._same_code:
            arguments = PREDICT_TOKEN.encode(*self._arguments(message))
            asked.append(call_request(self._manager, arguments))
        return asked

    def read(
        self, message: ModelReadyToDeployMessage, answers: list[str]
    ) -> tuple[str | None, Plan]:
        (existing,) = TOKEN_OF.decode(answers[0])
        predicted = self._predicted(message)
        if len(answers) > 1:
            (asked,) = PREDICT_TOKEN.decode(answers[1])
            self._same_code = asked == predicted
            predicted = asked
        plan = Plan(
            to=self._manager,
            data=DEPLOY_TOKEN.encode(*self._arguments(message)),
            predicted=predicted,
        )
        return (None if existing == ZERO_ADDRESS else existing), plan

    def traits(self, message: ModelReadyToDeployMessage) -> Traits:
        """The manager is controller and owner."""
        return _traits(message, controller=self._manager, owner=self._manager)

    def _predicted(self, message: ModelReadyToDeployMessage) -> str:
        """As the manager computes it: salt = keccak256(model id), itself owner and controller."""
        code = initcode(message, controller=self._manager, owner=self._manager)
        return create2_address(keccak(text=message.model_id), keccak(code), self._manager)

    @staticmethod
    def _arguments(message: ModelReadyToDeployMessage) -> tuple[str, str, str, str]:
        return (
            message.model_id,
            token_name(message.model_id),
            message.token_symbol,
            message.mlflow_run_id,
        )


class Create2Strategy:
    """CREATE2 through the canonical proxy, for a manager that cannot deploy.

    The proxy is the constructor's `msg.sender`, so owner and controller are arguments; neither is
    the signing key, or a rotated key would move the address.
    """

    def __init__(self, *, registry: str, manager: str, owner: str, chain_id: int) -> None:
        self._registry = registry
        self._manager = manager
        self._owner = owner
        self._chain_id = chain_id

    def questions(self, message: ModelReadyToDeployMessage) -> list[Request]:
        return [("eth_getCode", [self.plan(message).predicted, "latest"])]

    def read(
        self, message: ModelReadyToDeployMessage, answers: list[str]
    ) -> tuple[str | None, Plan]:
        plan = self.plan(message)
        return (plan.predicted if len(answers[0]) > len("0x") else None), plan

    def traits(self, message: ModelReadyToDeployMessage) -> Traits:
        """The manager is the controller; the owner is the configured one."""
        return _traits(message, controller=self._manager, owner=self._owner)

    def salt(self, model_id: str) -> bytes:
        """keccak256(domain ‖ chain id ‖ registry ‖ model id): one salt for a model, for ever."""
        return keccak(
            SALT_DOMAIN
            + self._chain_id.to_bytes(32, "big")
            + bytes.fromhex(self._registry[2:])
            + model_id.encode()
        )

    def plan(self, message: ModelReadyToDeployMessage) -> Plan:
        salt = self.salt(message.model_id)
        code = initcode(message, controller=self._manager, owner=self._owner)
        return Plan(
            to=PROXY,
            data="0x" + (salt + code).hex(),
            predicted=create2_address(salt, keccak(code)),
            initcode_hash="0x" + keccak(code).hex(),
        )


def initcode(message: ModelReadyToDeployMessage, *, controller: str, owner: str) -> bytes:
    """HokusaiToken's creation code with its constructor's arguments."""
    arguments = abi_encode(
        ["string", "string", "address", "address", "string", "string"],
        [
            token_name(message.model_id),
            message.token_symbol,
            controller,
            owner,
            message.model_id,
            message.mlflow_run_id,
        ],
    )
    return _creation_code() + arguments


def _traits(message: ModelReadyToDeployMessage, *, controller: str, owner: str) -> Traits:
    return Traits(
        code_hash=_runtime_code_hash(),
        name=token_name(message.model_id),
        symbol=message.token_symbol,
        model_id=message.model_id,
        mlflow_run_id=message.mlflow_run_id,
        controller=str(to_checksum_address(controller)),
        owner=str(to_checksum_address(owner)),
    )


@functools.cache
def _runtime_code_hash() -> str:
    return "0x" + keccak(bytes.fromhex(artifact("HokusaiToken").deployed_bytecode[2:])).hex()


@functools.cache
def _creation_code() -> bytes:
    return bytes.fromhex(artifact("HokusaiToken").bytecode[2:])


def create2_address(salt: bytes, initcode_hash: bytes, deployer: str = PROXY) -> str:
    """keccak256(0xff ‖ deployer ‖ salt ‖ keccak256(initcode))[12:], EIP-1014."""
    digest = keccak(b"\xff" + bytes.fromhex(deployer[2:]) + salt + initcode_hash)
    return str(to_checksum_address(digest[12:]))


def call_request(to: str, data: str) -> Request:
    return ("eth_call", [{"to": to, "data": data}, "latest"])
