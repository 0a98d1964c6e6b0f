"""`saga send`."""

import asyncio
import sys
from pathlib import Path

from saga.config import StoreSettings, load
from saga.errors import UsageError
from saga.store import open_store


def send_files(files: list[Path]) -> None:
    """Push the files' messages in the order given. Raises UsageError before pushing any."""
    messages = [message for file in files for message in _messages(file)]
    if not messages:
        raise UsageError("nothing to send: the files are empty")
    settings = load(StoreSettings)
    asyncio.run(_push(settings, messages))
    sys.stdout.write(f"{len(messages)} message(s) put on {settings.INBOUND_QUEUE}\n")


def _messages(file: Path) -> list[bytes]:
    """One message of a file, or each line of a `.jsonl` file. Bytes are not touched."""
    try:
        raw = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from error
    if file.suffix == ".jsonl":
        return [line for line in raw.splitlines() if line.strip()]
    return [raw] if raw else []


async def _push(settings: StoreSettings, messages: list[bytes]) -> None:
    async with open_store(settings) as (_, queue):
        await queue.send(messages)
