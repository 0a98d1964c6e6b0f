"""A real HTTP proxy between the service and a node, with faults by JSON-RPC method.

A fault is an async function of one exchange: it may forward the request or not, and answers as it
likes. Requests without a fault are passed on as they are.

WebSockets are passed through at the same port, message by message. `cut` breaks them off, and
`on_message` says what a method meets there.
"""

import asyncio
import json
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import ClientSession, ClientTimeout, ClientWebSocketResponse, WSMsgType, web

EVERY = "*"
"""As a method of `always`: whatever has no fault of its own."""
SEND = "eth_sendRawTransaction"
Reply = dict[str, Any]
Response = web.StreamResponse
Fault = Callable[["Exchange"], Awaitable[Response]]
# The answer to one request of a single call or a batch; None: ask the node.
Answerer = Callable[[Any], Reply | None]
# What a client's WebSocket message meets instead of the node: a text, or None for silence.
Said = Callable[[Any], str | bytes | None]


class Exchange:
    """One HTTP request of the client, and the way on to the node."""

    def __init__(self, request: web.Request, body: bytes, proxy: "Proxy") -> None:
        self.request = request
        self.body = body
        self.calls: Any = json.loads(body)
        self.released = proxy.released
        self._proxy = proxy

    @property
    def methods(self) -> list[str]:
        return _methods(self.calls)

    async def forward(self, calls: Any = None) -> bytes:
        """The node's answer to the request as it came, or to these calls instead."""
        self._proxy.forwarded += _methods(calls or self.calls)
        return await self._proxy.ask_node(json.dumps(calls).encode() if calls else self.body)

    async def ask(self, method: str, *params: Any) -> Any:
        """The node's answer to a question of the fault's own."""
        call = {"jsonrpc": "2.0", "id": 0, "method": method, "params": params}
        return json.loads(await self._proxy.ask_node(json.dumps(call).encode()))["result"]

    def hang_up(self) -> Response:
        """Close the connection, whatever has been written."""
        if self.request.transport is not None:
            self.request.transport.close()
        return web.Response()


class Proxy:
    """`url` is what the client gets; the log and the script are read and written by the test."""

    def __init__(self, node_url: str, session: ClientSession) -> None:
        self._node_url = node_url
        self._session = session
        self._once: defaultdict[str, deque[Fault]] = defaultdict(deque)
        self._always: dict[str, Fault] = {}
        self.url = ""
        self.released = asyncio.Event()
        """Set it to end every silence."""
        self.received: list[str] = []
        """The methods in the order of their arrival."""
        self.forwarded: list[str] = []
        """Those that the node has seen."""
        self.on_message: dict[str, Said] = {}
        """What happens to WebSocket messages, by method."""
        self.refuse_sockets: int | None = None
        """The HTTP status that new WebSockets get, if they are refused."""
        self._sockets: set[asyncio.Transport] = set()

    @property
    def ws_url(self) -> str:
        """The same place for WebSockets."""
        return self.url.replace("http://", "ws://")

    def cut(self) -> None:
        """Break off every WebSocket, without a word."""
        for transport in list(self._sockets):
            transport.abort()

    def once(self, method: str, *faults: Fault) -> None:
        """The next requests that contain `method` meet these faults, one each."""
        self._once[method] += faults

    def always(self, method: str, fault: Fault) -> None:
        """Every request that contains `method` meets this fault, until `heal`."""
        self._always[method] = fault

    def heal(self) -> None:
        """No fault any more."""
        self._once.clear()
        self._always.clear()
        self.on_message.clear()
        self.refuse_sockets = None
        self.released.set()

    async def ask_node(self, body: bytes) -> bytes:
        headers = {"Content-Type": "application/json"}
        async with self._session.post(self._node_url, data=body, headers=headers) as reply:
            return await reply.read()

    async def handle(self, request: web.Request) -> Response:
        exchange = Exchange(request, await request.read(), self)
        self.received += exchange.methods
        fault = self._fault(exchange.methods)
        if fault is not None:
            return await fault(exchange)
        return json_response(await exchange.forward())

    async def handle_socket(self, request: web.Request) -> Response:
        if self.refuse_sockets is not None:
            return web.Response(status=self.refuse_sockets)
        client = web.WebSocketResponse(max_msg_size=0)
        transport = request.transport
        assert transport is not None
        self._sockets.add(transport)
        try:
            async with self._session.ws_connect(self._node_url, max_msg_size=0) as node:
                await client.prepare(request)
                back = asyncio.create_task(_pass_back(node, client))
                try:
                    async for message in client:
                        if message.type is WSMsgType.TEXT:
                            await self._pass_on(message.data, client, node)
                finally:
                    back.cancel()
                    await asyncio.gather(back, return_exceptions=True)
        finally:
            self._sockets.discard(transport)
        return client

    async def _pass_on(
        self, text: str, client: web.WebSocketResponse, node: ClientWebSocketResponse
    ) -> None:
        call = json.loads(text)
        self.received += _methods(call)
        if call["method"] not in self.on_message:
            self.forwarded += _methods(call)
            await node.send_str(text)
            return
        said = self.on_message[call["method"]](call)
        if isinstance(said, bytes):
            await client.send_bytes(said)
        elif said is not None:
            await client.send_str(said)

    def _fault(self, methods: Sequence[str]) -> Fault | None:
        for method in methods:
            if self._once[method]:
                return self._once[method].popleft()
            if method in self._always:
                return self._always[method]
        return self._always.get(EVERY)


@asynccontextmanager
async def open_proxy(node_url: str) -> AsyncIterator[Proxy]:
    """A proxy on a free port of the loopback interface."""
    async with ClientSession(timeout=ClientTimeout(total=30)) as session:
        proxy = Proxy(node_url, session)
        app = web.Application()
        app.router.add_post("/{path:.*}", proxy.handle)
        app.router.add_get("/{path:.*}", proxy.handle_socket)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        proxy.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield proxy
        finally:
            proxy.released.set()
            proxy.cut()
            await runner.cleanup()


async def _pass_back(node: ClientWebSocketResponse, client: web.WebSocketResponse) -> None:
    """What the node says, until it goes away: then so does the connection to the client."""
    async for message in node:
        if message.type is WSMsgType.TEXT:
            await client.send_str(message.data)
    await client.close()


def json_response(body: bytes) -> web.Response:
    return web.Response(body=body, content_type="application/json")


def answer(body: bytes, *, status: int = 200, content_type: str = "application/json") -> Fault:
    """These bytes instead of the node's answer; the node sees nothing."""

    async def fault(exchange: Exchange) -> Response:
        return web.Response(body=body, status=status, content_type=content_type)

    return fault


async def forwarded(exchange: Exchange) -> Response:
    """No fault."""
    return json_response(await exchange.forward())


async def half_body(exchange: Exchange) -> Response:
    """The node does its work; its answer breaks off in the middle."""
    body = await exchange.forward()
    response = web.StreamResponse(headers={"Content-Length": str(len(body))})
    await response.prepare(exchange.request)
    await response.write(body[: len(body) // 2])
    return exchange.hang_up()


async def lost_reply(exchange: Exchange) -> Response:
    """The node does its work; its answer never arrives."""
    await exchange.forward()
    return exchange.hang_up()


async def lost_request(exchange: Exchange) -> Response:
    """The connection breaks before the node sees anything."""
    return exchange.hang_up()


async def silence(exchange: Exchange) -> Response:
    """No word until the proxy is released; then the node's answer."""
    await exchange.released.wait()
    return json_response(await exchange.forward())


async def another_id(exchange: Exchange) -> Response:
    """The node's answer under ids that nobody used."""
    replies = json.loads(await exchange.forward())
    for reply in replies if isinstance(replies, list) else [replies]:
        reply["id"] += 1_000_000
    return json_response(json.dumps(replies).encode())


def each_call(answerer: Answerer) -> Fault:
    """Answer single requests, also inside a batch; the node answers the others."""

    async def fault(exchange: Exchange) -> Response:
        if not isinstance(exchange.calls, list):
            reply = answerer(exchange.calls)
            if reply is None:
                return json_response(await exchange.forward())
            return json_response(json.dumps(_addressed(exchange.calls, reply)).encode())
        ours = {call["id"]: answerer(call) for call in exchange.calls}
        others = [call for call in exchange.calls if ours[call["id"]] is None]
        replies = json.loads(await exchange.forward(others)) if others else []
        replies += [
            _addressed(call, reply) for call in exchange.calls if (reply := ours[call["id"]])
        ]
        return json_response(json.dumps(replies).encode())

    return fault


def _methods(calls: Any) -> list[str]:
    return [call["method"] for call in (calls if isinstance(calls, list) else [calls])]


def _addressed(call: Any, reply: Reply) -> Reply:
    return {"jsonrpc": "2.0", "id": call["id"], **reply}


def rpc_error(method: str, code: int, message: str, data: Any = None) -> Fault:
    """A JSON-RPC error for `method`, single or in a batch; the node never sees that request."""
    error = {"code": code, "message": message} | ({} if data is None else {"data": data})
    return each_call(lambda call: {"error": error} if call["method"] == method else None)


def range_limit(blocks: int) -> Fault:
    """As hosted nodes do: no `eth_getLogs` over more than `blocks` blocks."""

    def refuse(call: Any) -> Reply | None:
        if call["method"] != "eth_getLogs":
            return None
        query = call["params"][0]
        if int(query["toBlock"], 16) - int(query["fromBlock"], 16) < blocks:
            return None
        return {"error": {"code": -32005, "message": f"at most {blocks} blocks are searched"}}

    return each_call(refuse)
