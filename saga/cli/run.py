"""`saga run`."""

import asyncio
import sys

from adapters.log_setup import configure_logging
from saga.app import run
from saga.config import Settings, load
from saga.signers import forget_environment

RECURSION_LIMIT = 1000


def run_orchestrator(*, adopt_pending: bool) -> None:
    """Raises ConfigError before anything is taken."""
    settings = load(Settings)
    forget_environment()
    # eth_account's dependencies raise the limit to 100,000, where a hostile reply that nests deep
    # would overflow the stack of the process.
    sys.setrecursionlimit(RECURSION_LIMIT)
    configure_logging(settings.LOG_LEVEL, settings.LOG_FORMAT)
    try:
        import uvloop  # noqa: PLC0415 - not on every platform
    except ImportError:
        asyncio.run(run(settings, adopt_pending=adopt_pending))
    else:
        uvloop.run(run(settings, adopt_pending=adopt_pending))
