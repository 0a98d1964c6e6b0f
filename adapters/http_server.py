"""The HTTP side: `/live` says that the event loop turns, `/ready` whether new work can be done and
why not, `/metrics` what was counted."""

from collections.abc import Callable, Sequence

import msgspec
from aiohttp import web


class Readiness(msgspec.Struct, frozen=True):
    """What `/ready` answers: status 200 when ready, else 503. From memory: it never waits."""

    ready: bool
    reasons: Sequence[str]
    """Why not; or what is wrong although new work can be done."""


async def _live(_request: web.Request) -> web.Response:
    return web.json_response({"status": "live"})


class HttpServer:
    """Serves on all interfaces, as a probe from outside a container needs. Port 0: off.

    `exposition`: the text of `/metrics` and its content type; `readiness`: the answer of `/ready`.
    """

    def __init__(
        self,
        port: int,
        exposition: Callable[[], tuple[bytes, str]],
        readiness: Callable[[], Readiness],
    ) -> None:
        self._port = port
        self._exposition = exposition
        self._readiness = readiness
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Raises OSError when the port is taken."""
        if not self._port:
            return
        app = web.Application()
        app.router.add_get("/live", _live)
        app.router.add_get("/ready", self._ready)
        app.router.add_get("/metrics", self._metrics)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, port=self._port).start()

    async def _ready(self, _request: web.Request) -> web.Response:
        found = self._readiness()
        return web.json_response(
            body=msgspec.json.encode(found), status=200 if found.ready else 503
        )

    async def _metrics(self, _request: web.Request) -> web.Response:
        body, content_type = self._exposition()
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
