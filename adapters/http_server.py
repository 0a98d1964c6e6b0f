"""The HTTP side: `/live` says that the event loop turns."""

from aiohttp import web


async def _live(_request: web.Request) -> web.Response:
    return web.json_response({"status": "live"})


class HttpServer:
    """Serves on all interfaces, as a probe from outside a container needs. Port 0: off."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Raises OSError when the port is taken."""
        if not self._port:
            return
        app = web.Application()
        app.router.add_get("/live", _live)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, port=self._port).start()

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
