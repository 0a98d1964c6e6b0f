"""`saga chain status`: endpoints, head, fees, and what the lane of each configured key holds."""

import asyncio
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any

import msgspec

from adapters.former_keys import check_former_keys, draining_to, handed_to
from adapters.redis_lane import Standing
from adapters.rpc import Request, RpcError
from saga import fees
from saga.cli.chain_report import (
    AttemptStatus,
    ChainStatus,
    EndpointStatus,
    FeeStatus,
    LaneStatus,
    NonceStatus,
    print_status,
)
from saga.cli.desk import Desk, open_desk
from saga.cli.render import print_json
from saga.config import Settings, load
from saga.errors import ChainUnavailableError
from saga.fees import Fees, Held, Limits, Market, ether, gwei
from saga.lane import Outstanding

SHOWN = 64
"""Nonces that are shown one by one: as many as the keeper looks at in one round."""
PAGE = 1000
"""Records looked at in one round trip."""


class _Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What Redis and the nodes say of the lane's key."""

    standing: Standing
    spent: int
    pending: int
    balance: int

    @property
    def out(self) -> range:
        """The nonces that are out."""
        return range(self.spent, max(self.spent, self.standing.next or 0))


def chain_status(*, as_json: bool) -> None:
    """Raises ConfigError when no node answers."""
    settings = load(Settings)
    status = asyncio.run(_status(settings))
    if as_json:
        print_json(status)
    else:
        print_status(status)


async def _status(settings: Settings) -> ChainStatus:
    async with open_desk(settings) as desk:
        await desk.rpc.look_round()
        market = await desk.oracle.market()
        block, cost_gas = None, 0
        lanes, would_hold = [], []
        for each in desk.each():
            block, seen = await _see(each)
            records = await each.lane.read(seen.out[:SHOWN])
            cost_gas = max(cost_gas, _cost_gas(records))
            would_hold.append(list(_holds(settings, market, desk.limits, seen, cost_gas)))
            lanes.append(await _lane(each, seen, records))
        assert block is not None  # noqa: S101 - there is a key
        now_ms = (await desk.lane.standing()).now_ms
        former = await check_former_keys(
            desk.rpc, desk.lanes, desk.chain_id, list(desk.keys), settings.source
        )
        return ChainStatus(
            chain_id=desk.chain_id,
            network=desk.network,
            head=int(block["number"], 16),
            head_age_seconds=round(now_ms / 1000 - int(block["timestamp"], 16), 1),
            endpoints=list(_endpoints(desk)),
            fees=_fees(market, desk.limits, cost_gas),
            # One lane that is free is enough.
            would_hold=[why for whys in would_hold for why in whys] if all(would_hold) else [],
            problems=[*desk.problems, *former],
            lanes=lanes,
        )


async def _see(desk: Desk) -> tuple[dict[str, Any], _Seen]:
    """The head's block, and what is known of the key. Raises ChainUnavailableError."""
    # The lane first: what it gives after this is not looked at.
    standing = await desk.lane.standing()
    sender = desk.lane.sender
    requests: list[Request] = [
        ("eth_getBlockByNumber", ["latest", False]),
        ("eth_getTransactionCount", [sender, "latest"]),
        ("eth_getTransactionCount", [sender, "pending"]),
        ("eth_getBalance", [sender, "latest"]),
    ]
    answers = await desk.rpc.batch(requests)
    for (method, _), answer in zip(requests, answers, strict=True):
        if answer is None or isinstance(answer, RpcError):
            raise ChainUnavailableError(f"{desk.rpc.host} {method}: {answer}")
    block, spent, pending, balance = answers
    return block, _Seen(
        standing=standing,
        spent=int(spent, 16),
        pending=max(int(pending, 16), int(spent, 16)),
        balance=int(balance, 16),
    )


def _endpoints(desk: Desk) -> Iterator[EndpointStatus]:
    for each in desk.rpc.health():
        latency = each.latency_seconds
        yield EndpointStatus(
            host=each.host,
            kind=each.kind,
            usable=each.usable,
            refused=each.refused,
            circuit=each.circuit,
            latency_ms=None if latency is None else round(latency * 1000, 1),
            error_rate=round(each.error_rate, 3),
            head=each.head,
            lag_blocks=each.lag,
        )


def _cost_gas(records: Sequence[Outstanding]) -> int:
    """What a model's transactions burn, by those that are out; 0 when none is."""
    return max((record.cost_gas for record in records), default=0)


def _fees(market: Market, limits: Limits, cost_gas: int) -> FeeStatus:
    offered = fees.offer(market, limits, cost_gas)
    price = offered if isinstance(offered, Fees) else None
    return FeeStatus(
        base_fee_gwei=None if market.base_fee is None else gwei(market.base_fee),
        tip_gwei=gwei(market.tip),
        offer_max_fee_gwei=None if price is None else gwei(price.max_fee),
        offer_max_priority_fee_gwei=None if price is None else gwei(price.max_priority_fee),
        limit_max_fee_gwei=gwei(limits.max_fee),
        limit_model_ether=None if (most := fees.cost_limit(limits)) is None else ether(most),
        limit_model_usd=_plain(limits.max_cost_usd),
        native_usd=_plain(limits.native_usd),
    )


def _plain(amount: Decimal | None) -> str | None:
    """Digits alone, without an exponent."""
    return f"{amount:f}" if amount else None


def _holds(
    settings: Settings, market: Market, limits: Limits, seen: _Seen, cost_gas: int
) -> Iterator[str]:
    """Why a new saga would wait. What a model costs is judged by the gas of what is out."""
    if to := draining_to(seen.standing.retired):
        yield f"the key is being handed over to {to} and gives no new nonces"
    elif to := handed_to(seen.standing.retired):
        yield f"the key is retired, its work went to {to}"
    offered = fees.offer(market, limits, cost_gas)
    if isinstance(offered, Held):
        yield offered.reason
    elif seen.balance <= (least := offered.max_fee * cost_gas):
        yield f"balance {ether(seen.balance)} ether, at most {ether(least)} ether are needed"
    if seen.balance < settings.MIN_BALANCE_WEI:
        yield f"balance {ether(seen.balance)} is below MIN_BALANCE_WEI {settings.MIN_BALANCE_WEI}"
    limit = settings.MAX_IN_FLIGHT
    needed = 2 if settings.PIPELINE_REGISTRATION and limit > 1 else 1
    if limit and len(seen.out) + needed > limit:
        yield f"{len(seen.out)} nonces are out, MAX_IN_FLIGHT is {limit}"
    if seen.standing.next is None and seen.pending > seen.spent:
        yield f"nonces {seen.spent} to {seen.pending - 1} are pending and unknown to Redis"


async def _lane(desk: Desk, seen: _Seen, records: Sequence[Outstanding]) -> LaneStatus:
    standing = seen.standing
    lease = round((standing.until_ms - standing.now_ms) / 1000, 1) if standing.keeper else None
    return LaneStatus(
        address=desk.lane.sender,
        balance_ether=ether(seen.balance),
        next_nonce=standing.next,
        spent_nonces=seen.spent,
        pending_nonces=seen.pending,
        keeper=standing.keeper or None,
        keeper_lease_seconds=lease,
        hold=standing.hold or None,
        retired=standing.retired or None,
        outstanding=await _outstanding(desk, standing, records),
        outstanding_more=len(seen.out) - len(records),
        holes=await _without_record(desk, seen.out),
        unknown_pending=await _without_record(desk, range(seen.spent, seen.pending)),
    )


async def _outstanding(
    desk: Desk, standing: Standing, records: Sequence[Outstanding]
) -> list[NonceStatus]:
    """Holes are left out."""
    records = [record for record in records if record.attempts]
    hashes = [attempt.hash for record in records for attempt in record.attempts]
    known = await _known(desk, hashes)
    sagas = await desk.views.several(sorted({each.saga_id for each in records if each.saga_id}))
    return [
        NonceStatus(
            nonce=record.nonce,
            step=record.step,
            saga_id=record.saga_id,
            model_id=None if (saga := sagas.get(record.saga_id)) is None else saga.model_id,
            state=None if saga is None else saga.state,
            age_seconds=round((standing.now_ms - record.at_ms) / 1000, 1),
            attempts=[
                AttemptStatus(
                    hash=attempt.hash,
                    kind=attempt.kind,
                    max_fee_gwei=gwei(attempt.max_fee),
                    max_priority_fee_gwei=gwei(attempt.max_priority_fee),
                    known=known[attempt.hash],
                )
                for attempt in record.attempts
            ],
        )
        for record in records
    ]


async def _known(desk: Desk, hashes: Sequence[str]) -> dict[str, bool | None]:
    """Whether a node has each transaction; None when no node can tell."""
    if not hashes:
        return {}
    nodes = await desk.rpc.everywhere([("eth_getTransactionByHash", [each]) for each in hashes])
    found: dict[str, bool | None] = {}
    for tx, answers in zip(hashes, zip(*nodes, strict=True), strict=True):
        told = [answer for answer in answers if not isinstance(answer, RpcError)]
        found[tx] = any(answer is not None for answer in told) if told else None
    return found


async def _without_record(desk: Desk, nonces: range) -> list[int]:
    """Those of some nonces that no transaction is stored for, and that are still unspent."""
    found: list[int] = []
    for start in range(0, len(nonces), PAGE):
        page = nonces[start : start + PAGE]
        glances = await desk.lane.glances(page)
        found += [nonce for nonce, glance in zip(page, glances, strict=True) if glance is None]
    if not found:
        return found
    # Records go away when a saga moves on: what was mined meanwhile lacks nothing.
    spent = int(await desk.rpc.ask("eth_getTransactionCount", desk.lane.sender, "latest"), 16)
    return [nonce for nonce in found if nonce >= spent]
