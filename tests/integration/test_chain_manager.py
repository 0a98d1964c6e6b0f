"""Laws of the strategy `manager`: the TokenManager makes the token and refuses a second one."""

import re
from collections.abc import Iterator

import pytest
from eth_utils.address import to_checksum_address

from adapters.contracts import (
    DEPLOYER_ROLE,
    GRANT_ROLE,
    PREDICT_TOKEN,
    REGISTER_MODEL,
    TOKEN_OF,
    revert_reason,
)
from adapters.embedded import DEV_ACCOUNT
from adapters.rpc import RpcClient, RpcError
from adapters.strategies import initcode
from saga.facts import Absent, Refused, RegistryConflict, TokenExists
from saga.messages import token_name
from saga.model import Step
from tests.support.chain import STRANGER, STRANGER_KEY, Node, chain_side, content_of, new_saga

MODEL = "model_1"


@pytest.fixture(autouse=True)
def _undone(node: Node) -> Iterator[None]:
    with node.rolled_back():
        yield


async def test_prediction(node: Node) -> None:
    """The address is the one that the manager predicts, before and after the deployment."""
    content = (MODEL, token_name(MODEL), "HKAI-1", f"run-{MODEL}")
    predicted = node.read(node.manager, PREDICT_TOKEN, *content)
    async with chain_side(node) as side:
        saga = await side.carry_out(new_saga(MODEL), Step.DEPLOY)
    assert saga.deploy is not None
    assert saga.deploy.predicted == predicted
    assert node.read(node.manager, TOKEN_OF, MODEL) == predicted
    assert node.read(node.manager, PREDICT_TOKEN, *content) == predicted


async def test_deployer_role(node: Node) -> None:
    """Without DEPLOYER_ROLE the call is refused before anything is signed, naming the error."""
    async with chain_side(node, key=STRANGER_KEY) as side:
        saga = new_saga(MODEL)
        found = await side.chain.look_up(saga, Step.DEPLOY, content_of(saga))
    assert isinstance(found, Refused)
    assert "AccessControlUnauthorizedAccount" in found.reason
    assert STRANGER.lower() in found.reason.lower()


async def test_second_token_is_refused_on_the_chain(node: Node) -> None:
    """A caller that does not ask first is refused by the contract, and told which token it is."""
    async with chain_side(node) as side:
        first = await side.intend(new_saga(MODEL), Step.DEPLOY)
        other = new_saga(MODEL, token_symbol="OTHER")
        blind = await side.chain.look_up(other, Step.DEPLOY, content_of(other))
        await side.chain.send(first, Step.DEPLOY)
        await side.settle(first, Step.DEPLOY)
    assert isinstance(blind, Absent)
    call = {"from": DEV_ACCOUNT, "to": blind.call.to, "data": blind.call.data}
    rpc = RpcClient(node.url)
    try:
        with pytest.raises(RpcError) as caught:
            await rpc.call("eth_call", call, "latest")
    finally:
        await rpc.close()
    reason = revert_reason(caught.value.data)
    assert reason is not None
    assert reason.startswith(f"TokenAlreadyDeployed(modelId='{MODEL}'")
    assert first.deploy is not None
    assert first.deploy.predicted.lower() in reason.lower()


async def test_token_of_another_deployer(node: Node) -> None:
    """A token that somebody else with the role made through the manager is adopted."""
    role = bytes.fromhex(DEPLOYER_ROLE[2:])
    node.transact(DEV_ACCOUNT, node.manager, GRANT_ROLE.encode(role, STRANGER))
    async with chain_side(node, key=STRANGER_KEY) as theirs:
        saga = await theirs.carry_out(new_saga(MODEL), Step.DEPLOY)
    async with chain_side(node) as ours:
        found = await ours.chain.look_up(saga, Step.DEPLOY, content_of(saga))
    assert isinstance(found, TokenExists)
    assert found.deployment.receipt.sender == STRANGER


async def test_registered_token_of_another_origin(node: Node) -> None:
    """A model's registered token is adopted, also when the manager did not make it."""
    async with chain_side(node, "create2") as before:
        deployed = await before.carry_out(new_saga(MODEL), Step.DEPLOY)
        await before.carry_out(deployed, Step.REGISTER)
    async with chain_side(node) as now:
        found = await now.chain.look_up(new_saga(MODEL), Step.DEPLOY, content_of(deployed))
    assert isinstance(found, TokenExists)
    assert deployed.deployment is not None
    assert found.deployment.token == deployed.deployment.token


async def test_registered_contract_that_is_no_token(node: Node) -> None:
    """A model whose registry entry is no token at all gets none beside it, and is not adopted."""
    enter(node, node.manager)
    found = await looked_up(node)
    assert isinstance(found, RegistryConflict)
    assert f"the registry holds token {node.manager} for this model, which is not" in found.reason
    assert "code hash '0x" in found.reason
    assert "symbol none instead of 'HKAI-1'" in found.reason
    assert f"controller none instead of '{node.manager}'" in found.reason


# --- Tokens that a stranger has made and entered.


def made_by_a_stranger(node: Node, creation: bytes) -> str:
    """A contract of this creation code, entered for the model by a hand that has the role."""
    receipt = node.transact(STRANGER, None, "0x" + creation.hex())
    token = str(to_checksum_address(receipt["contractAddress"]))
    enter(node, token)
    return token


def enter(node: Node, token: str) -> None:
    data = REGISTER_MODEL.encode(MODEL, token, "accuracy", "run")
    node.transact(DEV_ACCOUNT, node.registry, data)


async def looked_up(node: Node) -> object:
    async with chain_side(node) as side:
        saga = new_saga(MODEL)
        return await side.chain.look_up(saga, Step.DEPLOY, content_of(saga))


def creation_of(node: Node, **changes: str) -> bytes:
    """Our token's creation code, by anybody; `changes`: controller, owner."""
    powers = {"controller": node.manager, "owner": node.manager} | changes
    return initcode(content_of(new_saga(MODEL)), **powers)


async def test_code_hash(node: Node) -> None:
    """The code that the chain has of a token is the artifact's: no immutables are in it."""
    async with chain_side(node) as side:
        saga = await side.carry_out(new_saga(MODEL), Step.DEPLOY)
        assert saga.deployment is not None
        theirs = await side.history.traits(saga.deployment.token)
        assert theirs == side.strategy.traits(content_of(saga))


async def test_identical_token_of_a_stranger(node: Node) -> None:
    """A stranger's token that is what we would have made is adopted."""
    token = made_by_a_stranger(node, creation_of(node))
    found = await looked_up(node)
    assert isinstance(found, TokenExists)
    assert (found.deployment.token, found.deployment.adopted) == (token, True)
    assert found.deployment.receipt.sender == STRANGER


@pytest.mark.parametrize("power", ["controller", "owner"])
async def test_another_power(node: Node, power: str) -> None:
    """Our code and content in another's hand is a conflict that names both, and nothing else."""
    token = made_by_a_stranger(node, creation_of(node, **{power: STRANGER}))
    assert await looked_up(node) == RegistryConflict(
        f"the registry holds token {token} for this model, which is not what this service would "
        f"have deployed: {power} '{STRANGER}' instead of '{node.manager}'"
    )


async def test_another_code(node: Node) -> None:
    """Another bytecode that says the same of itself in everything is a conflict of the code."""
    token = made_by_a_stranger(node, creation_of(node))
    code = node.request("eth_getCode", token, "latest")
    node.request("anvil_setCode", token, code + "00")  # one byte behind the end, never reached
    found = await looked_up(node)
    assert isinstance(found, RegistryConflict)
    assert re.fullmatch(
        f"the registry holds token {token} for this model, which is not what this service would "
        "have deployed: code hash '0x[0-9a-f]{64}' instead of '0x[0-9a-f]{64}'",
        found.reason,
    )


async def test_another_model(node: Node) -> None:
    """Our code made for another model is a conflict: nothing waits for a log that never comes."""
    other = initcode(content_of(new_saga("model_2")), controller=node.manager, owner=node.manager)
    made_by_a_stranger(node, other)
    found = await looked_up(node)
    assert isinstance(found, RegistryConflict)
    assert "model id 'model_2' instead of 'model_1'" in found.reason
    assert "code hash" not in found.reason
