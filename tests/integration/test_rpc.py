"""Laws of the JSON-RPC client: every fault of a line or a node has one clear outcome, once."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from adapters.embedded import EmbeddedAnvil
from adapters.rpc import RpcClient, RpcError, host_of
from saga.errors import ChainError, ChainUnavailableError
from tests.support import proxy as faults
from tests.support.proxy import Fault, Proxy, open_proxy

CHAIN_ID = hex(31337)
SECRET = "s3cr3t"
TIMEOUT_SECONDS = 5.0
SHORT_SECONDS = 0.05


@pytest.fixture
async def proxy(anvil: EmbeddedAnvil) -> AsyncIterator[Proxy]:
    async with open_proxy(anvil.url) as opened:
        yield opened


@pytest.fixture
async def rpc(proxy: Proxy) -> AsyncIterator[RpcClient]:
    """A client whose URL holds secrets wherever a URL can."""
    url = proxy.url.replace("http://", f"http://user:{SECRET}@") + f"/v3/{SECRET}?key={SECRET}"
    client = RpcClient(url, timeout_seconds=TIMEOUT_SECONDS)
    yield client
    await client.close()


def html(status: int) -> Fault:
    return faults.answer(b"<html>Oops</html>", status=status, content_type="text/html")


UNAVAILABLE = [
    pytest.param(html(429), "HTTP 429", id="429"),
    pytest.param(html(500), "HTTP 500", id="500"),
    pytest.param(html(502), "HTTP 502", id="502"),
    pytest.param(html(503), "HTTP 503", id="503"),
    pytest.param(html(401), "no JSON-RPC reply", id="401 as html"),
    pytest.param(html(200), "no JSON-RPC reply", id="200 as html"),
    pytest.param(faults.answer(b""), "no JSON-RPC reply", id="empty body"),
    pytest.param(faults.answer(b'{"id":1,"result":"0x'), "no JSON-RPC reply", id="cut short"),
    pytest.param(faults.answer(b'{"id":1,"result":"\xff"}'), "no JSON-RPC reply", id="no utf-8"),
    pytest.param(faults.answer(b'"ok"'), "no JSON-RPC reply", id="no object"),
    pytest.param(faults.answer(b'{"error":"no such key"}'), "no JSON-RPC reply", id="bare error"),
    pytest.param(faults.half_body, "ClientPayloadError", id="half a body"),
    pytest.param(faults.lost_reply, "ServerDisconnectedError", id="lost reply"),
    pytest.param(faults.lost_request, "ServerDisconnectedError", id="lost request"),
]


@pytest.mark.parametrize(("fault", "text"), UNAVAILABLE)
async def test_no_answer(proxy: Proxy, rpc: RpcClient, fault: Fault, text: str) -> None:
    """What is no answer to a call is ChainUnavailableError: host, method, fault, and no secret."""
    proxy.once("eth_chainId", fault)
    with pytest.raises(ChainUnavailableError) as caught:
        await rpc.call("eth_chainId")
    assert str(caught.value) == f"{proxy.url} eth_chainId: {text}"
    assert proxy.received == ["eth_chainId"]
    assert await rpc.call("eth_chainId") == CHAIN_ID


@pytest.mark.parametrize(("fault", "text"), UNAVAILABLE)
async def test_no_answer_to_a_batch(proxy: Proxy, rpc: RpcClient, fault: Fault, text: str) -> None:
    """The same holds for a batch."""
    proxy.once("eth_chainId", fault)
    with pytest.raises(ChainUnavailableError) as caught:
        await rpc.batch([("eth_chainId", []), ("eth_blockNumber", [])])
    assert str(caught.value) == f"{proxy.url} batch: {text}"
    assert proxy.received == ["eth_chainId", "eth_blockNumber"]


@pytest.mark.parametrize("fault", [faults.lost_reply, faults.half_body, html(502)])
async def test_nothing_is_retried(proxy: Proxy, rpc: RpcClient, fault: Fault) -> None:
    """A request goes out once, whatever becomes of it: only the caller knows what a repeat does."""
    proxy.always("eth_sendRawTransaction", fault)
    with pytest.raises(ChainUnavailableError):
        await rpc.call("eth_sendRawTransaction", "0x00")
    assert proxy.received == ["eth_sendRawTransaction"]
    assert proxy.forwarded.count("eth_sendRawTransaction") <= 1


async def test_closed_while_idle(proxy: Proxy, rpc: RpcClient) -> None:
    """A kept connection that broke on the previous call does not cost the next one."""
    for _ in range(3):
        proxy.once("eth_chainId", faults.half_body)
        with pytest.raises(ChainUnavailableError):
            await rpc.call("eth_chainId")
        assert await rpc.call("eth_blockNumber") is not None


async def test_silence(proxy: Proxy) -> None:
    """A node that says nothing is given up when the time is up."""
    rpc = RpcClient(f"{proxy.url}/{SECRET}", timeout_seconds=SHORT_SECONDS)
    try:
        proxy.always("eth_chainId", faults.silence)
        with pytest.raises(ChainUnavailableError) as caught:
            await rpc.call("eth_chainId")
    finally:
        await rpc.close()
    assert str(caught.value).startswith(f"{proxy.url} eth_chainId: ")
    assert SECRET not in str(caught.value)
    assert proxy.forwarded == []


async def test_silence_that_ends(proxy: Proxy, rpc: RpcClient) -> None:
    """A late answer within the time is an answer, and no other call waits for it."""
    proxy.once("eth_chainId", faults.silence)
    answer = asyncio.create_task(rpc.call("eth_chainId"))
    assert await rpc.call("web3_clientVersion")
    assert not answer.done()
    proxy.released.set()
    assert await answer == CHAIN_ID


async def test_refused_connection() -> None:
    """A port where nobody listens is ChainUnavailableError, without the URL's path and user."""
    rpc = RpcClient(f"http://user:{SECRET}@127.0.0.1:1/{SECRET}")
    try:
        with pytest.raises(ChainUnavailableError) as caught:
            await rpc.call("eth_chainId")
    finally:
        await rpc.close()
    assert str(caught.value) == "http://127.0.0.1:1 eth_chainId: ClientConnectorError"
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


async def test_other_ids(proxy: Proxy, rpc: RpcClient) -> None:
    """An answer to another request is no answer, neither alone nor in a batch."""
    proxy.always("eth_chainId", faults.another_id)
    with pytest.raises(ChainUnavailableError, match="eth_chainId: reply to another request"):
        await rpc.call("eth_chainId")
    with pytest.raises(ChainUnavailableError, match="batch: replies are missing"):
        await rpc.batch([("eth_chainId", [])])


async def test_other_ids_error(proxy: Proxy, rpc: RpcClient) -> None:
    """Nor is an error about another request ours; an error about no request at all is."""
    body = {"jsonrpc": "2.0", "error": {"code": -32000, "message": "invalid sender"}}
    proxy.once("eth_chainId", faults.answer(json.dumps(body | {"id": 4711}).encode()))
    with pytest.raises(ChainUnavailableError, match="another request"):
        await rpc.call("eth_chainId")
    proxy.once("eth_chainId", faults.answer(json.dumps(body | {"id": None}).encode()))
    with pytest.raises(RpcError, match="invalid sender"):
        await rpc.call("eth_chainId")


async def test_batch_is_out_of_order(proxy: Proxy, rpc: RpcClient) -> None:
    """The answers of a batch are told apart by their ids, not by their order."""

    async def reverse(exchange: faults.Exchange) -> faults.Response:
        replies = json.loads(await exchange.forward())
        return faults.json_response(json.dumps(replies[::-1]).encode())

    proxy.once("eth_chainId", reverse)
    answers = await rpc.batch([("eth_chainId", []), ("web3_clientVersion", [])])
    assert answers[0] == CHAIN_ID
    assert answers[1].startswith("anvil/")


async def test_batch_that_lacks_one(proxy: Proxy, rpc: RpcClient) -> None:
    """A batch without all its answers is no answer: which one is missing is not guessed."""

    async def drop(exchange: faults.Exchange) -> faults.Response:
        replies = json.loads(await exchange.forward())
        return faults.json_response(json.dumps(replies[:1]).encode())

    proxy.once("eth_chainId", drop)
    with pytest.raises(ChainUnavailableError, match="replies are missing"):
        await rpc.batch([("eth_chainId", []), ("eth_blockNumber", [])])


async def test_batch_answered_with_one_object(proxy: Proxy, rpc: RpcClient) -> None:
    """A node that answers a whole batch with one error, as limits do, is away, and says why."""
    body = b'{"jsonrpc":"2.0","id":null,"error":{"code":-32005,"message":"batch too large"}}'
    proxy.once("eth_chainId", faults.answer(body))
    with pytest.raises(ChainUnavailableError, match="batch too large"):
        await rpc.batch([("eth_chainId", [])])


async def test_meter(proxy: Proxy) -> None:
    """Each request counts once, by what became of it: also one that its caller gave up."""
    counted: list[tuple[str, str]] = []
    rpc = RpcClient(proxy.url, meter=lambda *what: counted.append(what))
    try:
        await rpc.batch([("eth_chainId", []), ("eth_nope", [])])
        proxy.once("eth_gasPrice", html(502))
        with pytest.raises(ChainUnavailableError):
            await rpc.call("eth_gasPrice")
        proxy.always("eth_call", faults.silence)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(rpc.call("eth_call"), SHORT_SECONDS)
    finally:
        await rpc.close()
    assert counted == [
        ("eth_chainId", "ok"),
        ("eth_nope", "error"),
        ("eth_gasPrice", "unavailable"),
        ("eth_call", "unavailable"),
    ]


async def test_empty_batch(proxy: Proxy, rpc: RpcClient) -> None:
    """No request, no round trip."""
    assert await rpc.batch([]) == []
    assert proxy.received == []


async def test_node_error(proxy: Proxy, rpc: RpcClient) -> None:
    """A node's own error is RpcError with its code, its message and the EVM's data."""
    error = faults.rpc_error("eth_call", 3, "execution reverted", "0x08c379a0")
    proxy.once("eth_call", error)
    with pytest.raises(RpcError) as caught:
        await rpc.call("eth_call")
    found = caught.value
    assert (found.code, found.message, found.data) == (3, "execution reverted", "0x08c379a0")


@pytest.mark.parametrize(
    ("data", "found"),
    [({"data": "0xab", "txHash": "0x1"}, "0xab"), ({}, None), (["0xab"], None), (None, None)],
)
async def test_node_error_data(
    proxy: Proxy, rpc: RpcClient, data: object, found: str | None
) -> None:
    """Data may come in an object, as Hardhat's does; what is no text is no data."""
    proxy.once("eth_call", faults.rpc_error("eth_call", -32603, "reverted", data))
    with pytest.raises(RpcError) as caught:
        await rpc.call("eth_call")
    assert caught.value.data == found


async def test_errors_within_a_batch(proxy: Proxy, rpc: RpcClient) -> None:
    """An error in a batch stands where its answer would; the others are answers."""
    proxy.once("eth_gasPrice", faults.rpc_error("eth_gasPrice", -32005, "limit exceeded"))
    first, second, third = await rpc.batch(
        [("eth_chainId", []), ("eth_gasPrice", []), ("web3_clientVersion", [])]
    )
    assert first == CHAIN_ID
    assert isinstance(second, RpcError)
    assert (second.code, second.message, second.data) == (-32005, "limit exceeded", None)
    assert third.startswith("anvil/")


@pytest.mark.parametrize("code", [429, -32005])
async def test_rate_limit(proxy: Proxy, rpc: RpcClient, code: int) -> None:
    """A rate limit under HTTP 200 is no answer, also where it is that of one item of a batch."""
    proxy.always("eth_gasPrice", faults.rpc_error("eth_gasPrice", code, "Too Many Requests"))
    text = f"{proxy.url} eth_gasPrice: Too Many Requests (code {code})"
    with pytest.raises(ChainUnavailableError) as caught:
        await rpc.call("eth_gasPrice")
    assert str(caught.value) == text
    with pytest.raises(ChainUnavailableError) as caught:
        await rpc.batch([("eth_chainId", []), ("eth_gasPrice", [])])
    assert str(caught.value) == text


async def test_limit_of_a_log_query(proxy: Proxy, rpc: RpcClient) -> None:
    """A limit on what one query may ask for is an answer: asking for less helps."""
    text = "query returned more than 10000 results"
    proxy.once("eth_getLogs", faults.rpc_error("eth_getLogs", -32005, text))
    with pytest.raises(RpcError, match=text):
        await rpc.call("eth_getLogs", {})


async def test_ask(proxy: Proxy, rpc: RpcClient) -> None:
    """Where no error answer means anything by itself, it is one that may pass."""
    proxy.once("eth_gasPrice", faults.rpc_error("eth_gasPrice", -32601, "no such method"))
    with pytest.raises(ChainError, match=r"eth_gasPrice: no such method \(code -32601\)"):
        await rpc.ask("eth_gasPrice")
    assert await rpc.ask("eth_chainId") == CHAIN_ID


async def test_error_status_with_an_answer(proxy: Proxy, rpc: RpcClient) -> None:
    """A node's own error under HTTP 400 is still the node's own error."""
    body = b'{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"parse error"}}'
    proxy.once("eth_chainId", faults.answer(body, status=400))
    with pytest.raises(RpcError, match="parse error"):
        await rpc.call("eth_chainId")


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://localhost:8545", "http://localhost:8545"),
        (f"https://mainnet.infura.io/v3/{SECRET}", "https://mainnet.infura.io"),
        (f"https://user:{SECRET}@node.example:8443/x?key={SECRET}#y", "https://node.example:8443"),
    ],
)
def test_host(url: str, host: str) -> None:
    """Of an endpoint only scheme, host and port are ever shown."""
    assert host_of(url) == host
