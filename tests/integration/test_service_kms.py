"""Laws of a whole replica with a key in AWS KMS: on bad days sagas wait, and nothing is sent."""

import asyncio
from collections.abc import Callable, Iterator

import pytest

from saga.audit import audit
from saga.model import State
from tests.support.chain import Node
from tests.support.fleet import REFUSED_TO_START, Fleet, message
from tests.support.keys import fund, grant_roles
from tests.support.kms import AWS_SECRETS, KmsServer

ALIAS = "alias/deployer"
WAIT_SECONDS = 60
MakeFleet = Callable[..., Fleet]
Day = Callable[[KmsServer], None]


@pytest.fixture
def kms() -> Iterator[KmsServer]:
    with KmsServer() as server:
        yield server


def settings(kms: KmsServer, **others: str) -> dict[str, str]:
    """In place of the fleet's own key."""
    return {"DEPLOYER_PRIVATE_KEY": "", "LOG_LEVEL": "DEBUG", **kms.environment(ALIAS), **others}


def assert_no_secret(log: str) -> None:
    assert [secret for secret in AWS_SECRETS if secret in log] == []
    assert "Traceback" not in log


def throttle(kms: KmsServer) -> None:
    kms.refuse("ThrottlingException", times=10**6)


def deny(kms: KmsServer) -> None:
    kms.refuse("AccessDeniedException", times=10**6)


DAYS: dict[str, tuple[Day, str]] = {
    "disabled": (lambda kms: kms.disable(ALIAS), "the key is disabled (DisabledException)"),
    "throttled": (throttle, "AWS throttles our requests, tried 3 times (ThrottlingException)"),
    "denied": (deny, "IAM does not allow kms:Sign on the key (AccessDeniedException)"),
    "slow": (KmsServer.hold, "AWS KMS took longer than 5 s (SIGNER_TIMEOUT)"),
}


@pytest.mark.parametrize(("day", "said"), DAYS.values(), ids=DAYS)
async def test_bad_day(
    kms: KmsServer, service_node: Node, fleet_of: MakeFleet, day: Day, said: str
) -> None:
    """While KMS does not sign, sagas wait, say why, and use up no try; then all are done."""
    address = kms.address(kms.create_key(alias=ALIAS))
    fund(service_node, address)
    grant_roles(service_node, address)
    fleet = fleet_of(**settings(kms, SIGNER_TIMEOUT="5"))
    replica = fleet.start_measured()
    await fleet.until_started()
    day(kms)
    sent = [message(f"{address}-{number}") for number in range(6)]
    fleet.send(sent)
    await fleet.until_logged(replica, said, seconds=WAIT_SECONDS)
    assert await fleet.metric("saga_holds_total", hold="signer") > 0
    assert service_node.nonce(address) == 0
    kms.enable(ALIAS)
    kms.forgive()
    kms.go()
    evidence = await fleet.settled(sent, seconds=WAIT_SECONDS)
    assert audit(evidence) == []
    assert {saga.state for saga in evidence.sagas.values()} == {State.ACKED}
    assert {saga.attempts for saga in evidence.sagas.values()} == {0}
    assert service_node.nonce(address) == 2 * len(sent)
    assert_no_secret(fleet.log(replica))


REFUSED: dict[str, tuple[Day, str]] = {
    "another curve": (
        lambda kms: kms.move_alias(ALIAS, kms.create_key("ECC_NIST_P256")),
        "DEPLOYER_KMS_KEY_ID cannot be used: its KeySpec is ECC_NIST_P256, not ECC_SECG_P256K1",
    ),
    "disabled": (
        lambda kms: kms.disable(ALIAS),
        "DEPLOYER_KMS_KEY_ID cannot be used: the key is disabled (DisabledException)",
    ),
    "another key": (
        lambda kms: kms.move_alias(ALIAS, kms.create_key()),
        "DEPLOYER_KMS_KEY_ID is the key of ",
    ),
    "slow": (
        KmsServer.hold,
        "DEPLOYER_KMS_KEY_ID cannot be used: AWS KMS took longer than 5 s (SIGNER_TIMEOUT)",
    ),
}


@pytest.mark.parametrize(("day", "said"), REFUSED.values(), ids=REFUSED)
async def test_refused(kms: KmsServer, fleet_of: MakeFleet, day: Day, said: str) -> None:
    """A key that cannot sign for the pinned address refuses the start, in one line."""
    pin = kms.address(kms.create_key(alias=ALIAS))
    day(kms)
    fleet = fleet_of(**settings(kms, SIGNER_TIMEOUT="5", DEPLOYER_ADDRESS=pin))
    replica = fleet.start()
    assert await asyncio.to_thread(replica.wait, WAIT_SECONDS) == REFUSED_TO_START
    log = fleet.log(replica)
    assert len([line for line in log.splitlines() if said in line]) == 1
    assert_no_secret(log)
