"""A TCP proxy before a Redis, which delays one script call, or loses or keeps back its reply."""

import asyncio
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit


class RedisProxy:
    """`url` is what the client gets. Scripts are known by one of their arguments."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 0
        self._loses = self._keeps = self._delays = b""
        self._connections: set[asyncio.Task[None]] = set()
        self.url = ""
        self.met = asyncio.Event()
        """Set once the call is delayed, or was carried out and its reply is lost or kept back."""
        self.released = asyncio.Event()
        """Set it to let the call or the reply through."""
        self.away = False
        """Whether new connections are closed at once."""

    def lose(self, argument: str) -> None:
        """Carry the next script with this argument out, and close the connection."""
        self._loses = _word(argument)

    def keep(self, argument: str) -> None:
        """Carry it out, and say nothing until `released`."""
        self._keeps = _word(argument)

    def delay(self, argument: str) -> None:
        """Let the next script with this argument reach Redis when `released`, and not before, be
        its client there or not."""
        self._delays = _word(argument)

    async def serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            if not self.away:
                await self._pass(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._connections.discard(task)
            writer.close()

    async def end(self) -> None:
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _pass(self, client: StreamReader, to_client: StreamWriter) -> None:
        """Command and reply in turn, as a client without pipelines has them."""
        server, to_server = await asyncio.open_connection(self._host, self._port)
        asked = b""

        async def there() -> None:
            nonlocal asked
            while command := await client.read(65536):
                asked = command
                if self._delays and self._delays in command:
                    self._delays = b""
                    self.met.set()
                    await self.released.wait()
                to_server.write(command)

        async def back() -> None:
            while reply := await server.read(65536):
                if not reply.startswith(b"-NOSCRIPT") and await self._is_lost(asked):
                    return
                to_client.write(reply)

        ways = [asyncio.create_task(there()), asyncio.create_task(back())]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            to_server.close()

    async def _is_lost(self, command: bytes) -> bool:
        """What becomes of the reply to a command; one that is kept back is waited for."""
        if self._loses and self._loses in command:
            self._loses = b""
            self.met.set()
            return True
        if self._keeps and self._keeps in command:
            self._keeps = b""
            self.met.set()
            await self.released.wait()
        return False


def _word(argument: str) -> bytes:
    """As RESP writes it."""
    return b"\r\n%b\r\n" % argument.encode()


@asynccontextmanager
async def open_redis_proxy(url: str) -> AsyncIterator[RedisProxy]:
    """A proxy on a free port of the loopback interface."""
    proxy = RedisProxy(url)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        server.close()
        await proxy.end()
        await server.wait_closed()
