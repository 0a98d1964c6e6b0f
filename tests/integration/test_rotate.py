"""A key is handed over while its replicas work: nothing is lost, nothing is done twice, and no key
begins beside another's transactions."""

import socket
from collections.abc import Callable, Iterator

import pytest

from adapters.contracts import DEPLOYER_ROLE, GRANT_ROLE, REGISTRAR_ROLE
from adapters.embedded import DEV_ACCOUNT
from saga.audit import audit
from saga.model import Saga, State
from saga.store import redis_keys
from tests.support.chain import STRANGER, STRANGER_KEY, Node
from tests.support.commands import command, running
from tests.support.fleet import REFUSED_TO_START, Fleet, message

MakeFleet = Callable[..., Fleet]


@pytest.fixture(autouse=True)
def _blocks(service_node: Node) -> Iterator[None]:
    """No block until the test says so; afterwards one a second again, and nothing pending."""
    service_node.request("evm_setIntervalMining", 0)
    yield
    service_node.request("anvil_dropAllTransactions")
    service_node.request("evm_setIntervalMining", 1)


async def until_out(fleet: Fleet, node: Node, count: int) -> None:
    """Wait until so many transactions of the old key are in the pool."""
    before = node.nonce()
    await fleet.until(lambda *_: node.nonce(block="pending") == before + count)


def deployer(saga: Saga) -> str:
    assert saga.deployment is not None
    return saga.deployment.receipt.sender


async def test_handed_over_in_flight(service_node: Node, fleet_of: MakeFleet) -> None:
    """What is in flight is finished by the old key, the rest by the new one; the audit finds
    nothing, and the old key does not start again."""
    node = service_node
    sent = [message(f"rotated-{n}") for n in range(8)]
    fleet = fleet_of(MAX_IN_FLIGHT="4")
    fleet.start()
    await fleet.until_started()
    fleet.send(sent)
    await until_out(fleet, node, 4)
    following = node.nonce() + 4
    arguments = ("keys", "rotate", "--to", STRANGER, "--json")
    async with running(fleet.clean_environment(), *arguments) as rotating:
        await rotating.until_said("waiting, 4 out")
        node.request("evm_setIntervalMining", 1)
        done = await rotating.ended()
    assert done.status == 0, done.err
    assert done.document["next_nonce"] == following
    assert fleet.lane()["retired"] == f"retired:{STRANGER}"
    assert fleet.lane()["next"] == str(following)
    assert node.nonce() == following
    assert fleet.stop() == [0]
    again = fleet.start()
    assert again.wait(60) == REFUSED_TO_START
    assert f"{DEV_ACCOUNT} is retired, its work went to {STRANGER}" in fleet.log(again)
    for call in done.document["to_do"]["grants"]:
        node.transact(DEV_ACCOUNT, call["contract"], call["data"])
    fleet.start(DEPLOYER_PRIVATE_KEY=STRANGER_KEY)
    evidence = await fleet.settled(sent)
    assert audit(evidence) == []
    ended = list(evidence.sagas.values())
    assert [saga.state for saga in ended] == [State.ACKED] * 8
    by_whom = [deployer(saga) for saga in ended]
    assert (by_whom.count(DEV_ACCOUNT), by_whom.count(STRANGER)) == (2, 6)
    assert fleet.lane()["next"] == str(following)


async def test_a_refused_rotation_changes_nothing(service_node: Node, fleet_of: MakeFleet) -> None:
    """When the time is over the old key goes on as if nothing had been."""
    sent = [message(f"kept-{n}") for n in range(4)]
    fleet = fleet_of(MAX_IN_FLIGHT="4")
    fleet.start()
    await fleet.until_started()
    fleet.send(sent)
    await until_out(fleet, service_node, 4)
    arguments = ("keys", "rotate", "--to", STRANGER, "--wait", "0")
    refused = await command(fleet.clean_environment(), *arguments)
    assert refused.status == 1
    assert refused.err.count(" of saga ") == 4
    assert "retired" not in fleet.lane()
    service_node.request("evm_setIntervalMining", 1)
    evidence = await fleet.settled(sent)
    assert audit(evidence) == []
    assert {deployer(saga) for saga in evidence.sagas.values()} == {DEV_ACCOUNT}


async def test_a_changed_key_is_refused(service_node: Node, fleet_of: MakeFleet) -> None:
    """A key that was changed between restarts, with transactions of the old one out, is one line
    that names key and nonces and says how to drain, also where the release before kept no list of
    its lanes; the old key finishes them."""
    sent = [message("changed")]
    fleet = fleet_of()
    fleet.start()
    await fleet.until_started()
    fleet.send(sent)
    await until_out(fleet, service_node, 2)
    fleet.end()
    first = service_node.nonce()
    keys = redis_keys(fleet.settings)
    with fleet.redis as client:
        assert client.delete(keys.lanes, keys.lanes_listed) == 2
    changed = fleet.start(DEPLOYER_PRIVATE_KEY=STRANGER_KEY)
    assert changed.wait(60) == REFUSED_TO_START
    lines = [line for line in fleet.log(changed).splitlines() if "former key" in line]
    assert len(lines) == 1
    assert f"the former key {DEV_ACCOUNT} has nonces {first} to {first + 1} out" in lines[0]
    assert f"`saga keys rotate --from {DEV_ACCOUNT} --to {STRANGER}`" in lines[0]
    assert f"`saga run --abandon-key {DEV_ACCOUNT}`" in lines[0]
    service_node.request("evm_setIntervalMining", 1)
    fleet.start()
    assert audit(await fleet.settled(sent)) == []


async def test_a_lost_key(own_node: Node, fleet_on: MakeFleet) -> None:
    """With --abandon-key a replica with another key starts although the lost one has transactions
    out; where it does not start for another reason, the lost key is not given up yet. What is never
    mined is done again by the new key, and no model has two tokens."""
    node = own_node
    sent = [message(f"lost-{n}") for n in range(6)]
    fleet = fleet_on(node, MAX_IN_FLIGHT="4", DEPLOYMENT_TIMEOUT="3", RETRY_MAX_SECONDS="1")
    for contract, role in ((node.manager, DEPLOYER_ROLE), (node.registry, REGISTRAR_ROLE)):
        grant = GRANT_ROLE.encode(bytes.fromhex(role[2:]), STRANGER)
        node.transact(DEV_ACCOUNT, contract, grant)
    node.request("evm_setIntervalMining", 0)
    node.hold_blocks()
    fleet.send(sent)
    lost = fleet.start()
    await fleet.until_started()
    await until_out(fleet, node, 4)
    fleet.kill(lost)
    node.request("anvil_dropAllTransactions")
    node.request("anvil_setBalance", DEV_ACCOUNT, "0x0")
    node.request("evm_setIntervalMining", 1)
    refused = fleet.start(DEPLOYER_PRIVATE_KEY=STRANGER_KEY)
    assert refused.wait(60) == REFUSED_TO_START
    assert f"saga run --abandon-key {DEV_ACCOUNT}" in fleet.log(refused)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        abandon = ("--abandon-key", DEV_ACCOUNT)
        blocked = fleet.start(*abandon, DEPLOYER_PRIVATE_KEY=STRANGER_KEY, HTTP_PORT=port)
        assert blocked.wait(60) == REFUSED_TO_START
    assert f"HTTP_PORT: {port} cannot be opened" in fleet.log(blocked)
    assert "retired" not in fleet.lane()
    fleet.start("--abandon-key", DEV_ACCOUNT, DEPLOYER_PRIVATE_KEY=STRANGER_KEY)
    evidence = await fleet.settled(sent)
    assert audit(evidence) == []
    assert {saga.state for saga in evidence.sagas.values()} == {State.ACKED}
    assert {deployer(saga) for saga in evidence.sagas.values()} == {STRANGER}
    assert len(node.tokens()) == len(sent)
    fleet.start(DEPLOYER_PRIVATE_KEY=STRANGER_KEY)
    await fleet.until_started()
