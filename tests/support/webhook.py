"""A webhook that alerts are sent to: a real HTTP server that says what a test tells it to."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]
PATH_KEY = "hunter2hunter2"
"""The part of the URL that is a secret."""


def says(status: int, **headers: str) -> Answer:
    async def answer(_request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, headers=headers)

    return answer


class Webhook:
    """`answers` are given in turn, the last one for ever."""

    def __init__(self) -> None:
        self.url = ""
        self.answers: list[Answer] = [says(200)]
        self.requests: list[tuple[dict[str, str], bytes]] = []
        """Headers and body of each, also of those that were refused."""
        self._came = asyncio.Condition()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        async with self._came:
            self.requests.append((dict(request.headers), body))
            self._came.notify_all()
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return await answer(request)

    async def until(self, count: int, seconds: float = 20.0) -> None:
        """Wait until so many requests have come in."""
        async with asyncio.timeout(seconds), self._came:
            await self._came.wait_for(lambda: len(self.requests) >= count)

    @property
    def documents(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, body in self.requests]


@asynccontextmanager
async def webhook(port: int = 0) -> AsyncIterator[Webhook]:
    """A server of the test's own, with a key in the path of its URL."""
    found = Webhook()
    app = web.Application()
    app.router.add_post(f"/services/{PATH_KEY}", found.handle)
    app.router.add_post("/elsewhere", found.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, reuse_address=True).start()
    found.url = f"http://127.0.0.1:{runner.addresses[0][1]}/services/{PATH_KEY}"
    try:
        yield found
    finally:
        await runner.cleanup()
