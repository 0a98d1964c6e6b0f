"""A remote signer for tests: a real node's, and what may be wrong with its answers or its URL."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from typing import Any

from eth_account import Account

from adapters.embedded import DEV_ACCOUNT, DEV_MNEMONIC_KEY, EmbeddedAnvil
from adapters.key_remote import RemoteKey, open_remote
from adapters.transaction import Transaction
from saga.fees import GWEI, Fees
from tests.support.chain import STRANGER
from tests.support.proxy import Exchange, Fault, Response, json_response

SIGN = "eth_signTransaction"
CHAIN_ID = 31337
ASKED = Transaction(
    CHAIN_ID,
    7,
    100_000,
    bytes.fromhex(STRANGER[2:]),
    bytes.fromhex("deadbeef"),
    Fees(max_fee=30 * GWEI, max_priority_fee=GWEI),
)
LEGACY = ASKED._replace(fees=Fees(max_fee=30 * GWEI, max_priority_fee=30 * GWEI, legacy=True))
SECRETS = ("tom-the-user", "s3cret/p@ss", "path-0123456789abcdef", "query-0123456789abcdef")
WAIT_SECONDS = 30.0
"""For what comes at once, unless a law is broken."""


def secret_url(url: str) -> str:
    """The same place, with something to hide in each part of the URL."""
    user, password, path, query = SECRETS
    login = f"{user}:{password.replace('/', '%2F').replace('@', '%40')}"
    return url.replace("://", f"://{login}@") + f"/v1/{path}?key={query}"


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[RemoteKey]:
    """The key of the node's first account."""
    key = await open_remote(url, address=DEV_ACCOUNT, timeout=WAIT_SECONDS)
    try:
        yield key
    finally:
        await key.close()


def re_signed(key: str = DEV_MNEMONIC_KEY, **changes: Any) -> Fault:
    """Signs what it is asked to, but for these changes."""

    async def fault(exchange: Exchange) -> Response:
        (asked,) = exchange.calls["params"]
        fields = {name: value for name, value in asked.items() if name != "from"} | changes
        return result(exchange, "0x" + Account.sign_transaction(fields, key).raw_transaction.hex())

    return fault


@contextmanager
def on_any_chain() -> Iterator[Fault]:
    """anvil signs for its own chain alone: there is one for each chain that is asked for."""
    nodes: dict[str, EmbeddedAnvil] = {}
    turn = asyncio.Lock()

    async def fault(exchange: Exchange) -> Response:
        (asked,) = exchange.calls["params"]
        chain = asked["chainId"]
        async with turn:
            if chain not in nodes:
                flags = ("--chain-id", str(int(chain, 16)))
                nodes[chain] = stack.enter_context(await asyncio.to_thread(EmbeddedAnvil, *flags))
        return result(exchange, await asyncio.to_thread(nodes[chain].request, SIGN, asked))

    with ExitStack() as stack:
        yield fault


def result(exchange: Exchange, value: object) -> Response:
    reply = {"jsonrpc": "2.0", "id": exchange.calls["id"], "result": value}
    return json_response(json.dumps(reply).encode())
