"""A whole replica whose HSM loses its token in mid-run, and hangs when it is to end."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from saga.audit import audit
from saga.model import State
from tests.support.chain import Node
from tests.support.fleet import Fleet, message
from tests.support.hsm import PIN, soft_hsm
from tests.support.keys import address_of, fund, grant_roles, secret_file

GRACE_SECONDS, TIMEOUT_SECONDS = 3, 600


async def test_token_pulled_out(
    service_node: Node, fleet_of: Callable[..., Fleet], tmp_path: Path
) -> None:
    """Sagas wait while the token is out, no try is used up, and they go on when it is back. A
    library that hangs does not keep the replica from ending in time."""
    home = tmp_path / "hsm"
    home.mkdir()
    with soft_hsm(home) as hsm:
        hsm.make_token("hokusai")
        account = address_of(hsm.make_key("hokusai", "deployer"))
        fund(service_node, account)
        grant_roles(service_node, account)
        pin = secret_file(home / "pin", PIN)
        fleet = fleet_of(
            DEPLOYER_PRIVATE_KEY="",
            SHUTDOWN_GRACE_SECONDS=str(GRACE_SECONDS),
            SIGNER_TIMEOUT=str(TIMEOUT_SECONDS),
            **hsm.settings("hokusai", "deployer", pin),
        )
        fleet.start_measured()
        await fleet.until_started()
        hsm.pull("hokusai")
        sent = [message(f"pulled-{account}-{number}") for number in range(3)]
        fleet.send(sent)
        await fleet.until(
            lambda sagas, _: (
                len(sagas) == len(sent) and all("HSM" in (s.error or "") for s in sagas.values())
            )
        )
        assert await fleet.metric("saga_holds_total", hold="signer") >= 3
        hsm.plug("hokusai")
        evidence = await fleet.settled(sent)
        assert audit(evidence) == []
        assert {saga.state for saga in evidence.sagas.values()} == {State.ACKED}
        assert {saga.attempts for saga in evidence.sagas.values()} == {0}
        with hsm.hanging():
            fleet.send([message(f"hangs-{account}")])
            await fleet.until_counted(State.VALIDATED, 1)
            assert await asyncio.to_thread(fleet.stop) == [0]
