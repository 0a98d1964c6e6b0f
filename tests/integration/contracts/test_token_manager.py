from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from eth_abi.abi import encode as abi_encode
from eth_typing import ChecksumAddress
from eth_utils.crypto import keccak
from web3 import Web3
from web3.contract import Contract
from web3.contract.contract import ContractFunction
from web3.types import TxReceipt

from adapters.embedded import EmbeddedAnvil
from tests.integration.contracts.chain import (
    ADMIN_ROLE,
    ZERO,
    Chain,
    Revert,
    artifact,
    errors_of,
    event,
    logs,
    role,
    role_granted,
    topic,
)

DEPLOYER_ROLE, MINTER_ROLE = role("DEPLOYER_ROLE"), role("MINTER_ROLE")
# modelId, name, symbol, mlflowRunId
FIRST = ("sentiment/2/HSENT", "Hokusai Sentiment", "HSENT", "0123456789abcdef0123456789abcdef")
SECOND = ("other", "Other", "OTH", "run")
SUPPLY = 1_000
# A service pays for it once per model; contracts/compile.mjs is set for it.
GAS_LIMIT = 900_000


class World(NamedTuple):
    chain: Chain
    manager: Contract
    receipt: TxReceipt
    token: Contract
    creator: ChecksumAddress
    admin: ChecksumAddress
    deployer: ChecksumAddress
    minter: ChecksumAddress
    holder: ChecksumAddress
    stranger: ChecksumAddress

    def revert(self, call: ContractFunction, sender: str) -> Revert:
        return self.chain.revert(call, sender, self.manager.abi)

    def token_of(self, model_id: str) -> str:
        return str(self.manager.functions.tokenOf(model_id).call())

    def predict(self, content: tuple[str, str, str, str]) -> str:
        return str(self.manager.functions.predictToken(*content).call())

    def deploy(self, content: tuple[str, str, str, str]) -> TxReceipt:
        return self.chain.send(self.manager.functions.deployToken(*content), self.deployer)


@pytest.fixture(scope="module")
def deployed(anvil: EmbeddedAnvil) -> World:
    chain = Chain.at(anvil.url)
    creator, admin, deployer, minter, holder, stranger = (chain.account(i) for i in range(6))
    manager, receipt = chain.deploy("TokenManager", admin)
    chain.send(manager.functions.grantRole(DEPLOYER_ROLE, deployer), admin)
    chain.send(manager.functions.grantRole(MINTER_ROLE, minter), admin)
    chain.send(manager.functions.deployToken(*FIRST), deployer)
    chain.send(manager.functions.mintTokens(FIRST[0], holder, SUPPLY), minter)
    token = chain.contract("HokusaiToken", manager.functions.tokenOf(FIRST[0]).call())
    return World(chain, manager, receipt, token, creator, admin, deployer, minter, holder, stranger)


@pytest.fixture
def world(deployed: World) -> Iterator[World]:
    """A manager with the token of FIRST, put back after each test."""
    with deployed.chain.rolled_back():
        yield deployed


def create2_address(manager: str, content: tuple[str, str, str, str]) -> str:
    """Where CREATE2 puts the token, by EIP-1014 and the artifact alone."""
    model_id, name, symbol, run_id = content
    arguments = abi_encode(
        ["string", "string", "address", "address", "string", "string"],
        [name, symbol, manager, manager, model_id, run_id],
    )
    initcode = bytes.fromhex(artifact("HokusaiToken")["bytecode"][2:]) + arguments
    preimage = b"\xff" + bytes.fromhex(manager[2:]) + keccak(text=model_id) + keccak(initcode)
    return Web3.to_checksum_address(keccak(preimage)[12:])


def test_constructed(world: World) -> None:
    """A new manager has an admin and nothing else: no deployer, no minter, its creator no role."""
    assert logs(world.receipt) == [
        role_granted(world.manager.address, ADMIN_ROLE, world.admin, world.creator)
    ]


def test_role_ids(world: World) -> None:
    """A role is the hash of its name, and the admin role governs it."""
    calls = world.manager.functions
    assert (calls.DEPLOYER_ROLE().call(), calls.MINTER_ROLE().call()) == (
        DEPLOYER_ROLE,
        MINTER_ROLE,
    )
    for found in (DEPLOYER_ROLE, MINTER_ROLE, ADMIN_ROLE):
        assert calls.getRoleAdmin(found).call() == ADMIN_ROLE


def test_grant(world: World) -> None:
    """A granted role is logged and works, a revoked one does neither."""
    calls = world.manager.functions
    receipt = world.chain.send(calls.grantRole(DEPLOYER_ROLE, world.stranger), world.admin)
    assert logs(receipt) == [
        role_granted(world.manager.address, DEPLOYER_ROLE, world.stranger, world.admin)
    ]
    world.chain.send(calls.deployToken(*SECOND), world.stranger)
    world.chain.send(calls.revokeRole(DEPLOYER_ROLE, world.stranger), world.admin)
    assert world.revert(calls.deployToken("m", "n", "s", "r"), world.stranger) == (
        "AccessControlUnauthorizedAccount",
        (world.stranger, DEPLOYER_ROLE),
    )


def test_renounce(world: World) -> None:
    """A role given up by its holder is gone."""
    calls = world.manager.functions
    world.chain.send(calls.renounceRole(DEPLOYER_ROLE, world.deployer), world.deployer)
    assert not calls.hasRole(DEPLOYER_ROLE, world.deployer).call()


CONTENTS = [
    SECOND,
    ("m", "n", "s", ""),
    ("modèle/✓/日本", "Nom é", "Ξ", "laufnummer"),
    ("m" * 256, "n" * 256, "s" * 64, "r" * 256),
]


@pytest.mark.parametrize("content", CONTENTS, ids=lambda content: content[0][:8])
def test_prediction(world: World, content: tuple[str, str, str, str]) -> None:
    """The address is known before a deployment: predicted, computed and real are one."""
    predicted = world.predict(content)
    assert predicted == create2_address(world.manager.address, content)
    assert world.chain.w3.eth.get_code(Web3.to_checksum_address(predicted)) == b""
    world.deploy(content)
    assert world.token_of(content[0]) == predicted
    assert world.predict(content) == predicted
    assert world.chain.w3.eth.get_code(Web3.to_checksum_address(predicted)) != b""


def test_returned_address(world: World) -> None:
    """A simulated deployment returns the predicted address."""
    simulated = world.manager.functions.deployToken(*SECOND).call({"from": world.deployer})
    assert simulated == world.predict(SECOND)


@pytest.mark.parametrize("field", range(4))
def test_prediction_depends_on_content(world: World, field: int) -> None:
    """Any other word in the content is another address."""
    changed = [f"{value}2" if index == field else value for index, value in enumerate(SECOND)]
    assert world.manager.functions.predictToken(*changed).call() != world.predict(SECOND)


def test_deployed_token(world: World) -> None:
    """The manager is controller and owner of a token that names its model and run."""
    views = ("modelId", "name", "symbol", "mlflowRunId", "controller", "owner")
    assert [getattr(world.token.functions, view)().call() for view in views] == [
        *FIRST,
        world.manager.address,
        world.manager.address,
    ]


def test_deployment_events(world: World) -> None:
    """A deployment leaves the token's three logs and one of the manager, in this order."""
    receipt = world.deploy(SECOND)
    model_id, name, symbol, run_id = SECOND
    manager, token = world.manager.address, world.token_of(model_id)
    assert logs(receipt) == [
        event(token, "OwnershipTransferred(address,address)", [bytes(32), topic(manager)], []),
        event(token, "ControllerUpdated(address)", [topic(manager)], []),
        event(
            token,
            "ModelLinked(string,string,string)",
            [keccak(text=model_id)],
            ["string"] * 2,
            model_id,
            run_id,
        ),
        event(
            manager,
            "TokenDeployed(string,address,address,string,string,string,string)",
            [keccak(text=model_id), topic(token), topic(world.deployer)],
            ["string"] * 4,
            model_id,
            name,
            symbol,
            run_id,
        ),
    ]


def test_unknown_model(world: World) -> None:
    """A model without a token has the zero address, and asking does not revert."""
    assert world.token_of("unknown") == ZERO
    assert world.token_of("") == ZERO


SECONDS = {
    "same content": FIRST,
    "other name": (FIRST[0], "Other", *FIRST[2:]),
    "other symbol": (*FIRST[:2], "OTH", FIRST[3]),
    "other run": (*FIRST[:3], "other-run"),
    "other everything": (FIRST[0], *SECOND[1:]),
    "content that is no token": (FIRST[0], "", "", ""),
}


@pytest.mark.parametrize("content", SECONDS.values(), ids=SECONDS.keys())
def test_second_deployment(world: World, content: tuple[str, str, str, str]) -> None:
    """A model never gets a second token, whatever the content: refused, and refused when sent."""
    call = world.manager.functions.deployToken(*content)
    assert world.revert(call, world.deployer) == (
        "TokenAlreadyDeployed",
        (FIRST[0], world.token.address),
    )
    sent = call.transact({"from": world.deployer, "gas": 2_000_000})
    receipt = world.chain.w3.eth.wait_for_transaction_receipt(sent)
    assert (receipt["status"], receipt["logs"]) == (0, [])
    assert world.token_of(FIRST[0]) == world.token.address


def test_second_deployer(world: World) -> None:
    """Another deployer's key gives a model no second token."""
    world.chain.send(world.manager.functions.grantRole(DEPLOYER_ROLE, world.stranger), world.admin)
    assert world.revert(world.manager.functions.deployToken(*FIRST), world.stranger) == (
        "TokenAlreadyDeployed",
        (FIRST[0], world.token.address),
    )


def test_second_deployment_after_hand_over(world: World) -> None:
    """A token handed to another controller is still its model's only one."""
    calls = world.manager.functions
    world.chain.send(calls.setTokenController(FIRST[0], world.stranger), world.admin)
    assert world.revert(calls.deployToken(*FIRST), world.deployer) == (
        "TokenAlreadyDeployed",
        (FIRST[0], world.token.address),
    )


def test_refused_deployment_leaves_id_free(world: World) -> None:
    """A model whose deployment failed can still get its token."""
    call = world.manager.functions.deployToken(SECOND[0], "", "", "")
    sent = call.transact({"from": world.deployer, "gas": 2_000_000})
    assert world.chain.w3.eth.wait_for_transaction_receipt(sent)["status"] == 0
    assert world.token_of(SECOND[0]) == ZERO
    world.deploy(SECOND)


def test_same_content_of_two_models(world: World) -> None:
    """Two models may have tokens of the same name and symbol."""
    world.deploy(("another model", *FIRST[1:]))
    assert world.token_of("another model") not in (ZERO, world.token.address)


def test_occupied_address(world: World) -> None:
    """Code that is already at the predicted address is not adopted as the model's token."""
    world.chain.request("anvil_setCode", world.predict(SECOND), "0x00")
    call = world.manager.functions.deployToken(*SECOND)
    assert world.revert(call, world.deployer) == ("FailedDeployment", ())


def test_gas(world: World) -> None:
    """A deployment of usual content stays below the gas limit set for it."""
    assert world.deploy(("sentiment/3/HSENT", *FIRST[1:]))["gasUsed"] < GAS_LIMIT


def test_mint(world: World) -> None:
    """A minter's tokens arrive in the model's own token."""
    world.chain.send(world.manager.functions.mintTokens(FIRST[0], world.stranger, 7), world.minter)
    assert world.token.functions.balanceOf(world.stranger).call() == 7
    assert world.token.functions.totalSupply().call() == SUPPLY + 7


def test_burn(world: World) -> None:
    """A minter burns what an account holds of the model's token."""
    world.chain.send(world.manager.functions.burnTokens(FIRST[0], world.holder, 7), world.minter)
    assert world.token.functions.balanceOf(world.holder).call() == SUPPLY - 7
    assert world.token.functions.totalSupply().call() == SUPPLY - 7


def test_hand_over(world: World) -> None:
    """A token handed over obeys its new controller, and comes back when the admin says so."""
    calls = world.manager.functions
    receipt = world.chain.send(calls.setTokenController(FIRST[0], world.stranger), world.admin)
    assert logs(receipt) == [
        event(world.token.address, "ControllerUpdated(address)", [topic(world.stranger)], [])
    ]
    world.chain.send(world.token.functions.mint(world.holder, 1), world.stranger)
    assert world.revert(calls.mintTokens(FIRST[0], world.holder, 1), world.minter) == (
        "NotController",
        (world.manager.address,),
    )
    world.chain.send(calls.setTokenController(FIRST[0], world.manager.address), world.admin)
    world.chain.send(calls.mintTokens(FIRST[0], world.holder, 1), world.minter)


def test_interfaces(world: World) -> None:
    """The manager says by ERC-165 that it has roles."""
    calls = world.manager.functions
    # https://eips.ethereum.org/EIPS/eip-165 and the id of OpenZeppelin's IAccessControl
    assert calls.supportsInterface("0x01ffc9a7").call()
    assert calls.supportsInterface("0x7965db0b").call()
    assert not calls.supportsInterface("0xffffffff").call()


# Whose call, what it calls, the error with its arguments. Senders are roles of World.
Case = tuple[str, Callable[[Any, World], ContractFunction], str, Callable[[World], list[Any]]]

UNAUTHORIZED = "AccessControlUnauthorizedAccount"
CALLS: dict[str, Case] = {
    "a stranger deploys": (
        "stranger",
        lambda manager, _: manager.deployToken(*SECOND),
        UNAUTHORIZED,
        lambda world: [world.stranger, DEPLOYER_ROLE],
    ),
    "a stranger repeats a deployment": (
        "stranger",
        lambda manager, _: manager.deployToken(*FIRST),
        UNAUTHORIZED,
        lambda world: [world.stranger, DEPLOYER_ROLE],
    ),
    "the admin deploys": (
        "admin",
        lambda manager, _: manager.deployToken(*SECOND),
        UNAUTHORIZED,
        lambda world: [world.admin, DEPLOYER_ROLE],
    ),
    "a minter deploys": (
        "minter",
        lambda manager, _: manager.deployToken(*SECOND),
        UNAUTHORIZED,
        lambda world: [world.minter, DEPLOYER_ROLE],
    ),
    "no model id": (
        "deployer",
        lambda manager, _: manager.deployToken("", *SECOND[1:]),
        "EmptyField",
        lambda _: ["modelId"],
    ),
    "no name": (
        "deployer",
        lambda manager, _: manager.deployToken(SECOND[0], "", *SECOND[2:]),
        "EmptyField",
        lambda _: ["name"],
    ),
    "no symbol": (
        "deployer",
        lambda manager, _: manager.deployToken(*SECOND[:2], "", SECOND[3]),
        "EmptyField",
        lambda _: ["symbol"],
    ),
    "a deployer mints": (
        "deployer",
        lambda manager, world: manager.mintTokens(FIRST[0], world.deployer, 1),
        UNAUTHORIZED,
        lambda world: [world.deployer, MINTER_ROLE],
    ),
    "the admin burns": (
        "admin",
        lambda manager, world: manager.burnTokens(FIRST[0], world.holder, 1),
        UNAUTHORIZED,
        lambda world: [world.admin, MINTER_ROLE],
    ),
    "a mint for an unknown model": (
        "minter",
        lambda manager, world: manager.mintTokens("unknown", world.holder, 1),
        "UnknownModel",
        lambda _: ["unknown"],
    ),
    "a burn for an unknown model": (
        "minter",
        lambda manager, world: manager.burnTokens("unknown", world.holder, 1),
        "UnknownModel",
        lambda _: ["unknown"],
    ),
    "a mint to nobody": (
        "minter",
        lambda manager, _: manager.mintTokens(FIRST[0], ZERO, 1),
        "ERC20InvalidReceiver",
        lambda _: [ZERO],
    ),
    "a burn of more than there is": (
        "minter",
        lambda manager, world: manager.burnTokens(FIRST[0], world.holder, SUPPLY + 1),
        "ERC20InsufficientBalance",
        lambda world: [world.holder, SUPPLY, SUPPLY + 1],
    ),
    "a burn of what nobody holds": (
        "minter",
        lambda manager, _: manager.burnTokens(FIRST[0], ZERO, 1),
        "ERC20InvalidSender",
        lambda _: [ZERO],
    ),
    "a deployer takes a token": (
        "deployer",
        lambda manager, world: manager.setTokenController(FIRST[0], world.deployer),
        UNAUTHORIZED,
        lambda world: [world.deployer, ADMIN_ROLE],
    ),
    "no controller": (
        "admin",
        lambda manager, _: manager.setTokenController(FIRST[0], ZERO),
        "ZeroController",
        lambda _: [],
    ),
    "a controller for an unknown model": (
        "admin",
        lambda manager, world: manager.setTokenController("unknown", world.stranger),
        "UnknownModel",
        lambda _: ["unknown"],
    ),
    "a deployer grants its role": (
        "deployer",
        lambda manager, world: manager.grantRole(DEPLOYER_ROLE, world.stranger),
        UNAUTHORIZED,
        lambda world: [world.deployer, ADMIN_ROLE],
    ),
    "a stranger revokes a role": (
        "stranger",
        lambda manager, world: manager.revokeRole(DEPLOYER_ROLE, world.deployer),
        UNAUTHORIZED,
        lambda world: [world.stranger, ADMIN_ROLE],
    ),
    "a stranger gives up another's role": (
        "stranger",
        lambda manager, world: manager.renounceRole(DEPLOYER_ROLE, world.deployer),
        "AccessControlBadConfirmation",
        lambda _: [],
    ),
}


@pytest.mark.parametrize("case", CALLS.values(), ids=CALLS.keys())
def test_refused(world: World, case: Case) -> None:
    """A call that may not be is refused with the error that says why, by the manager's own ABI."""
    sender, call, name, args = case
    found = world.revert(call(world.manager.functions, world), getattr(world, sender))
    assert found == (name, tuple(args(world)))


def test_no_admin(world: World) -> None:
    """A manager without an admin is not made."""
    creation = world.chain.creation("TokenManager", ZERO)
    assert world.chain.revert(creation, world.creator, world.manager.abi) == ("ZeroAdmin", ())


# In the ABI, but no call to the manager ends in them: it sends no value and never empty code, and
# it makes no transfers or allowances.
UNREACHABLE = {
    "Create2EmptyBytecode",
    "InsufficientBalance",
    "ERC20InsufficientAllowance",
    "ERC20InvalidApprover",
    "ERC20InvalidSpender",
}


def test_every_error_is_provoked() -> None:
    """Each error in the ABI that a call can end in is provoked by a test above."""
    provoked = {case[2] for case in CALLS.values()}
    elsewhere = {"TokenAlreadyDeployed", "FailedDeployment", "NotController", "ZeroAdmin"}
    assert provoked | elsewhere | UNREACHABLE == errors_of("TokenManager")
