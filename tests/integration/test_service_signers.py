"""The whole service with each kind of signer: 50 messages, all signed by the one key it has."""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from adapters.contracts import Function
from adapters.embedded import DEV_ACCOUNT
from saga.audit import Evidence, audit
from saga.model import Intent, State
from tests.support.chain import Node
from tests.support.fleet import Fleet, message
from tests.support.keys import SIGNERS, SignerSettings, fund, grant_roles
from tests.support.kms import is_high

MESSAGES = 50
OWNER = Function("owner()", "address")
MakeFleet = Callable[..., Fleet]


@pytest.fixture(params=SIGNERS)
def signer(
    request: pytest.FixtureRequest, tmp_path: Path, service_node: Node
) -> Iterator[SignerSettings]:
    """A signer of each kind, with an account that may deploy and register, and pay for it."""
    with SIGNERS[request.param](tmp_path) as signer:
        fund(service_node, signer.address)
        grant_roles(service_node, signer.address)
        yield signer


async def test_fifty_messages(
    signer: SignerSettings, service_node: Node, fleet_of: MakeFleet
) -> None:
    """50 messages become 50 tokens of the manager's; the signer's key sends all, and owns none."""
    node = service_node
    sent = [message(f"signed-{signer.address}-{number}") for number in range(MESSAGES)]
    first, foreign = node.nonce(signer.address), node.nonce(DEV_ACCOUNT)
    pinned = {"DEPLOYER_PRIVATE_KEY": "", "DEPLOYER_ADDRESS": signer.address}
    fleet = fleet_of(LOG_LEVEL="DEBUG", **(pinned | signer.environment))
    replica = fleet.start()
    await fleet.until_started()
    fleet.send(sent)
    evidence = await fleet.settled(sent)
    assert audit(evidence) == []
    assert [saga.state for saga in evidence.sagas.values()] == [State.ACKED] * MESSAGES
    for token in tokens_of(evidence):
        assert node.read(token, OWNER) == node.controller(token) == node.manager
    mined = transactions_of(evidence, node)
    assert len(mined) == 2 * MESSAGES == node.nonce(signer.address) - first
    assert {transaction["from"] for transaction in mined} == {signer.address.lower()}
    assert {int(transaction["type"], 16) for transaction in mined} == {2}
    assert not [one["hash"] for one in mined if is_high(int(one["s"], 16))]
    assert node.nonce(DEV_ACCOUNT) == foreign
    assert fleet.stop() == [0]
    log = fleet.log(replica)
    assert [secret for secret in signer.secrets if secret.lower() in log.lower()] == []


def tokens_of(evidence: Evidence) -> list[str]:
    """Of the sagas, each once."""
    tokens = {saga.deployment.token for saga in evidence.sagas.values() if saga.deployment}
    assert len(tokens) == MESSAGES
    return sorted(tokens)


def transactions_of(evidence: Evidence, node: Node) -> list[dict[str, Any]]:
    """What the sagas had mined, as the node has it."""
    intents = [(saga.deploy, saga.register) for saga in evidence.sagas.values()]
    ask = functools.partial(node.request, "eth_getTransactionByHash")
    found = [ask(hash_) for pair in intents for intent in pair for hash_ in hashes_of(intent)]
    return [one for one in found if one is not None and one["blockNumber"] is not None]


def hashes_of(intent: Intent | None) -> list[str]:
    assert intent is not None
    return [attempt.hash for attempt in intent.attempts]
