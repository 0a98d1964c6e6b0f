"""`saga run`."""

import asyncio

from adapters.log_setup import configure_logging
from saga.app import run
from saga.config import Settings, load


def run_orchestrator() -> None:
    """Raises ConfigError before anything is taken."""
    settings = load(Settings)
    configure_logging(settings.LOG_LEVEL, settings.LOG_FORMAT)
    try:
        import uvloop  # noqa: PLC0415 - not on every platform
    except ImportError:
        asyncio.run(run(settings))
    else:
        uvloop.run(run(settings))
