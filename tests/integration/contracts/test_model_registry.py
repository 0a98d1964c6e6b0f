from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from eth_typing import ChecksumAddress
from eth_utils.crypto import keccak
from web3.contract import Contract
from web3.contract.contract import ContractFunction
from web3.types import TxReceipt

from adapters.embedded import EmbeddedAnvil
from tests.integration.contracts.chain import (
    ADMIN_ROLE,
    ZERO,
    Chain,
    Revert,
    errors_of,
    event,
    logs,
    role,
    role_granted,
    topic,
)

REGISTRAR_ROLE = role("REGISTRAR_ROLE")
MODEL_ID, METRIC, RUN_ID = "sentiment/2/HSENT", "accuracy", "0123456789abcdef0123456789abcdef"
ABSENT = [ZERO, "", "", 0, False]


class World(NamedTuple):
    chain: Chain
    registry: Contract
    receipt: TxReceipt
    token: ChecksumAddress
    free_token: ChecksumAddress
    creator: ChecksumAddress
    admin: ChecksumAddress
    registrar: ChecksumAddress
    stranger: ChecksumAddress

    def revert(self, call: ContractFunction, sender: str) -> Revert:
        return self.chain.revert(call, sender, self.registry.abi)

    def register(self, *args: Any) -> TxReceipt:
        return self.chain.send(self.registry.functions.registerModel(*args), self.registrar)

    def model(self, model_id: str) -> list[Any]:
        return list(self.registry.functions.getModel(model_id).call())


@pytest.fixture(scope="module")
def deployed(anvil: EmbeddedAnvil) -> World:
    chain = Chain.at(anvil.url)
    creator, admin, registrar, stranger = (chain.account(index) for index in range(4))
    registry, receipt = chain.deploy("ModelRegistry", admin)
    chain.send(registry.functions.grantRole(REGISTRAR_ROLE, registrar), admin)
    token, free_token = (
        chain.deploy("HokusaiToken", "Name", "SYM", admin, admin, model_id, "")[0].address
        for model_id in (MODEL_ID, "free")
    )
    chain.send(registry.functions.registerModel(MODEL_ID, token, METRIC, RUN_ID), registrar)
    return World(chain, registry, receipt, token, free_token, creator, admin, registrar, stranger)


@pytest.fixture
def world(deployed: World) -> Iterator[World]:
    """A registry that knows MODEL_ID, put back after each test."""
    with deployed.chain.rolled_back():
        yield deployed


def test_constructed(world: World) -> None:
    """A new registry has an admin and nothing else: no registrar, its creator no role."""
    assert logs(world.receipt) == [
        role_granted(world.registry.address, ADMIN_ROLE, world.admin, world.creator)
    ]


def test_role_id(world: World) -> None:
    """The registrar's role is the hash of its name, and the admin role governs it."""
    calls = world.registry.functions
    assert calls.REGISTRAR_ROLE().call() == REGISTRAR_ROLE
    assert calls.getRoleAdmin(REGISTRAR_ROLE).call() == ADMIN_ROLE


def test_registered(world: World) -> None:
    """A registered model is found by its id and by its token, active, at its block's time."""
    receipt = world.register("free", world.free_token, "f1", "run")
    mined_at = world.chain.w3.eth.get_block(receipt["blockNumber"])["timestamp"]
    calls = world.registry.functions
    assert calls.isRegistered("free").call()
    assert calls.getToken("free").call() == world.free_token
    assert calls.modelOf(world.free_token).call() == "free"
    assert world.model("free") == [world.free_token, "f1", "run", mined_at, True]


def test_registration_event(world: World) -> None:
    """A registration leaves one log, with the id's hash and the token as topics."""
    receipt = world.register("free", world.free_token, "f1", "run")
    assert logs(receipt) == [
        event(
            world.registry.address,
            "ModelRegistered(string,address,string,string)",
            [keccak(text="free"), topic(world.free_token)],
            ["string", "string"],
            "f1",
            "run",
        )
    ]


@pytest.mark.parametrize(
    "text", ["x", "x" * 31, "x" * 32, "x" * 256, "modèle/✓/日本"], ids=["1", "31", "32", "256", "é"]
)
def test_texts(world: World, text: str) -> None:
    """Texts of any length and script come back as they were given."""
    world.register(text, world.free_token, text, text)
    assert world.model(text)[:3] == [world.free_token, text, text]
    assert world.registry.functions.modelOf(world.free_token).call() == text


@pytest.mark.parametrize("model_id", ["unknown", "", MODEL_ID.lower(), f"{MODEL_ID} "])
def test_unknown_model(world: World, model_id: str) -> None:
    """An id that is not exactly a registered one reads as zeros, and asking does not revert."""
    calls = world.registry.functions
    assert not calls.isRegistered(model_id).call()
    assert calls.getToken(model_id).call() == ZERO
    assert world.model(model_id) == ABSENT


def test_unknown_token(world: World) -> None:
    """A token that is not registered has no model, and asking does not revert."""
    assert world.registry.functions.modelOf(world.free_token).call() == ""
    assert world.registry.functions.modelOf(ZERO).call() == ""


def test_second_registration(world: World) -> None:
    """A sent repetition fails and changes nothing."""
    before = world.model(MODEL_ID)
    call = world.registry.functions.registerModel(MODEL_ID, world.free_token, "f1", "run")
    sent = call.transact({"from": world.registrar, "gas": 500_000})
    receipt = world.chain.w3.eth.wait_for_transaction_receipt(sent)
    assert (receipt["status"], receipt["logs"]) == (0, [])
    assert world.model(MODEL_ID) == before
    assert world.registry.functions.modelOf(world.free_token).call() == ""


def test_withdrawn(world: World) -> None:
    """A withdrawn model is inactive, logged, and still keeps its id and its token."""
    calls = world.registry.functions
    receipt = world.chain.send(calls.setActive(MODEL_ID, False), world.admin)
    signature = "ModelActiveSet(string,bool)"
    topics = [keccak(text=MODEL_ID)]
    assert logs(receipt) == [event(world.registry.address, signature, topics, ["bool"], False)]
    assert world.model(MODEL_ID)[-1] is False
    assert calls.isRegistered(MODEL_ID).call()
    assert calls.getToken(MODEL_ID).call() == world.token
    call = calls.registerModel(MODEL_ID, world.free_token, METRIC, RUN_ID)
    assert world.revert(call, world.registrar) == (
        "ModelAlreadyRegistered",
        (MODEL_ID, world.token),
    )


def test_back_in_use(world: World) -> None:
    """A withdrawn model that is put back is as before."""
    before = world.model(MODEL_ID)
    for active in (False, True):
        world.chain.send(world.registry.functions.setActive(MODEL_ID, active), world.admin)
    assert world.model(MODEL_ID) == before


def test_revoked(world: World) -> None:
    """A registrar whose role was revoked registers nothing."""
    calls = world.registry.functions
    world.chain.send(calls.revokeRole(REGISTRAR_ROLE, world.registrar), world.admin)
    call = calls.registerModel("free", world.free_token, METRIC, RUN_ID)
    assert world.revert(call, world.registrar) == (
        "AccessControlUnauthorizedAccount",
        (world.registrar, REGISTRAR_ROLE),
    )


# Whose call, what it calls, the error with its arguments. Senders are roles of World.
Case = tuple[str, Callable[[Any, World], ContractFunction], str, Callable[[World], list[Any]]]

UNAUTHORIZED = "AccessControlUnauthorizedAccount"
CALLS: dict[str, Case] = {
    "a stranger registers": (
        "stranger",
        lambda registry, world: registry.registerModel("free", world.free_token, METRIC, RUN_ID),
        UNAUTHORIZED,
        lambda world: [world.stranger, REGISTRAR_ROLE],
    ),
    "the admin registers": (
        "admin",
        lambda registry, world: registry.registerModel("free", world.free_token, METRIC, RUN_ID),
        UNAUTHORIZED,
        lambda world: [world.admin, REGISTRAR_ROLE],
    ),
    "no model id": (
        "registrar",
        lambda registry, world: registry.registerModel("", world.free_token, METRIC, RUN_ID),
        "EmptyField",
        lambda _: ["modelId"],
    ),
    "no metric": (
        "registrar",
        lambda registry, world: registry.registerModel("free", world.free_token, "", RUN_ID),
        "EmptyField",
        lambda _: ["performanceMetric"],
    ),
    "no run": (
        "registrar",
        lambda registry, world: registry.registerModel("free", world.free_token, METRIC, ""),
        "EmptyField",
        lambda _: ["mlflowRunId"],
    ),
    "no token": (
        "registrar",
        lambda registry, _: registry.registerModel("free", ZERO, METRIC, RUN_ID),
        "TokenHasNoCode",
        lambda _: [ZERO],
    ),
    "a token that is a person": (
        "registrar",
        lambda registry, world: registry.registerModel("free", world.stranger, METRIC, RUN_ID),
        "TokenHasNoCode",
        lambda world: [world.stranger],
    ),
    "the same registration again": (
        "registrar",
        lambda registry, world: registry.registerModel(MODEL_ID, world.token, METRIC, RUN_ID),
        "ModelAlreadyRegistered",
        lambda world: [MODEL_ID, world.token],
    ),
    "another token for the model": (
        "registrar",
        lambda registry, world: registry.registerModel(MODEL_ID, world.free_token, METRIC, RUN_ID),
        "ModelAlreadyRegistered",
        lambda world: [MODEL_ID, world.token],
    ),
    "another model for the token": (
        "registrar",
        lambda registry, world: registry.registerModel("free", world.token, METRIC, RUN_ID),
        "TokenAlreadyRegistered",
        lambda world: [world.token, MODEL_ID],
    ),
    "a registrar withdraws a model": (
        "registrar",
        lambda registry, _: registry.setActive(MODEL_ID, False),
        UNAUTHORIZED,
        lambda world: [world.registrar, ADMIN_ROLE],
    ),
    "an unknown model is withdrawn": (
        "admin",
        lambda registry, _: registry.setActive("unknown", False),
        "ModelNotRegistered",
        lambda _: ["unknown"],
    ),
    "a registrar grants its role": (
        "registrar",
        lambda registry, world: registry.grantRole(REGISTRAR_ROLE, world.stranger),
        UNAUTHORIZED,
        lambda world: [world.registrar, ADMIN_ROLE],
    ),
    "a stranger revokes a role": (
        "stranger",
        lambda registry, world: registry.revokeRole(REGISTRAR_ROLE, world.registrar),
        UNAUTHORIZED,
        lambda world: [world.stranger, ADMIN_ROLE],
    ),
    "a stranger gives up another's role": (
        "stranger",
        lambda registry, world: registry.renounceRole(REGISTRAR_ROLE, world.registrar),
        "AccessControlBadConfirmation",
        lambda _: [],
    ),
}


@pytest.mark.parametrize("case", CALLS.values(), ids=CALLS.keys())
def test_refused(world: World, case: Case) -> None:
    """A call that may not be is refused with the error that says why."""
    sender, call, name, args = case
    found = world.revert(call(world.registry.functions, world), getattr(world, sender))
    assert found == (name, tuple(args(world)))


def test_no_admin(world: World) -> None:
    """A registry without an admin is not made."""
    creation = world.chain.creation("ModelRegistry", ZERO)
    assert world.chain.revert(creation, world.creator, world.registry.abi) == ("ZeroAdmin", ())


def test_every_error_is_provoked() -> None:
    """Each error in the ABI is provoked by a test above."""
    provoked = {case[2] for case in CALLS.values()}
    assert provoked | {"ZeroAdmin"} == errors_of("ModelRegistry")
