"""Laws of JSON-RPC over a WebSocket: one answer or one clear loss per request, heads pushed."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from adapters.embedded import EmbeddedAnvil
from adapters.rpc import RpcError
from adapters.rpc_ws import WsClient
from saga.errors import ChainError, ChainUnavailableError
from tests.support.proxy import Proxy, open_proxy

CHAIN_ID = hex(31337)
SECRET = "s3cr3t"
SHORT_SECONDS = 0.05

Counted = list[tuple[str, str]]


@pytest.fixture
async def proxy(anvil: EmbeddedAnvil) -> AsyncIterator[Proxy]:
    async with open_proxy(anvil.url) as opened:
        yield opened


@pytest.fixture
def counted() -> Counted:
    """What the meter has counted."""
    return []


@pytest.fixture
async def ws(proxy: Proxy, counted: Counted) -> AsyncIterator[WsClient]:
    """A client whose URL holds secrets wherever a URL can."""
    client = WsClient(secret_url(proxy), meter=lambda *what: counted.append(what))
    yield client
    await client.close()


def secret_url(proxy: Proxy) -> str:
    with_user = proxy.ws_url.replace("ws://", f"ws://user:{SECRET}@")
    return f"{with_user}/v3/{SECRET}?key={SECRET}"


def error(code: int, message: str, **more: Any) -> Any:
    """Says this error in answer to a message."""
    said = {"code": code, "message": message, **more}
    return lambda call: json.dumps({"jsonrpc": "2.0", "id": call["id"], "error": said})


def silence(call: Any) -> None:
    return None


async def until_sent(proxy: Proxy, method: str) -> None:
    """Until the proxy has seen a message of this method; the test's timeout bounds it."""
    while method not in proxy.received:  # noqa: ASYNC110 - the proxy keeps a list, no event
        await asyncio.sleep(0.001)


async def until_subscribed(ws: WsClient) -> None:
    while not ws.subscribed:  # noqa: ASYNC110 - a flag by contract
        await asyncio.sleep(0.001)


async def test_call_and_batch(proxy: Proxy, ws: WsClient, counted: Counted) -> None:
    """A call is one message, a batch one per request; answers find their request by id."""
    assert await ws.call("eth_chainId") == CHAIN_ID
    answers = await ws.batch([("web3_clientVersion", []), ("eth_chainId", []), ("eth_nope", [])])
    assert answers[0].startswith("anvil/")
    assert answers[1] == CHAIN_ID
    assert isinstance(answers[2], RpcError)
    assert await ws.batch([]) == []
    assert proxy.received == ["eth_chainId", "web3_clientVersion", "eth_chainId", "eth_nope"]
    assert counted == [
        ("eth_chainId", "ok"),
        ("web3_clientVersion", "ok"),
        ("eth_chainId", "ok"),
        ("eth_nope", "error"),
    ]


async def test_node_error(proxy: Proxy, ws: WsClient) -> None:
    """A node's own error is RpcError with code, message and data; `ask` makes it a ChainError."""
    proxy.on_message["eth_call"] = error(3, "execution reverted", data="0x08c379a0")
    with pytest.raises(RpcError) as caught:
        await ws.call("eth_call")
    found = caught.value
    assert (found.code, found.message, found.data) == (3, "execution reverted", "0x08c379a0")
    with pytest.raises(ChainError, match=r"eth_call: execution reverted \(code 3\)"):
        await ws.ask("eth_call")


async def test_rate_limit_within_a_batch(proxy: Proxy, ws: WsClient, counted: Counted) -> None:
    """A batch of which one item met a rate limit has no answer."""
    proxy.on_message["eth_gasPrice"] = error(-32005, "daily request count exceeded")
    with pytest.raises(ChainUnavailableError, match="eth_gasPrice: daily request count exceeded"):
        await ws.batch([("eth_chainId", []), ("eth_gasPrice", [])])
    assert counted == [("eth_chainId", "unavailable"), ("eth_gasPrice", "unavailable")]


async def test_out_of_order(proxy: Proxy, ws: WsClient) -> None:
    """A request that is never answered holds up no other."""
    proxy.on_message["eth_gasPrice"] = silence
    unanswered = asyncio.create_task(ws.call("eth_gasPrice"))
    await until_sent(proxy, "eth_gasPrice")
    assert await ws.call("eth_chainId") == CHAIN_ID
    assert not unanswered.done()
    unanswered.cancel()


@pytest.mark.parametrize(
    ("said", "text"),
    [
        pytest.param(lambda _: "<html>Oops</html>", "no JSON-RPC reply", id="html"),
        pytest.param(lambda _: '{"id":1,"result":"0x', "no JSON-RPC reply", id="half a message"),
        pytest.param(lambda _: b"\x00\x01", "no JSON-RPC reply", id="binary"),
        pytest.param(lambda _: "[]", "no JSON-RPC reply", id="no object"),
        pytest.param(error(429, "busy"), "busy (code 429)", id="429"),
        pytest.param(
            lambda _: '{"id":null,"error":{"code":-32700,"message":"parse error"}}',
            "parse error (code -32700)",
            id="an error about no request",
        ),
    ],
)
async def test_no_answer(
    proxy: Proxy, ws: WsClient, counted: Counted, said: Any, text: str
) -> None:
    """What is no answer is ChainUnavailableError without a secret; the next call is answered."""
    proxy.on_message["eth_chainId"] = said
    with pytest.raises(ChainUnavailableError) as caught:
        await ws.call("eth_chainId")
    assert str(caught.value) == f"{proxy.ws_url} eth_chainId: {text}"
    assert counted == [("eth_chainId", "unavailable")]
    proxy.heal()
    assert await ws.call("eth_chainId") == CHAIN_ID


@pytest.mark.parametrize("said", [silence, lambda _: '{"id":4711,"result":"0x1"}'])
async def test_silence(proxy: Proxy, said: Any) -> None:
    """Silence, and answers to other requests alone, are given up when the time is up."""
    ws = WsClient(secret_url(proxy), timeout_seconds=SHORT_SECONDS)
    try:
        proxy.on_message["eth_chainId"] = said
        with pytest.raises(ChainUnavailableError) as caught:
            await ws.batch([("eth_chainId", []), ("eth_blockNumber", [])])
        assert str(caught.value) == f"{proxy.ws_url} batch: TimeoutError"
    finally:
        await ws.close()


async def test_a_loss_fails_all_who_wait(proxy: Proxy, ws: WsClient, counted: Counted) -> None:
    """A lost connection fails every waiting request, repeats none, and the next call reconnects."""
    proxy.on_message["eth_sendRawTransaction"] = silence
    proxy.on_message["eth_call"] = silence
    waiting = [
        asyncio.create_task(ws.call("eth_sendRawTransaction", "0x00")),
        asyncio.create_task(ws.batch([("eth_chainId", []), ("eth_call", [])])),
    ]
    await until_sent(proxy, "eth_call")
    await until_sent(proxy, "eth_sendRawTransaction")
    proxy.cut()
    for found in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(found, ChainUnavailableError)
        assert str(found).endswith(": connection lost")
    assert await ws.call("eth_chainId") == CHAIN_ID
    assert proxy.received.count("eth_sendRawTransaction") == 1
    assert proxy.received.count("eth_call") == 1
    assert sorted(counted[:3]) == [
        ("eth_call", "unavailable"),
        ("eth_chainId", "unavailable"),
        ("eth_sendRawTransaction", "unavailable"),
    ]


async def test_no_connection(proxy: Proxy, ws: WsClient) -> None:
    """A refused connection or handshake is ChainUnavailableError without path, user and cause."""
    proxy.refuse_sockets = 429
    with pytest.raises(ChainUnavailableError) as caught:
        await ws.call("eth_chainId")
    assert str(caught.value) == f"{proxy.ws_url} eth_chainId: HTTP 429"
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    closed = WsClient(f"ws://user:{SECRET}@127.0.0.1:1/{SECRET}")
    try:
        with pytest.raises(ChainUnavailableError) as caught:
            await closed.call("eth_chainId")
    finally:
        await closed.close()
    assert str(caught.value) == "ws://127.0.0.1:1 eth_chainId: ClientConnectorError"


async def test_heads(anvil: EmbeddedAnvil, ws: WsClient) -> None:
    """Each new head calls the listener, who finds its number; other requests go on beside it."""
    heads: asyncio.Queue[int | None] = asyncio.Queue()
    following = asyncio.create_task(ws.heads(lambda: heads.put_nowait(ws.head)))
    await until_subscribed(ws)
    before = int(await ws.call("eth_blockNumber"), 16)
    for number in (before + 1, before + 2):
        await asyncio.to_thread(anvil.request, "evm_mine")
        assert await heads.get() == number
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    assert not ws.subscribed


async def test_lost_heads(proxy: Proxy, anvil: EmbeddedAnvil, ws: WsClient) -> None:
    """A lost subscription ends with ChainUnavailableError; a new one gets heads again."""
    seen = asyncio.Event()
    following = asyncio.create_task(ws.heads(seen.set))
    await until_subscribed(ws)
    proxy.cut()
    with pytest.raises(ChainUnavailableError, match="eth_subscribe: connection lost"):
        await following
    assert not ws.subscribed
    following = asyncio.create_task(ws.heads(seen.set))
    await until_subscribed(ws)
    await asyncio.to_thread(anvil.request, "evm_mine")
    await seen.wait()
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


async def test_refused_heads(proxy: Proxy, ws: WsClient) -> None:
    """A node that pushes nothing says so at once."""
    proxy.on_message["eth_subscribe"] = error(-32601, "notifications not supported")
    with pytest.raises(ChainUnavailableError, match="eth_subscribe: notifications not supported"):
        await ws.heads(lambda: None)
    assert not ws.subscribed


async def test_unreadable_head(proxy: Proxy, ws: WsClient) -> None:
    """A head whose number cannot be read still is a new head."""
    seen: list[int | None] = []
    push = {"method": "eth_subscription", "params": {"subscription": "0x1", "result": {}}}
    proxy.on_message["eth_gasPrice"] = lambda _: json.dumps(push)
    following = asyncio.create_task(ws.heads(lambda: seen.append(ws.head)))
    await until_subscribed(ws)
    asking = asyncio.create_task(ws.call("eth_gasPrice"))
    await until_sent(proxy, "eth_gasPrice")
    await ws.call("eth_chainId")
    assert seen == [None]
    for task in (following, asking):
        task.cancel()
    await asyncio.gather(following, asking, return_exceptions=True)


async def test_closed(proxy: Proxy) -> None:
    """Closing ends the connection; closing again does nothing more."""
    ws = WsClient(proxy.ws_url)
    await ws.call("eth_chainId")
    await ws.close()
    await ws.close()
