from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from eth_typing import ChecksumAddress
from eth_utils.crypto import keccak
from web3 import Web3
from web3.contract import Contract
from web3.contract.contract import ContractFunction
from web3.types import TxReceipt

from adapters.embedded import EmbeddedAnvil
from tests.integration.contracts.chain import (
    ZERO,
    Chain,
    Log,
    Revert,
    errors_of,
    event,
    logs,
    topic,
)

NAME, SYMBOL = "Hokusai Sentiment", "HSENT"
MODEL_ID, RUN_ID = "sentiment/2/HSENT", "0123456789abcdef0123456789abcdef"
SUPPLY = 1_000
MAX = 2**256 - 1
# https://github.com/Arachnid/deterministic-deployment-proxy
PROXY = Web3.to_checksum_address("0x4e59b44847b379578588920cA78FbF26c0B4956C")


class World(NamedTuple):
    chain: Chain
    token: Contract
    receipt: TxReceipt
    deployer: ChecksumAddress
    controller: ChecksumAddress
    owner: ChecksumAddress
    holder: ChecksumAddress
    stranger: ChecksumAddress

    def revert(self, call: ContractFunction, sender: str) -> Revert:
        return self.chain.revert(call, sender, self.token.abi)

    def constructor_revert(self, *args: Any) -> Revert:
        return self.chain.revert(
            self.chain.creation("HokusaiToken", *args), self.deployer, self.token.abi
        )

    def transfer_log(self, source: str, target: str, amount: int) -> Log:
        indexed = [topic(source), topic(target)]
        signature = "Transfer(address,address,uint256)"
        return event(self.token.address, signature, indexed, ["uint256"], amount)


@pytest.fixture(scope="module")
def deployed(anvil: EmbeddedAnvil) -> World:
    chain = Chain.at(anvil.url)
    deployer, controller, owner, holder, stranger = (chain.account(index) for index in range(5))
    token, receipt = chain.deploy("HokusaiToken", NAME, SYMBOL, controller, owner, MODEL_ID, RUN_ID)
    chain.send(token.functions.mint(holder, SUPPLY), controller)
    return World(chain, token, receipt, deployer, controller, owner, holder, stranger)


@pytest.fixture
def world(deployed: World) -> Iterator[World]:
    """The token with SUPPLY in the holder's hands, put back after each test."""
    with deployed.chain.rolled_back():
        yield deployed


def test_constructed(world: World) -> None:
    """A token says who it is, whose it is, and which model and run it stands for."""
    calls = world.token.functions
    views = ("name", "symbol", "decimals", "modelId", "mlflowRunId", "controller", "owner")
    assert [getattr(calls, view)().call() for view in views] == [
        NAME,
        SYMBOL,
        18,
        MODEL_ID,
        RUN_ID,
        world.controller,
        world.owner,
    ]


def test_constructor_events(world: World) -> None:
    """The first transaction of a token leaves exactly its owner, its controller and its model."""
    address = world.token.address
    assert logs(world.receipt) == [
        event(
            address,
            "OwnershipTransferred(address,address)",
            [bytes(32), topic(world.owner)],
            [],
        ),
        event(address, "ControllerUpdated(address)", [topic(world.controller)], []),
        event(
            address,
            "ModelLinked(string,string,string)",
            [keccak(text=MODEL_ID)],
            ["string", "string"],
            MODEL_ID,
            RUN_ID,
        ),
    ]


def test_starts_empty(world: World) -> None:
    """A new token has no supply, and its deployer no rights."""
    token, _ = world.chain.deploy(
        "HokusaiToken", NAME, SYMBOL, world.controller, world.owner, MODEL_ID, ""
    )
    assert token.functions.totalSupply().call() == 0
    assert world.revert(token.functions.mint(world.deployer, 1), world.deployer) == (
        "NotController",
        (world.deployer,),
    )


def test_run_is_optional(world: World) -> None:
    """A token without a run is made, and says so with an empty string."""
    token, _ = world.chain.deploy(
        "HokusaiToken", NAME, SYMBOL, world.controller, world.owner, MODEL_ID, ""
    )
    assert token.functions.mlflowRunId().call() == ""


def test_deployed_by_proxy(world: World) -> None:
    """A token made by the CREATE2 proxy belongs to its arguments, not to the proxy."""
    creation = world.chain.creation(
        "HokusaiToken", NAME, SYMBOL, world.controller, world.owner, MODEL_ID, RUN_ID
    ).data_in_transaction
    initcode, salt = bytes.fromhex(str(creation)[2:]), keccak(text="salt")
    eth = world.chain.w3.eth
    sent = eth.send_transaction({"from": world.deployer, "to": PROXY, "data": salt + initcode})
    assert eth.wait_for_transaction_receipt(sent)["status"] == 1
    preimage = b"\xff" + bytes.fromhex(PROXY[2:]) + salt + keccak(initcode)
    token = world.chain.contract("HokusaiToken", "0x" + keccak(preimage)[12:].hex())
    assert token.functions.owner().call() == world.owner
    assert token.functions.controller().call() == world.controller


def test_mint(world: World) -> None:
    """What the controller mints is in the recipient's balance and in the supply."""
    receipt = world.chain.send(world.token.functions.mint(world.stranger, 5), world.controller)
    assert logs(receipt) == [world.transfer_log(ZERO, world.stranger, 5)]
    assert world.token.functions.balanceOf(world.stranger).call() == 5
    assert world.token.functions.totalSupply().call() == SUPPLY + 5


def test_mint_overflow(world: World) -> None:
    """A supply above 2**256 - 1 is refused; that much exactly is not."""
    room = MAX - SUPPLY
    assert world.chain.overflows(
        world.token.functions.mint(world.holder, room + 1), world.controller
    )
    world.chain.send(world.token.functions.mint(world.holder, room), world.controller)
    assert world.token.functions.totalSupply().call() == MAX


def test_burn_from(world: World) -> None:
    """The controller burns what others hold, without their allowance."""
    receipt = world.chain.send(world.token.functions.burnFrom(world.holder, 4), world.controller)
    assert logs(receipt) == [world.transfer_log(world.holder, ZERO, 4)]
    assert world.token.functions.balanceOf(world.holder).call() == SUPPLY - 4
    assert world.token.functions.totalSupply().call() == SUPPLY - 4


def test_allowance_burns_nothing(world: World) -> None:
    """An allowance lets nobody but the controller burn."""
    world.chain.send(world.token.functions.approve(world.stranger, 4), world.holder)
    assert world.revert(world.token.functions.burnFrom(world.holder, 4), world.stranger) == (
        "NotController",
        (world.stranger,),
    )


def test_burn(world: World) -> None:
    """Any holder burns what it holds."""
    receipt = world.chain.send(world.token.functions.burn(SUPPLY), world.holder)
    assert logs(receipt) == [world.transfer_log(world.holder, ZERO, SUPPLY)]
    assert world.token.functions.totalSupply().call() == 0


def test_set_controller(world: World) -> None:
    """A new controller has the old one's rights, and the old one none."""
    calls = world.token.functions
    receipt = world.chain.send(calls.setController(world.stranger), world.owner)
    assert logs(receipt) == [
        event(world.token.address, "ControllerUpdated(address)", [topic(world.stranger)], [])
    ]
    assert calls.controller().call() == world.stranger
    world.chain.send(calls.mint(world.holder, 1), world.stranger)
    assert world.revert(calls.mint(world.holder, 1), world.controller) == (
        "NotController",
        (world.controller,),
    )


def test_transfer_ownership(world: World) -> None:
    """A new owner replaces the controller; the old owner no longer can."""
    calls = world.token.functions
    world.chain.send(calls.transferOwnership(world.stranger), world.owner)
    world.chain.send(calls.setController(world.holder), world.stranger)
    assert world.revert(calls.setController(world.owner), world.owner) == (
        "OwnableUnauthorizedAccount",
        (world.owner,),
    )


def test_renounced(world: World) -> None:
    """A token without an owner keeps its controller for ever."""
    calls = world.token.functions
    world.chain.send(calls.renounceOwnership(), world.owner)
    assert calls.owner().call() == ZERO
    assert world.revert(calls.setController(world.owner), world.owner) == (
        "OwnableUnauthorizedAccount",
        (world.owner,),
    )
    world.chain.send(calls.mint(world.holder, 1), world.controller)


def test_erc20(world: World) -> None:
    """Transfers move balances, an allowance is spent, the supply stays."""
    calls = world.token.functions
    assert logs(world.chain.send(calls.transfer(world.stranger, 10), world.holder)) == [
        world.transfer_log(world.holder, world.stranger, 10)
    ]
    world.chain.send(calls.approve(world.owner, 7), world.stranger)
    world.chain.send(calls.transferFrom(world.stranger, world.owner, 6), world.owner)
    assert [
        calls.balanceOf(account).call() for account in (world.holder, world.stranger, world.owner)
    ] == [SUPPLY - 10, 4, 6]
    assert calls.allowance(world.stranger, world.owner).call() == 1
    assert calls.totalSupply().call() == SUPPLY


# Whose call, what it calls, the error with its arguments. Addresses are roles of World.
Case = tuple[str, Callable[[Any, World], ContractFunction], str, Callable[[World], list[Any]]]

CALLS: dict[str, Case] = {
    "a stranger mints": (
        "stranger",
        lambda token, world: token.mint(world.stranger, 1),
        "NotController",
        lambda world: [world.stranger],
    ),
    "the owner mints": (
        "owner",
        lambda token, world: token.mint(world.owner, 1),
        "NotController",
        lambda world: [world.owner],
    ),
    "the owner burns": (
        "owner",
        lambda token, world: token.burnFrom(world.holder, 1),
        "NotController",
        lambda world: [world.owner],
    ),
    "a holder burns its own through the controller's door": (
        "holder",
        lambda token, world: token.burnFrom(world.holder, 1),
        "NotController",
        lambda world: [world.holder],
    ),
    "a mint to nobody": (
        "controller",
        lambda token, _: token.mint(ZERO, 1),
        "ERC20InvalidReceiver",
        lambda _: [ZERO],
    ),
    "a burn of more than there is": (
        "holder",
        lambda token, _: token.burn(SUPPLY + 1),
        "ERC20InsufficientBalance",
        lambda world: [world.holder, SUPPLY, SUPPLY + 1],
    ),
    "the controller burns more than there is": (
        "controller",
        lambda token, world: token.burnFrom(world.holder, SUPPLY + 1),
        "ERC20InsufficientBalance",
        lambda world: [world.holder, SUPPLY, SUPPLY + 1],
    ),
    "the controller burns what nobody holds": (
        "controller",
        lambda token, _: token.burnFrom(ZERO, 1),
        "ERC20InvalidSender",
        lambda _: [ZERO],
    ),
    "a transfer of more than there is": (
        "stranger",
        lambda token, world: token.transfer(world.holder, 1),
        "ERC20InsufficientBalance",
        lambda world: [world.stranger, 0, 1],
    ),
    "a transfer to nobody": (
        "holder",
        lambda token, _: token.transfer(ZERO, 1),
        "ERC20InvalidReceiver",
        lambda _: [ZERO],
    ),
    "a transfer without an allowance": (
        "stranger",
        lambda token, world: token.transferFrom(world.holder, world.stranger, 2),
        "ERC20InsufficientAllowance",
        lambda world: [world.stranger, 0, 2],
    ),
    "an allowance for nobody": (
        "holder",
        lambda token, _: token.approve(ZERO, 1),
        "ERC20InvalidSpender",
        lambda _: [ZERO],
    ),
    "an allowance by nobody": (
        "nobody",
        lambda token, world: token.approve(world.holder, 1),
        "ERC20InvalidApprover",
        lambda _: [ZERO],
    ),
    "the controller replaces itself": (
        "controller",
        lambda token, world: token.setController(world.stranger),
        "OwnableUnauthorizedAccount",
        lambda world: [world.controller],
    ),
    "no controller": (
        "owner",
        lambda token, _: token.setController(ZERO),
        "ZeroController",
        lambda _: [],
    ),
    "a stranger takes the token": (
        "stranger",
        lambda token, world: token.transferOwnership(world.stranger),
        "OwnableUnauthorizedAccount",
        lambda world: [world.stranger],
    ),
    "a stranger abandons the token": (
        "stranger",
        lambda token, _: token.renounceOwnership(),
        "OwnableUnauthorizedAccount",
        lambda world: [world.stranger],
    ),
    "no new owner": (
        "owner",
        lambda token, _: token.transferOwnership(ZERO),
        "OwnableInvalidOwner",
        lambda _: [ZERO],
    ),
}


@pytest.mark.parametrize("case", CALLS.values(), ids=CALLS.keys())
def test_refused(world: World, case: Case) -> None:
    """A call that may not be is refused with the error that says why."""
    sender, call, name, args = case
    found = world.revert(
        call(world.token.functions, world), getattr(world, sender) if sender != "nobody" else ZERO
    )
    assert found == (name, tuple(args(world)))


CONSTRUCTIONS: dict[str, tuple[dict[int, str], str, list[str]]] = {
    "no name": ({0: ""}, "EmptyField", ["name"]),
    "no symbol": ({1: ""}, "EmptyField", ["symbol"]),
    "no controller": ({2: ZERO}, "ZeroController", []),
    "no owner": ({3: ZERO}, "OwnableInvalidOwner", [ZERO]),
    "no model": ({4: ""}, "EmptyField", ["modelId"]),
}


@pytest.mark.parametrize("case", CONSTRUCTIONS.values(), ids=CONSTRUCTIONS.keys())
def test_not_constructed(world: World, case: tuple[dict[int, str], str, list[str]]) -> None:
    """A token that would lack a name, a symbol, a model or a master is not made."""
    changes, name, args = case
    given = [NAME, SYMBOL, world.controller, world.owner, MODEL_ID, RUN_ID]
    changed = [changes.get(index, value) for index, value in enumerate(given)]
    assert world.constructor_revert(*changed) == (name, tuple(args))


def test_every_error_is_provoked() -> None:
    """Each error in the ABI is provoked by a case above."""
    provoked = {case[2] for case in CALLS.values()} | {case[1] for case in CONSTRUCTIONS.values()}
    assert provoked == errors_of("HokusaiToken")
