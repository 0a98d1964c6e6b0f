"""A lane whose keeper is killed, whose key somebody else uses, and one lane beside another."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from adapters.contracts import DEPLOYER_ROLE, GRANT_ROLE, REGISTRAR_ROLE
from adapters.embedded import DEV_ACCOUNT, EmbeddedAnvil, EmbeddedValkey
from saga.audit import Evidence, audit
from saga.fees import GWEI
from saga.model import Saga, State
from tests.support.chain import STRANGER, STRANGER_KEY, Node
from tests.support.fleet import Fleet, message
from tests.support.proxy import open_proxy

LANE = 16
"""MAX_IN_FLIGHT: so many nonces are out once the lane is full."""
DEAR, CHEAP = 1000 * GWEI, GWEI
LOOK = "eth_getBlockByNumber"
MakeFleet = Callable[..., Fleet]


@pytest.fixture
def node() -> Iterator[Node]:
    """A chain of this test's own, with the contracts deployed and a block a second."""
    with EmbeddedAnvil("--gas-limit", "1000000000") as anvil:
        node = Node(anvil.url)
        node.request("evm_setIntervalMining", 1)
        yield node


@pytest.fixture
def fleet_of(node: Node, tmp_path: Path) -> Iterator[MakeFleet]:
    """Makes the fleet of the test; its processes and its Valkey end with it."""
    made: list[Fleet] = []
    with EmbeddedValkey() as valkey:

        def make(**settings: str) -> Fleet:
            made.append(Fleet(valkey.url, node.url, node.contracts, tmp_path, **settings))
            return made[-1]

        yield make
        for fleet in made:
            fleet.end()


def hold_blocks(node: Node) -> None:
    node.request("evm_setIntervalMining", 0)
    node.hold_blocks()


def out(node: Node, fleet: Fleet, sender: str = DEV_ACCOUNT) -> int:
    """How many nonces of a lane were given and are not spent."""
    spent = node.nonce(sender)
    return int(fleet.lane(sender).get("next", spent)) - spent


def nonces(evidence: Evidence, sender: str) -> list[int]:
    """Those that the sagas' transactions have, in order."""
    return sorted(
        intent.nonce
        for saga in evidence.sagas.values()
        for intent in (saga.deploy, saga.register)
        if intent is not None and intent.sender == sender
    )


def assert_all_done(evidence: Evidence, sent: Sequence[bytes]) -> None:
    assert audit(evidence) == []
    assert {saga.state for saga in evidence.sagas.values()} == {State.ACKED}
    assert len(evidence.events) == len(sent)
    assert all(len(found) == 1 for found in evidence.contracts.values())


async def test_the_keeper_is_killed(node: Node, fleet_of: MakeFleet) -> None:
    """Another replica becomes the keeper, under a higher fence, and brings in all that is out, even
    what the node has forgotten."""
    sent = [message(f"kept-{number}") for number in range(24)]
    fleet = fleet_of(BUMP_AFTER_SECONDS="1", BUMP_AFTER_BLOCKS="1")
    replicas = {}
    for _ in range(2):
        replica = fleet.start()
        await fleet.until_started()
        replicas[fleet.worker(replica)] = replica
    hold_blocks(node)
    fleet.send(sent)
    await fleet.until(lambda *_: out(node, fleet) == LANE and "keeper" in fleet.lane())
    before = fleet.lane()
    fleet.kill(replicas.pop(before["keeper"]))
    node.request("anvil_dropAllTransactions")
    (survivor,) = replicas
    await fleet.until(lambda *_: fleet.lane()["keeper"] == survivor)
    assert int(fleet.lane()["keeper_fence"]) > int(before["keeper_fence"])
    evidence = await fleet.settled(sent, each=node.mine)
    assert_all_done(evidence, sent)
    assert node.nonce() == int(fleet.lane()["next"])


async def test_two_keys(node: Node, fleet_of: MakeFleet) -> None:
    """Replicas with two keys share the work; each key's lane uses each of its nonces once."""
    sent = [message(f"keys-{number}") for number in range(60)]
    grant_roles(node, STRANGER)
    first = {DEV_ACCOUNT: node.nonce(DEV_ACCOUNT), STRANGER: node.nonce(STRANGER)}
    fleet = fleet_of(WORKER_POOL_SIZE="6")
    for changes in ({}, {}, {"DEPLOYER_PRIVATE_KEY": STRANGER_KEY}):
        fleet.start(**changes)
        await fleet.until_started()
    fleet.send(sent)
    evidence = await fleet.settled(sent)
    assert_all_done(evidence, sent)
    used = {sender: nonces(evidence, sender) for sender in first}
    for sender, begin in first.items():
        assert used[sender] == list(range(begin, begin + len(used[sender])))
        assert node.nonce(sender) == int(fleet.lane(sender)["next"])
    assert sum(map(len, used.values())) == 2 * len(sent)
    assert all(used.values())


async def test_another_keys_sagas(node: Node, fleet_of: MakeFleet) -> None:
    """A replica with another key brings in what a killed one has out, and sends nothing twice."""
    sent = [message(f"orphan-{number}") for number in range(LANE // 2)]
    grant_roles(node, STRANGER)
    # A used key: its count is above each nonce of the other one.
    for _ in range(2 * LANE):
        node.transact(STRANGER, STRANGER)
    # Nobody is left to keep the first key's lane: each saga sends its own bytes after this.
    fleet = fleet_of(DEPLOYMENT_TIMEOUT="4")
    replica = fleet.start()
    await fleet.until_started()
    async with open_proxy(node.url) as proxy:
        # It starts before anything is out, and gets no message of its own.
        fleet.start(
            DEPLOYER_PRIVATE_KEY=STRANGER_KEY,
            WEB3_PROVIDER_URL=proxy.url,
            POLL_SECONDS="0.1",
            INBOUND_QUEUE="another",
            PROCESSING_QUEUE=fleet.settings.processing_queue,
            DLQ_NAME=fleet.settings.dead_letter_queue,
        )
        await fleet.until_started()
        hold_blocks(node)
        fleet.send(sent)
        await fleet.until(lambda *_: out(node, fleet) == LANE)
        before = node.nonce(STRANGER)
        fleet.kill(replica)
        await fleet.until(taken_over)
        for _ in range(6):  # none of these blocks can hold them
            node.request("anvil_setNextBlockBaseFeePerGas", hex(DEAR))
            node.mine()
            looks = proxy.forwarded.count(LOOK) + 2
            await fleet.until(lambda *_, looks=looks: proxy.forwarded.count(LOOK) >= looks)
        assert out(node, fleet) == LANE
        node.request("anvil_setNextBlockBaseFeePerGas", hex(CHEAP))
        evidence = await fleet.settled(sent, each=node.mine)
        fleet.end()
    assert_all_done(evidence, sent)
    assert len(nonces(evidence, DEV_ACCOUNT)) == LANE
    assert node.nonce(STRANGER) == before


def taken_over(sagas: dict[str, Saga], _depths: dict[str, int]) -> bool:
    return all(saga.takeovers > 0 for saga in sagas.values())


def grant_roles(node: Node, account: str) -> None:
    """What a key needs to deploy and to register; mined on return."""
    for contract, role in ((node.registry, REGISTRAR_ROLE), (node.manager, DEPLOYER_ROLE)):
        node.transact(DEV_ACCOUNT, contract, GRANT_ROLE.encode(bytes.fromhex(role[2:]), account))


async def test_a_foreign_transaction(node: Node, fleet_of: MakeFleet) -> None:
    """A transaction that somebody sends with the key in the middle of a run costs no saga."""
    early = [message(f"early-{number}") for number in range(LANE // 2)]
    late = [message(f"late-{number}") for number in range(20)]
    fleet = fleet_of(BUMP_AFTER_SECONDS="1", BUMP_AFTER_BLOCKS="1")
    fleet.start()
    await fleet.until_started()
    hold_blocks(node)
    fleet.send(early)
    await fleet.until(lambda *_: out(node, fleet) == LANE)
    # The node forgets what is out, and gives its nonces to somebody else.
    node.request("anvil_dropAllTransactions")
    taken = node.nonce()
    foreign = {"from": DEV_ACCOUNT, "to": DEV_ACCOUNT}
    for _ in range(3):
        node.request("eth_sendTransaction", foreign)
    node.mine()
    assert node.nonce() > taken
    fleet.send(late)
    evidence = await fleet.settled([*early, *late], each=node.mine)
    assert_all_done(evidence, [*early, *late])
    assert node.nonce() == int(fleet.lane()["next"])
