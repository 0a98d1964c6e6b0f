"""Lines and nodes that are bad in more ways than one: faults for the proxy."""

import asyncio
import json
import random
from collections import Counter
from contextlib import suppress
from typing import Any

from tests.support.proxy import (
    SEND,
    Exchange,
    Fault,
    Response,
    answer,
    forwarded,
    json_response,
    lost_reply,
)

STALL_SECONDS = (1.0, 3.0, 12.0)
"""The service's client waits for 10."""


def stall(seconds: float) -> Fault:
    """The node sees the request, and the client the answer, so much later; or at the release."""

    async def fault(exchange: Exchange) -> Response:
        with suppress(TimeoutError):
            await asyncio.wait_for(exchange.released.wait(), seconds)
        return json_response(await exchange.forward())

    return fault


class RoughWeather:
    """A bad line: these shares of the requests meet trouble. `lost`: replies to transactions that
    the node has taken; `refused`: HTTP 429; `stalled`: some for longer than the client waits."""

    def __init__(self, rng: random.Random, *, lost: float, refused: float, stalled: float) -> None:
        self._rng = rng
        self._lost = lost
        self._refused = refused
        self._stalled = stalled
        self.met = Counter[str]()
        """How often it struck, by kind."""

    async def __call__(self, exchange: Exchange) -> Response:
        kind, fault = self._drawn(exchange)
        self.met[kind] += 1
        return await fault(exchange)

    def _drawn(self, exchange: Exchange) -> tuple[str, Fault]:
        if SEND in exchange.methods and self._rng.random() < self._lost:
            return "lost", lost_reply
        luck = self._rng.random()
        if luck < self._refused:
            return "refused", answer(b"", status=429)
        if luck < self._refused + self._stalled:
            return "stalled", stall(self._rng.choice(STALL_SECONDS))
        return "fair", forwarded


def behind(blocks: int) -> Fault:
    """A node that has not seen the newest blocks, but takes transactions."""

    async def fault(exchange: Exchange) -> Response:
        seen = int(await exchange.ask("eth_blockNumber"), 16) - blocks
        batch = isinstance(exchange.calls, list)
        calls = exchange.calls if batch else [exchange.calls]
        replies = json.loads(await exchange.forward([_as_of(seen, call) for call in calls]))
        methods = {call["id"]: call["method"] for call in calls}
        for reply in replies:
            if "result" in reply:
                found = reply["result"]
                reply["result"] = _seen_by(seen, methods[reply["id"]], found)
        return json_response(json.dumps(replies if batch else replies[0]).encode())

    return fault


def _as_of(seen: int, call: Any) -> Any:
    """The same question about the block `seen`."""
    params = [hex(seen) if each in ("latest", "pending") else each for each in call["params"]]
    if call["method"] == "eth_estimateGas" and len(params) == 1:
        params.append(hex(seen))
    return {**call, "params": params}


def _seen_by(seen: int, method: str, result: Any) -> Any:
    """What is left of an answer when nothing is known of later blocks."""
    if method == "eth_blockNumber":
        return hex(seen)
    found = result[0] if method == "eth_getBlockReceipts" and result else result
    if not isinstance(found, dict):
        return result
    key = "number" if method.startswith("eth_getBlockBy") else "blockNumber"
    if found.get(key) is None or int(found[key], 16) <= seen:
        return result
    if method == "eth_getTransactionByHash":  # it waits in the pool
        return {**found, "blockHash": None, "blockNumber": None, "transactionIndex": None}
    return None
