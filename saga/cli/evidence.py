"""Collecting what an audit judges: from Redis, and from the chain itself."""

from collections.abc import Sequence

from adapters.census import contracts_by_model
from adapters.redis_views import RedisViews
from adapters.rpc import RpcClient
from saga.audit import Evidence
from saga.model import State


async def collect(views: RedisViews, rpc_url: str, sent: Sequence[bytes]) -> Evidence:
    """All sagas, lists and contracts. `sent` is what was put on the inbound list."""
    rpc = RpcClient(rpc_url)
    try:
        contracts = await contracts_by_model(rpc)
    finally:
        await rpc.close()
    depths = await views.depths()
    return Evidence(
        sent=sent,
        sagas={saga.id: saga async for saga in views.sagas(list(State))},
        contracts=contracts,
        events=await views.events(),
        dead_letters=await views.dead_letters(),
        inbound=depths["inbound"],
        processing=depths["processing"],
    )
