"""How long a broadcast waits for its endpoints: one that says nothing must not slow a send."""

import asyncio
from collections.abc import Iterable, Sequence

from adapters.rpc_endpoint import SendOutcome
from adapters.rpc_errors import RpcError, SendVerdict, send_verdict

GRACE_SECONDS = 0.25
"""What the others get once one endpoint has the bytes: enough for an answer from another continent,
and little beside the time between blocks."""

Sending = asyncio.Task[list[SendOutcome]]


def has_taken(outcomes: Iterable[SendOutcome]) -> bool:
    """Whether an endpoint has all of the transactions now."""
    return all(
        isinstance(each, str)
        or (isinstance(each, RpcError) and send_verdict(each) is SendVerdict.KNOWN)
        for each in outcomes
    )


async def until_taken(sendings: Sequence[Sending], awaited: Sequence[Sending]) -> None:
    """Wait until one of the sendings is taken and the awaited ones have had their grace, or until
    all awaited ones are answered. Nothing is cancelled."""
    pending = set(sendings)
    while waiting := pending.intersection(awaited):
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        if any(has_taken(task.result()) for task in done):
            if waiting := waiting & pending:
                await asyncio.wait(waiting, timeout=GRACE_SECONDS)
            return
