"""Which transactions of a saga an operator can replace, and what would replace them."""

from collections.abc import Sequence
from typing import Literal

import msgspec

from adapters.rpc import Request, RpcError
from saga import fees
from saga.cli.desk import Desk
from saga.errors import ChainUnavailableError, UsageError
from saga.fees import Fees, Held, Market
from saga.lane import Outstanding, fees_of, next_kind
from saga.model import AttemptKind, Intent, Saga, Step

Order = Literal["bump", "cancel"]


class Planned(msgspec.Struct, frozen=True, kw_only=True):
    """A replacement that is not signed yet."""

    step: Step
    record: Outstanding
    kind: AttemptKind
    price: Fees


async def plan_replacements(
    desk: Desk, saga: Saga, order: Order
) -> tuple[Desk, list[Planned], list[tuple[Intent, str]]]:
    """The desk of their lane, the replacements; and the intents that are left alone, with why.

    Raises UsageError when there is nothing to replace, the current step is over, or a limit forbids
    the price. SIDE EFFECTS: none.
    """
    every = _unconfirmed(desk, saga)
    desk = _desk_of(desk, every[0])
    intents = [intent for intent in every if intent.sender == desk.signer.address]
    elsewhere = [
        (intent, f"it is of {intent.sender}, another lane: its step comes later")
        for intent in every
        if intent not in intents
    ]
    records = await desk.lane.read([intent.nonce for intent in intents])
    for record in records:
        if record.saga_id != saga.id or not record.attempts:
            raise UsageError(
                f"nonce {record.nonce}: Redis has no record of the saga's transaction any more; "
                "has it just moved on? `saga show` tells"
            )
    # The chain is asked after the records are read: what was mined before that is seen as mined.
    ends = await _ends(desk, records)
    if ends[0] and (order == "cancel" or all(ends)):
        raise UsageError(f"{ends[0]}: too late to {order} the saga's {intents[0].step} step")
    market = await desk.oracle.market()
    planned = [
        _planned(desk, saga, order, record, market)
        for record, end in zip(records, ends, strict=True)
        if not end
    ]
    ended = [(intent, end) for intent, end in zip(intents, ends, strict=True) if end]
    return desk, planned, ended + elsewhere


def _planned(desk: Desk, saga: Saga, order: Order, record: Outstanding, market: Market) -> Planned:
    """Raises UsageError when a limit forbids it, with the setting's name."""
    kind = next_kind(record) if order == "bump" else _cancelling(saga)
    cost_gas = record.cost_gas if kind is AttemptKind.CALL else 0
    price = fees.bump(fees_of(record.attempts[-1], market), market, desk.limits, cost_gas)
    if isinstance(price, Held):
        raise UsageError(f"nonce {record.nonce}: {price.reason}")
    return Planned(step=Step(record.step), record=record, kind=kind, price=price)


def _cancelling(saga: Saga) -> AttemptKind:
    """A saga that has ended is not ended by it: only its nonce is to be spent."""
    return AttemptKind.FILL if saga.state.terminal else AttemptKind.CANCEL


def _unconfirmed(desk: Desk, saga: Saga) -> list[Intent]:
    """The intents whose transactions are not confirmed, that of the current step first."""
    intents = [
        intent
        for step in Step
        if (intent := saga.intent(step)) is not None and saga.receipt(step) is None
    ]
    if not intents:
        raise UsageError(f"saga {saga.id} is {saga.state} and has no transaction out")
    return intents


def _desk_of(desk: Desk, intent: Intent) -> Desk:
    """That of the intent's lane. Raises UsageError when its key or chain is not configured."""
    found = desk.of(intent.sender)
    if found is None or intent.chain_id != desk.chain_id:
        raise UsageError(
            f"nonce {intent.nonce} is of {intent.sender} on chain {intent.chain_id}; the settings "
            f"are for {', '.join(desk.keys)} on chain {desk.chain_id}"
        )
    return found


async def _ends(desk: Desk, records: Sequence[Outstanding]) -> list[str]:
    """Why nothing can be done about each nonce any more; empty while it is unmined.

    One node that has a receipt is enough. Raises ChainUnavailableError when none can tell.
    """
    hashes = [attempt.hash for record in records for attempt in record.attempts]
    requests: list[Request] = [("eth_getTransactionReceipt", [each]) for each in hashes]
    requests.append(("eth_getTransactionCount", [desk.lane.sender, "latest"]))
    columns = list(zip(*await desk.rpc.everywhere(requests), strict=True))
    for (method, _), answers in zip(requests, columns, strict=True):
        if all(isinstance(answer, RpcError) for answer in answers):
            raise ChainUnavailableError(f"{desk.rpc.host} {method}: {answers[0]}")
    blocks = {
        tx: int(answer["blockNumber"], 16)
        for tx, answers in zip(hashes, columns[:-1], strict=True)
        for answer in answers
        if isinstance(answer, dict)
    }
    spent = max(int(count, 16) for count in columns[-1] if isinstance(count, str))
    return [_end(record, blocks, spent) for record in records]


def _end(record: Outstanding, blocks: dict[str, int], spent: int) -> str:
    for attempt in record.attempts:
        if attempt.hash in blocks:
            return f"transaction {attempt.hash} is mined in block {blocks[attempt.hash]}"
    if record.nonce < spent:
        return f"nonce {record.nonce} is spent by a transaction that is not the saga's"
    return ""
