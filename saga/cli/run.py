"""`saga run`."""

import asyncio
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import structlog

from adapters.log_setup import configure_logging
from saga.app import run
from saga.checks import check_address
from saga.config import Settings, load
from saga.errors import UsageError
from saga.setting import CONFIG
from saga.signers import forget_environment

RECURSION_LIMIT = 1000
_log = structlog.get_logger("saga")


def run_orchestrator(*, adopt_pending: bool, abandoned: Sequence[str], wait: bool) -> None:
    """Raises ConfigError before anything is taken."""
    abandoned = [_address(each) for each in abandoned]
    settings = load(Settings)
    forget_environment()
    # eth_account's dependencies raise the limit to 100,000, where a hostile reply that nests deep
    # would overflow the stack of the process.
    sys.setrecursionlimit(RECURSION_LIMIT)
    configure_logging(settings.LOG_LEVEL, settings.LOG_FORMAT)
    _guard_the_key()
    replica = run(settings, adopt_pending=adopt_pending, abandoned=abandoned, wait=wait)
    try:
        import uvloop  # noqa: PLC0415 - not on every platform
    except ImportError:
        asyncio.run(replica)
    else:
        uvloop.run(replica)


def _guard_the_key() -> None:
    """A crash leaves no image of this process's memory; and a key in a file that others may read is
    told."""
    with suppress(ImportError, ValueError, OSError):
        import resource  # noqa: PLC0415 - not on every platform

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    dotenv = Path(str(CONFIG.get("env_file")))
    if dotenv.is_file() and dotenv.stat().st_mode & 0o077:
        mode = f"{dotenv.stat().st_mode & 0o777:04o}"
        _log.warning("config.dotenv_readable", mode=mode, fix="chmod 600 .env")


def _address(value: str) -> str:
    try:
        return check_address(value)
    except ValueError as error:
        raise UsageError(f"--abandon-key {error}") from None
