import pytest
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ConnectionError,  # noqa: A004 - redis-py's own name
    DataError,
    MasterDownError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TimeoutError,  # noqa: A004 - redis-py's own name
)

from adapters.redis_client import unavailable

FULL = "command not allowed when used memory > 'maxmemory'."
SCRIPT = "Error running script (call to f_12ab): @user_script:9: @user_script: 9: -"


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (OutOfMemoryError(FULL), "oom"),
        (ResponseError(f"{SCRIPT}OOM {FULL}"), "oom"),
        (ReadOnlyError("You can't write against a read only replica."), "read_only"),
        (ResponseError(f"{SCRIPT}READONLY You can't write against a replica."), "read_only"),
        (ResponseError("UNBLOCKED force unblock from blocking operation"), "read_only"),
        (ResponseError("NOREPLICAS Not enough good replicas to write."), "no_replicas"),
        (ResponseError("MISCONF Valkey is configured to save RDB snapshots, but"), "misconf"),
        (
            ResponseError("MISCONF Errors writing to the AOF file: No space left on device"),
            "disk_full",
        ),
        (MasterDownError("Link with MASTER is down"), "primary_down"),
        (BusyLoadingError("Redis is loading the dataset in memory"), "loading"),
        (ResponseError("BUSY Redis is busy running a script."), "busy"),
        (NoPermissionError("User u has no permissions to run the 'get' command"), "permission"),
        (NoPermissionError("No permissions to access a key"), "permission"),
        (ResponseError("ACL failure in script: No permissions to access a key"), "permission"),
        (ResponseError(f"{SCRIPT}NOPERM this user has no permissions"), "permission"),
        (AuthenticationError("WRONGPASS"), "credentials"),
        (ConnectionError("Connection refused"), "away"),
        (TimeoutError("Timeout reading"), "away"),
    ],
)
def test_causes(error: RedisError, cause: str) -> None:
    """Each answer that means "not now" has its cause, and says in words what Redis lacks."""
    found = unavailable(error)
    assert found is not None
    assert found.cause == cause
    assert str(found).startswith("Redis")


@pytest.mark.parametrize(
    "error",
    [
        ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value"),
        ResponseError("unknown command 'OOM '"),
        DataError("Invalid input"),
    ],
)
def test_ours(error: RedisError) -> None:
    """What waiting does not mend is not called an outage."""
    assert unavailable(error) is None
