"""The HTTP side: `/live` says that the event loop turns, `/metrics` what was counted."""

from collections.abc import Callable

from aiohttp import web


async def _live(_request: web.Request) -> web.Response:
    return web.json_response({"status": "live"})


class HttpServer:
    """Serves on all interfaces, as a probe from outside a container needs. Port 0: off.

    `exposition`: the text of `/metrics` and its content type.
    """

    def __init__(self, port: int, exposition: Callable[[], tuple[bytes, str]]) -> None:
        self._port = port
        self._exposition = exposition
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Raises OSError when the port is taken."""
        if not self._port:
            return
        app = web.Application()
        app.router.add_get("/live", _live)
        app.router.add_get("/metrics", self._metrics)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, port=self._port).start()

    async def _metrics(self, _request: web.Request) -> web.Response:
        body, content_type = self._exposition()
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
