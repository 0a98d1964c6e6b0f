"""Laws of the strategy `manager`: the TokenManager makes the token and refuses a second one."""

from collections.abc import Iterator

import pytest

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
from saga.errors import ChainError
from saga.facts import Absent, Refused, TokenExists
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
    """A model whose registry entry never said that it is the model's gets no token beside it."""
    data = REGISTER_MODEL.encode(MODEL, node.manager, "accuracy", "run")
    node.transact(DEV_ACCOUNT, node.registry, data)
    async with chain_side(node) as side:
        saga = new_saga(MODEL)
        with pytest.raises(ChainError, match=f"{node.manager} has no ModelLinked log"):
            await side.chain.look_up(saga, Step.DEPLOY, content_of(saga))
