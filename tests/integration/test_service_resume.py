"""A deployment that was dead-lettered with its transaction signed, and `saga-resume --all`."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from saga.audit import audit
from saga.model import ErrorClass, State
from tests.support.chain import Node
from tests.support.fleet import Fleet, message
from tests.support.proxy import SEND, open_proxy, rpc_error

SAGA_RESUME = Path(sys.executable).parent / "saga-resume"


async def test_the_same_address_as_before(own_node: Node, fleet_on: Callable[..., Fleet]) -> None:
    """A deployment whose node refuses it for longer than the retries is dead-lettered, and resumed
    it ends as the token whose address was known before."""
    sent = [message("refused")]
    async with open_proxy(own_node.url) as proxy:
        fleet = fleet_on(
            own_node, WEB3_PROVIDER_URL=proxy.url, MAX_RETRIES="1", DEPLOYMENT_TIMEOUT="2"
        )
        fleet.start()
        await fleet.until_started()
        proxy.always(SEND, rpc_error(SEND, -32603, "internal error"))
        fleet.send(sent)
        evidence = await fleet.settled(sent)
        before = {}
        for saga in evidence.sagas.values():
            assert (saga.state, saga.error_class) == (State.DEAD_LETTERED, ErrorClass.RETRIES)
            assert saga.deploy is not None
            before[saga.id] = saga.deploy.predicted
        assert own_node.tokens() == set()
        proxy.heal()
        resumed = await asyncio.to_thread(
            subprocess.run,
            [os.fspath(SAGA_RESUME), "--all"],
            env=fleet.clean_environment(),
            capture_output=True,
            check=True,
        )
        assert resumed.stdout.count(b"resumed") >= len(sent)
        evidence = await fleet.settled(sent)
    assert audit(evidence) == []
    assert evidence.dead_letters == []
    tokens = {s.id: s.deployment.token for s in evidence.sagas.values() if s.deployment}
    assert tokens == before
