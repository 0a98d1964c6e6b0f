"""What a probe from outside sees of a replica."""

import asyncio
import json
import urllib.error
import urllib.request

SECONDS = 20.0


def ready(port: int) -> tuple[int, list[str]]:
    """Status and reasons of `/ready`; 0 while nobody listens."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=5) as reply:
            return reply.status, json.loads(reply.read())["reasons"]
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())["reasons"]
    except urllib.error.URLError:
        return 0, []


async def until_ready(port: int, status: int, *words: str, seconds: float = SECONDS) -> None:
    """Wait until `/ready` answers so, with these words in its reasons."""
    async with asyncio.timeout(seconds):
        while True:
            found, reasons = await asyncio.to_thread(ready, port)
            if found == status and all(word in " ".join(reasons) for word in words):
                return
            await asyncio.sleep(0.05)


def live(port: int) -> int:
    """Status of `/live`."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/live", timeout=5) as reply:
        return int(reply.status)
