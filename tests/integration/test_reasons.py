"""What the record keeps of a node's words: a real proxy before a real chain, a whole service."""

from collections.abc import Callable
from typing import Any

from saga.model import State
from saga.redaction import MAX_REASON
from tests.support import proxy as faults
from tests.support.chain import Node
from tests.support.fleet import Fleet, message
from tests.support.proxy import open_proxy

KEY = "SECRETKEY0123456789"
SAYS = f"upstream https://some-name.quiknode.pro/{KEY}/ has failed {'z' * 9_000}"


def assert_clean(fleet: Fleet) -> None:
    """The key is nowhere in Redis: not in a hash, a list, a history."""
    client: Any = fleet.redis  # its stubs promise str or bytes
    for key in client.scan_iter("*"):
        match client.type(key):
            case b"hash":
                found = client.hgetall(key)
            case b"list":
                found = client.lrange(key, 0, -1)
            case b"string":
                found = client.get(key)
            case _:
                continue
        assert KEY not in str(found), key


async def test_no_key_in_the_record(own_node: Node, fleet_on: Callable[..., Fleet]) -> None:
    """No secret that a node tells of, and no flood, gets into any record: while the saga waits, and
    once it has failed."""
    async with open_proxy(own_node.url) as proxy:
        fleet = fleet_on(own_node, WEB3_PROVIDER_URL=proxy.url, MAX_RETRIES="1")
        fleet.start()
        await fleet.until_started()
        method = "eth_estimateGas"
        proxy.always(method, faults.rpc_error(method, -32000, SAYS))
        sent = [message("reasons")]
        fleet.send(sent)
        await fleet.until(lambda sagas, _: any(saga.error for saga in sagas.values()), seconds=20)
        assert_clean(fleet)
        proxy.always(method, faults.rpc_error(method, 3, f"execution reverted: {SAYS}"))
        (saga,) = (await fleet.settled(sent, seconds=20)).sagas.values()
    assert saga.state is State.DEAD_LETTERED
    assert saga.error is not None
    assert "upstream https://some-name.quiknode.pro/***" in saga.error
    assert len(saga.error) <= MAX_REASON
    assert_clean(fleet)
