"""Laws of the strategy `create2`: the address follows from the model and the content alone."""

from collections.abc import Callable, Iterator

import pytest
from eth_abi.abi import encode as abi_encode
from eth_utils.crypto import keccak

from adapters.contracts import MODEL_LINKED, Function, artifact, topic_of
from adapters.embedded import DEV_MNEMONIC_KEY
from adapters.strategies import PROXY, Create2Strategy, create2_address
from saga.facts import Absent, RegistryConflict, TokenExists
from saga.messages import token_name
from saga.model import Step
from tests.support.chain import (
    STRANGER,
    STRANGER_KEY,
    Node,
    chain_side,
    content_of,
    new_saga,
)

MODEL = "model_1"
OWNER = Function("owner()", "address")


@pytest.fixture(autouse=True)
def _undone(node: Node) -> Iterator[None]:
    with node.rolled_back():
        yield


async def test_address_ignores_the_key(node: Node) -> None:
    """Every signing key would make the same call, hence the same token."""
    saga, calls = new_saga(MODEL), []
    for key in (DEV_MNEMONIC_KEY, STRANGER_KEY):
        async with chain_side(node, "create2", key=key) as side:
            found = await side.chain.look_up(saga, Step.DEPLOY, content_of(saga))
        assert isinstance(found, Absent)
        calls.append((found.call.to, found.call.data, found.call.predicted))
    assert calls[0] == calls[1]


async def test_code_is_found_at_the_predicted_address(node: Node) -> None:
    """After a rotated key the token is found by its code alone, and nothing is sent."""
    async with chain_side(node, "create2", key=STRANGER_KEY) as before:
        saga = await before.carry_out(new_saga(MODEL), Step.DEPLOY)
    async with chain_side(node, "create2") as now:
        found = await now.chain.look_up(new_saga(MODEL), Step.DEPLOY, content_of(saga))
    assert saga.deploy is not None
    assert isinstance(found, TokenExists)
    assert found.deployment.token == saga.deploy.predicted
    assert found.deployment.receipt.sender == STRANGER
    assert node.tokens() == {saga.deploy.predicted}


async def test_owner(node: Node) -> None:
    """The token belongs to the manager, not to the proxy that made it, nor to the signing key."""
    async with chain_side(node, "create2") as side:
        saga = await side.carry_out(new_saga(MODEL), Step.DEPLOY)
    assert saga.deployment is not None
    assert node.read(saga.deployment.token, OWNER) == node.manager
    assert node.controller(saga.deployment.token) == node.manager


async def test_traits(node: Node) -> None:
    """The token is, in code, content and power, what it is compared with when another made it."""
    async with chain_side(node, "create2") as side:
        saga = await side.carry_out(new_saga(MODEL), Step.DEPLOY)
        assert saga.deployment is not None
        theirs = await side.history.traits(saga.deployment.token)
        assert theirs == side.strategy.traits(content_of(saga))


async def test_frozen_initcode(node: Node) -> None:
    """The intent keeps the hash of the creation code that is sent, and the address follows."""
    async with chain_side(node, "create2") as side:
        found = await side.chain.look_up(new_saga(MODEL), Step.DEPLOY, content_of(new_saga(MODEL)))
        assert isinstance(found, Absent)
        intent = await side.lane.sign(Step.DEPLOY, found.call, 0)
    sent = bytes.fromhex(found.call.data[2:])
    assert intent.to == PROXY
    assert intent.initcode_hash == "0x" + keccak(sent[32:]).hex()
    assert intent.predicted == create2_address(sent[:32], keccak(sent[32:]))


# --- Logs that anybody can make.


def by_a_plain_creation(node: Node) -> None:
    """A stranger creates our token contract for the model, without CREATE2."""
    node.transact(STRANGER, None, "0x" + token_creation().hex())


def by_the_proxy_with_another_salt(node: Node) -> None:
    """A stranger creates it through the proxy, with a salt that is not the model's."""
    node.transact(STRANGER, PROXY, "0x" + (bytes(32) + token_creation()).hex())


def by_a_mere_log(node: Node) -> None:
    """A stranger's constructor emits the log and leaves no code."""
    # PUSH32 topic, PUSH32 topic, PUSH1 0, PUSH1 0, LOG2, STOP
    topics = f"7f{topic_of(MODEL)[2:]}7f{MODEL_LINKED.topic[2:]}"
    node.transact(STRANGER, None, f"0x{topics}60006000a200")


def token_creation() -> bytes:
    arguments = abi_encode(
        ["string", "string", "address", "address", "string", "string"],
        ["Fake", "FAKE", STRANGER, STRANGER, MODEL, "fake-run"],
    )
    return bytes.fromhex(artifact("HokusaiToken").bytecode[2:]) + arguments


FAKES = [by_a_plain_creation, by_the_proxy_with_another_salt, by_a_mere_log]


@pytest.mark.parametrize("fake", FAKES)
async def test_fake_log_makes_no_token(node: Node, fake: Callable[[Node], None]) -> None:
    """A stranger's ModelLinked log neither stops the model's token nor takes its place."""
    fake(node)
    async with chain_side(node, "create2") as side:
        saga = await side.carry_out(new_saga(MODEL), Step.DEPLOY)
        later = new_saga(MODEL, token_symbol="OTHER")
        found = await side.chain.look_up(later, Step.DEPLOY, content_of(later))
    assert isinstance(found, TokenExists)
    assert saga.deployment is not None
    assert found.deployment.token == saga.deployment.token
    assert found.symbol == "HKAI-1"


async def test_squatter(node: Node) -> None:
    """A contract that a stranger made with the model's salt and content is never adopted."""
    saga = new_saga(MODEL)
    message = content_of(saga)
    async with chain_side(node, "create2") as side:
        strategy = side.strategy
        assert isinstance(strategy, Create2Strategy)
        arguments = abi_encode(
            ["string", "string", "address", "address", "string", "string"],
            [
                token_name(MODEL),
                message.token_symbol,
                STRANGER,
                STRANGER,
                MODEL,
                message.mlflow_run_id,
            ],
        )
        creation = bytes.fromhex(artifact("HokusaiToken").bytecode[2:]) + arguments
        node.transact(STRANGER, PROXY, "0x" + (strategy.salt(MODEL) + creation).hex())
        found = await side.chain.look_up(saga, Step.DEPLOY, message)
    assert isinstance(found, RegistryConflict)
    assert "another owner, controller or code" in found.reason
    assert found.reason.endswith(
        f"give it: controller '{STRANGER}' instead of '{node.manager}', "
        f"owner '{STRANGER}' instead of '{node.manager}'"
    )


async def test_mined_between_two_questions(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own token that is mined between the look at its code and the look at the logs is ours."""
    saga = new_saga(MODEL)
    async with chain_side(node, "create2") as side:
        found = await side.chain.look_up(saga, Step.DEPLOY, content_of(saga))
        assert isinstance(found, Absent)
        linked_token = side.history.linked_token

        async def mined_first(model_id: str, salt: bytes) -> str | None:
            node.transact(STRANGER, found.call.to, found.call.data)
            await side.watcher.poll()
            return await linked_token(model_id, salt)

        monkeypatch.setattr(side.history, "linked_token", mined_first)
        again = await side.chain.look_up(saga, Step.DEPLOY, content_of(saga))
    assert isinstance(again, TokenExists)
    assert again.deployment.token == found.call.predicted


async def test_front_runner(node: Node) -> None:
    """Whoever sends our very call first has made our token: it is adopted."""
    saga = new_saga(MODEL)
    async with chain_side(node, "create2") as side:
        found = await side.chain.look_up(saga, Step.DEPLOY, content_of(saga))
        assert isinstance(found, Absent)
        node.transact(STRANGER, found.call.to, found.call.data)
        await side.watcher.poll()
        after = await side.chain.look_up(saga, Step.DEPLOY, content_of(saga))
    assert isinstance(after, TokenExists)
    assert after.deployment.token == found.call.predicted
    assert node.controller(after.deployment.token) == node.manager
