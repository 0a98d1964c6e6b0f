"""Laws of a whole replica with a remote signer: on bad days sagas wait, nothing else is sent."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from adapters.embedded import DEV_ACCOUNT, EmbeddedAnvil
from saga.audit import audit
from saga.fees import GWEI
from saga.model import State
from tests.support.chain import STRANGER, STRANGER_KEY, Node
from tests.support.fleet import REFUSED_TO_START, Fleet, message
from tests.support.keys import fund, grant_roles, remote_signer
from tests.support.proxy import (
    Fault,
    Proxy,
    answer,
    forwarded,
    lost_reply,
    lost_request,
    open_proxy,
    rpc_error,
)
from tests.support.remote_signer import SECRETS, SIGN, re_signed, secret_url

MakeFleet = Callable[..., Fleet]
WAIT_SECONDS = 60
ZERO = "0x0000000000000000000000000000000000000000"


@pytest.fixture
async def signer(service_node: Node) -> AsyncIterator[Proxy]:
    """In front of a node of its own, which signs for the account that also holds the roles."""
    with EmbeddedAnvil() as anvil:
        async with open_proxy(anvil.url) as proxy:
            yield proxy
        assert anvil.request("eth_blockNumber") == "0x0"


def settings(signer: Proxy, **others: str) -> dict[str, str]:
    return {
        "DEPLOYER_PRIVATE_KEY": "",
        "DEPLOYER_SIGNER_URL": secret_url(signer.url),
        "DEPLOYER_ADDRESS": DEV_ACCOUNT,
        "LOG_LEVEL": "DEBUG",
        **others,
    }


def senders(node: Node, blocks: range) -> set[tuple[str, str | None]]:
    """Who sent to whom in these blocks."""
    found = set()
    for number in blocks:
        for sent in node.request("eth_getBlockByNumber", hex(number), True)["transactions"]:
            found.add((sent["from"], sent["to"]))
    return found


async def test_bad_days(service_node: Node, fleet_of: MakeFleet, signer: Proxy) -> None:
    """Whatever the signer changes, refuses or loses, no saga fails, and nothing else is sent.

    Nor does any log, at DEBUG, hold what is secret of the signer's URL.
    """
    fleet = fleet_of(KEY_PREFIX="remote:", **settings(signer))
    first = service_node.block_number + 1
    bad = [
        *(re_signed(to=STRANGER), re_signed(value=10**18), re_signed(chainId=1)),
        *(re_signed(nonce=99), re_signed(data="0x"), re_signed(gas=10**7), re_signed(STRANGER_KEY)),
        *(rpc_error(SIGN, -32000, "Request denied"), answer(b"", status=401), answer(b"what?")),
        *(lost_reply, lost_request),
    ]
    signer.once(SIGN, forwarded, *bad)  # the first proves the key
    sent = [message(f"remote{number}") for number in range(6)]
    fleet.send(sent)
    replica = fleet.start()
    evidence = await fleet.settled(sent, seconds=WAIT_SECONDS)
    assert audit(evidence) == []
    assert {saga.state for saga in evidence.sagas.values()} == {State.ACKED}
    assert {saga.attempts for saga in evidence.sagas.values()} == {0}
    assert len(signer.received) > len(bad)
    contracts = {service_node.manager.lower(), service_node.registry.lower()}
    used = senders(service_node, range(first, service_node.block_number + 1))
    assert used == {(DEV_ACCOUNT.lower(), contract) for contract in contracts}
    log = fleet.log(replica)
    assert "changed the recipient: asked " in log
    assert not [secret for secret in SECRETS if secret in log]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"DEPLOYER_ADDRESS": ""}, "has 10 accounts ("),
        ({"DEPLOYER_ADDRESS": STRANGER}, "role"),
        ({"DEPLOYER_ADDRESS": ZERO}, f"has no key of DEPLOYER_ADDRESS {ZERO}, but of "),
    ],
)
async def test_refused(
    fleet_of: MakeFleet, signer: Proxy, changes: dict[str, str], said: str
) -> None:
    """A signer with several accounts and no pin, or without the pin's key, refuses the start."""
    fleet = fleet_of(**settings(signer, **changes))
    replica = fleet.start()
    assert await asyncio.to_thread(replica.wait, WAIT_SECONDS) == REFUSED_TO_START
    log = fleet.log(replica)
    assert said in log
    assert not [secret for secret in SECRETS if secret in log]


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (re_signed(STRANGER_KEY), "changed the sender: asked "),
        (re_signed(to=STRANGER), "changed the recipient: asked "),
        (rpc_error(SIGN, -32000, "Request denied"), "Request denied"),
    ],
)
async def test_not_proven(fleet_of: MakeFleet, signer: Proxy, fault: Fault, said: str) -> None:
    """A signer whose first signature is not what was asked for refuses the start."""
    signer.always(SIGN, fault)
    fleet = fleet_of(**settings(signer))
    replica = fleet.start()
    assert await asyncio.to_thread(replica.wait, WAIT_SECONDS) == REFUSED_TO_START
    log = fleet.log(replica)
    assert said in log
    assert not [secret for secret in SECRETS if secret in log]


async def test_own_account(service_node: Node, fleet_of: MakeFleet, tmp_path: Path) -> None:
    """An account that only the signer has deploys and registers, once it has funds and roles."""
    with remote_signer(tmp_path) as given:
        fund(service_node, given.address)
        grant_roles(service_node, given.address)
        fleet = fleet_of(KEY_PREFIX="own:", DEPLOYER_PRIVATE_KEY="", **given.environment)
        sent = [message(f"own{number}") for number in range(10)]
        fleet.send(sent)
        fleet.start()
        evidence = await fleet.settled(sent, seconds=WAIT_SECONDS)
        fleet.end()
    assert audit(evidence) == []
    deployments = [saga.deployment for saga in evidence.sagas.values()]
    assert {each.receipt.sender for each in deployments if each} == {given.address}
    assert None not in deployments


async def test_away_while_something_is_stuck(
    own_node: Node, fleet_on: Callable[..., Fleet], signer: Proxy
) -> None:
    """A keeper that cannot raise a price because the signer is away says so, uses up nobody's
    tries, and goes on when it is back."""
    node = own_node
    soon = {"BUMP_AFTER_SECONDS": "1", "BUMP_AFTER_BLOCKS": "1", "DEPLOYMENT_TIMEOUT": "6"}
    fleet = fleet_on(node, MAX_RETRIES="0", MAX_FEE_GWEI="100000", **soon, **settings(signer))
    fleet.start_measured()
    await fleet.until_started()
    node.request("evm_setIntervalMining", 0)
    sent = [message(f"stuck{number}") for number in range(3)]
    fleet.send(sent)
    await fleet.until(lambda *_: node.nonce(block="pending") == node.nonce() + 6)
    signer.always(SIGN, rpc_error(SIGN, -32000, "vault sealed"))

    def dear() -> None:
        node.request("anvil_setNextBlockBaseFeePerGas", hex(500 * GWEI))
        node.mine()

    await fleet.until(
        lambda sagas, _: all("vault sealed" in (saga.error or "") for saga in sagas.values()),
        each=dear,
    )
    assert await fleet.metric("saga_lane_held", signer=DEV_ACCOUNT) == 1
    assert await fleet.metric("saga_lane_outstanding", signer=DEV_ACCOUNT) == 6
    signer.heal()
    evidence = await fleet.settled(sent, each=dear)
    assert audit(evidence) == []
    assert {saga.state for saga in evidence.sagas.values()} == {State.ACKED}
    assert {saga.attempts for saga in evidence.sagas.values()} == {0}
