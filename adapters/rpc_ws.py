"""JSON-RPC over a WebSocket: requests by id on one connection, and heads pushed by the node.

A connection is made at the first request, and again at the next one after a loss. A loss fails all
that wait for an answer; nothing is sent twice, for only the caller knows what a repeat does.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import aiohttp
import msgspec

from adapters.rpc import (
    MAX_REPLY_BYTES,
    Meter,
    OneNode,
    Reply,
    Request,
    RpcError,
    envelope,
    no_meter,
)
from saga.errors import ChainUnavailableError

HEARTBEAT_SECONDS = 10.0
"""A ping that often; a connection without a pong for half of it is lost."""

_CLOSE_TIMEOUT = aiohttp.ClientWSTimeout(ws_close=1.0)  # a hung node does not hold up our end


class _Header(msgspec.Struct):
    number: str = ""


class _Push(msgspec.Struct):
    result: _Header = msgspec.field(default_factory=_Header)


class _Message(Reply):
    """An answer, or what a subscription pushes."""

    method: str = ""
    params: _Push | None = None


_message = msgspec.json.Decoder(_Message)


class _Connection:
    """One connection until its loss. An answer is a Reply; a str says why there is none."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, on_head: Callable[[str], None]):
        self._socket = socket
        self._on_head = on_head
        self._waiting: dict[int, asyncio.Future[Reply | str]] = {}
        self.lost = asyncio.Event()
        self._reader = asyncio.create_task(self._read())

    async def ask(self, request_id: int, message: bytes) -> "asyncio.Future[Reply | str]":
        """Send a request; its answer comes in the future. Raises what a lost socket raises."""
        answer: asyncio.Future[Reply | str] = asyncio.get_running_loop().create_future()
        if self.lost.is_set():
            answer.set_result("connection lost")
            return answer
        self._waiting[request_id] = answer
        answer.add_done_callback(lambda _: self._waiting.pop(request_id, None))
        await self._socket.send_str(message.decode())
        return answer

    async def _read(self) -> None:
        reason = "connection lost"
        try:
            async for frame in self._socket:
                if frame.type is not aiohttp.WSMsgType.TEXT:
                    reason = "no JSON-RPC reply"
                    return
                self._take(_message.decode(frame.data))
        except ValueError:  # msgspec's own errors too: whose answer it was cannot be known
            reason = "no JSON-RPC reply"
        except (aiohttp.ClientError, OSError):
            pass
        finally:
            self.lost.set()
            self._fail(reason)
            await self._socket.close()

    def _take(self, message: _Message) -> None:
        if message.method == "eth_subscription":
            self._on_head(message.params.result.number if message.params else "")
        elif isinstance(message.id, int) and message.id in self._waiting:
            _settle(self._waiting[message.id], message)
        elif message.id is None and message.error is not None:
            self._fail(str(message.outcome()))  # about a request that the node could not read

    def _fail(self, reason: str) -> None:
        for answer in list(self._waiting.values()):
            _settle(answer, reason)

    async def close(self) -> None:
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)


def _settle(answer: "asyncio.Future[Reply | str]", outcome: Reply | str) -> None:
    if not answer.done():
        answer.set_result(outcome)


class WsClient(OneNode):
    """One endpoint over one WebSocket. A batch is sent as single messages at once."""

    def __init__(self, url: str, *, timeout_seconds: float = 10.0, meter: Meter = no_meter) -> None:
        super().__init__(url, meter)
        self._timeout_seconds = timeout_seconds
        self._session = aiohttp.ClientSession()
        self._connection: _Connection | None = None
        self._connecting = asyncio.Lock()
        self._on_head: Callable[[], None] | None = None
        self.head: int | None = None
        """The number of the last pushed head."""
        self.subscribed = False
        """Whether heads come in: a subscription is accepted and its connection not lost."""

    async def heads(self, on_head: Callable[[], None]) -> None:
        """Subscribe to new heads and call `on_head` at each, for one listener at a time.

        Ends with ChainUnavailableError when the subscription is refused or lost.
        """
        self._on_head = on_head
        try:
            connection = await self._connected("eth_subscribe")
            await self.call("eth_subscribe", "newHeads")
            self.subscribed = True
            await connection.lost.wait()
        except RpcError as error:
            raise ChainUnavailableError(f"{self.host} eth_subscribe: {error}") from error
        finally:
            self.subscribed = False
            self._on_head = None
        raise ChainUnavailableError(f"{self.host} eth_subscribe: connection lost")

    async def close(self) -> None:
        if self._connection is not None:
            await self._connection.close()
        await self._session.close()

    async def _one(self, requests: Sequence[Request]) -> list[Any]:
        return await self._exchange(requests, requests[0][0])

    async def _several(self, requests: Sequence[Request]) -> list[Any]:
        return await self._exchange(requests, "batch")

    async def _exchange(self, requests: Sequence[Request], what: str) -> list[Any]:
        answers: list[asyncio.Future[Reply | str]] = []
        try:
            async with asyncio.timeout(self._timeout_seconds):
                connection = await self._connected(what)
                for request in requests:
                    request_id = next(self._ids)
                    message = msgspec.json.encode(envelope(request_id, request))
                    answers.append(await connection.ask(request_id, message))
                return [self._outcome(await answer, what) for answer in answers]
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            # The text of some of these holds the URL, and so a key: the type must do.
            raise ChainUnavailableError(f"{self.host} {what}: {type(error).__name__}") from None
        finally:
            for answer in answers:
                answer.cancel()

    def _outcome(self, answer: Reply | str, what: str) -> Any:
        if isinstance(answer, str):
            raise ChainUnavailableError(f"{self.host} {what}: {answer}")
        return answer.outcome()

    async def _connected(self, what: str) -> _Connection:
        async with self._connecting:
            if self._connection is None or self._connection.lost.is_set():
                try:
                    async with asyncio.timeout(self._timeout_seconds):
                        socket = await self._session.ws_connect(
                            self._url,
                            heartbeat=HEARTBEAT_SECONDS,
                            max_msg_size=MAX_REPLY_BYTES,
                            timeout=_CLOSE_TIMEOUT,
                        )
                except (aiohttp.ClientError, TimeoutError, OSError) as error:
                    text = f"{self.host} {what}: {type(error).__name__}"
                    if isinstance(error, aiohttp.WSServerHandshakeError):
                        text = f"{self.host} {what}: HTTP {error.status}"
                    raise ChainUnavailableError(text) from None
                self._connection = _Connection(socket, self._pushed)
            return self._connection

    def _pushed(self, number: str) -> None:
        """SIDE EFFECTS: calls the listener. A header that cannot be read still is a new head."""
        try:
            self.head = int(number, 16)
        except ValueError:
            self.head = None
        if self._on_head is not None:
            self._on_head()
