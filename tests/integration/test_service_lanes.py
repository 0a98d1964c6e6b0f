"""Several keys are several lanes: sagas are spread over them, and one that cannot pay is left."""

import asyncio
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from adapters.contracts import DEPLOYER_ROLE, GRANT_ROLE, REGISTRAR_ROLE
from adapters.embedded import DEV_ACCOUNT, DEV_MNEMONIC_KEY, EmbeddedAnvil
from saga.audit import Evidence, audit
from saga.fees import ETHER
from saga.model import Saga, State
from tests.support.chain import STRANGER, STRANGER_KEY, Node
from tests.support.fleet import REFUSED_TO_START, Fleet, message
from tests.support.proxy import SEND, open_proxy, rpc_error

MakeFleet = Callable[..., Fleet]
IN_FLIGHT = 4
MESSAGES = 100


@pytest.fixture
def two_keys(own_node: Node, tmp_path: Path) -> dict[str, str]:
    """Settings for two keys that may both deploy and register."""
    for contract, role in (
        (own_node.manager, DEPLOYER_ROLE),
        (own_node.registry, REGISTRAR_ROLE),
    ):
        grant = GRANT_ROLE.encode(bytes.fromhex(role[2:]), STRANGER)
        own_node.transact(DEV_ACCOUNT, contract, grant)
    keys = tmp_path / "keys"
    keys.write_text(f"{DEV_MNEMONIC_KEY}\n{STRANGER_KEY}\n")
    keys.chmod(0o600)
    return {
        "DEPLOYER_PRIVATE_KEY": "",
        "DEPLOYER_PRIVATE_KEYS_FILE": os.fspath(keys),
        "DEPLOYER_ADDRESS": f"{STRANGER},{DEV_ACCOUNT}",
        "MAX_IN_FLIGHT": str(IN_FLIGHT),
    }


def deployed(evidence: Evidence) -> list[Saga]:
    """The sagas, all of them done. Raises AssertionError."""
    assert audit(evidence) == []
    sagas = list(evidence.sagas.values())
    assert {saga.state for saga in sagas} == {State.ACKED}
    return sagas


def blocks(sagas: list[Saga]) -> int:
    """How many blocks the sagas' transactions took, from the first to the last."""
    numbers = [
        result.receipt.block_number
        for saga in sagas
        for result in (saga.deployment, saga.registration)
        if result is not None
    ]
    return max(numbers) - min(numbers) + 1


def senders(sagas: list[Saga]) -> Counter[str]:
    return Counter(saga.deployment.receipt.sender for saga in sagas if saga.deployment)


async def test_two_lanes_are_twice_as_fast(
    own_node: Node, fleet_on: MakeFleet, two_keys: dict[str, str]
) -> None:
    """Where MAX_IN_FLIGHT is the bound, a second key nearly halves the blocks that it takes."""
    with EmbeddedAnvil("--gas-limit", "1000000000") as other:
        single = Node(other.url)
        single.request("evm_setIntervalMining", 1)
        one, two = await asyncio.gather(
            spread(fleet_on(single, **names("one"), MAX_IN_FLIGHT=str(IN_FLIGHT))),
            spread(fleet_on(own_node, **names("two"), **two_keys)),
        )
    assert blocks(one) >= MESSAGES * 2 / IN_FLIGHT
    assert blocks(one) >= 1.8 * blocks(two), (blocks(one), blocks(two))
    used = senders(two)
    assert set(used) == {DEV_ACCOUNT, STRANGER}
    assert min(used.values()) >= 0.4 * MESSAGES, used


def names(fleet: str) -> dict[str, str]:
    """Keys and lists of a fleet's own."""
    return {name: f"{fleet}:{name}" for name in ("KEY_PREFIX", "INBOUND_QUEUE", "OUTBOUND_QUEUE")}


async def spread(fleet: Fleet) -> list[Saga]:
    """All messages through a fleet: their sagas."""
    sent = [message(f"spread_{number}") for number in range(MESSAGES)]
    fleet.send(sent)
    fleet.start()
    sagas = deployed(await fleet.settled(sent))
    assert len(sagas) == MESSAGES
    return sagas


async def test_a_lane_without_funds_is_left(
    own_node: Node, fleet_on: MakeFleet, two_keys: dict[str, str]
) -> None:
    """A lane that is emptied in mid-run keeps nothing back: the other one finishes everything. What
    it had given out is filled when it can pay again."""
    fleet = fleet_on(own_node, **two_keys)
    sent = [message(f"empty_{each}") for each in range(MESSAGES // 2)]
    fleet.send(sent)
    fleet.start()
    await fleet.until_counted(State.ACKED, MESSAGES // 8)
    own_node.request("anvil_setBalance", STRANGER, "0x0")
    sagas = deployed(await fleet.settled(sent))
    used = senders(sagas)
    assert used[DEV_ACCOUNT] > used[STRANGER] > 0, used
    assert own_node.nonce(STRANGER) < int(fleet.lane(STRANGER)["next"]), "something was left"
    own_node.request("anvil_setBalance", STRANGER, hex(ETHER))
    await fleet.until(lambda *_: own_node.nonce(STRANGER) == int(fleet.lane(STRANGER)["next"]))
    more = [message(f"filled_{each}") for each in range(MESSAGES // 8)]
    fleet.send(more)
    sagas = deployed(await fleet.settled(sent + more))
    assert senders(sagas)[STRANGER] > used[STRANGER], "the lane works again"
    lane = fleet.lane(STRANGER)
    assert own_node.nonce(STRANGER) == own_node.nonce(STRANGER, "pending") == int(lane["next"])
    assert len(own_node.tokens()) == len(sent + more)


async def test_the_only_lane_without_funds_waits(own_node: Node, fleet_on: MakeFleet) -> None:
    """A balance that runs dry in the middle of a burst holds the sagas, fails none of them, and
    they go on alone after a top-up."""
    fleet = fleet_on(own_node, MAX_IN_FLIGHT=str(IN_FLIGHT), RETRY_MAX_SECONDS="1")
    sent = [message(f"dry_{each}") for each in range(30)]
    fleet.send(sent)
    replica = fleet.start_measured()
    await fleet.until_counted(State.ACKED, 5)
    own_node.request("anvil_setBalance", DEV_ACCOUNT, "0x0")
    await fleet.until_logged(replica, "purse.low")
    assert await fleet.metric("saga_lane_balance_low", signer=DEV_ACCOUNT) == 1
    own_node.request("anvil_setBalance", DEV_ACCOUNT, hex(100 * ETHER))
    sagas = deployed(await fleet.settled(sent))
    assert senders(sagas) == {DEV_ACCOUNT: 30}


async def test_funds_refused_by_both(
    own_node: Node, fleet_on: MakeFleet, two_keys: dict[str, str]
) -> None:
    """A node that refuses every transaction for want of funds costs a saga a few nonces, not its
    history; it waits, and goes on when the node has changed its mind."""
    async with open_proxy(own_node.url) as proxy:
        fleet = fleet_on(own_node, WEB3_PROVIDER_URL=proxy.url, RETRY_MAX_SECONDS="1", **two_keys)
        replica = fleet.start_measured()
        await fleet.until_started()
        why = "insufficient funds for gas * price + value: balance 9, tx cost 10, overshot 1"
        proxy.always(SEND, rpc_error(SEND, -32000, why))
        sent = [message("refused")]
        fleet.send(sent)
        await fleet.until_logged(replica, "overshot 1")
        for _ in range(3):
            held = await fleet.metric("saga_holds_total", hold="funds")
            await fleet.until_metric("saga_holds_total", held + 1, hold="funds")
        given = sum(
            int(fleet.lane(sender).get("next", own_node.nonce(sender))) - own_node.nonce(sender)
            for sender in (DEV_ACCOUNT, STRANGER)
        )
        assert given <= 4
        proxy.heal()
        deployed(await fleet.settled(sent))


async def test_start_with_an_empty_key(
    own_node: Node, fleet_on: MakeFleet, two_keys: dict[str, str]
) -> None:
    """One key that can pay is enough to start; none is not."""
    own_node.request("anvil_setBalance", STRANGER, "0x0")
    fleet = fleet_on(own_node, **two_keys)
    fleet.start()
    await fleet.until_started()
    sent = [message("one_pays")]
    fleet.send(sent)
    assert senders(deployed(await fleet.settled(sent))) == {DEV_ACCOUNT: 1}
    own_node.request("anvil_setBalance", DEV_ACCOUNT, "0x0")
    refused = fleet.start()
    assert refused.wait(60) == REFUSED_TO_START
    assert "has no funds on this chain; send it some" in fleet.log(refused)
