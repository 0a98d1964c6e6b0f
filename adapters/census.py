"""Counting, on the chain itself, which contracts say that they are a model's token."""

from collections import defaultdict

from eth_utils.address import to_checksum_address

from adapters.contracts import CONTROLLER_UPDATED, MODEL_LINKED
from adapters.rpc import RpcClient


async def contracts_by_model(rpc: RpcClient, *, from_block: int = 0) -> dict[str, list[str]]:
    """Model id → addresses, by the logs of the tokens' constructors.

    A contract with a ControllerUpdated log and no ModelLinked log counts for the model "".
    """
    span = {"fromBlock": hex(from_block), "toBlock": "latest"}
    controlled = await rpc.call("eth_getLogs", {**span, "topics": [CONTROLLER_UPDATED.topic]})
    linked = await rpc.call("eth_getLogs", {**span, "topics": [MODEL_LINKED.topic]})
    model_of = {log["address"]: MODEL_LINKED.decode(log["data"])[0] for log in linked}
    found: dict[str, list[str]] = defaultdict(list)
    for address in dict.fromkeys(log["address"] for log in controlled):
        found[model_of.get(address, "")].append(to_checksum_address(address))
    return dict(found)
