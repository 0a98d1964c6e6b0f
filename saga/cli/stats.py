"""`saga stats`: how many sagas there are, and what all of them together did and paid."""

import asyncio
from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction
from types import MappingProxyType

import msgspec
from rich.table import Table

from adapters.redis_intake import RedisIntake
from saga.backpressure import Reason, stops
from saga.cli.render import console, print_json, safe, styled
from saga.config import StoreSettings, load
from saga.costs import MICRO, Totals
from saga.fees import GWEI
from saga.model import State
from saga.store import open_store, redis_keys


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """Counts are since Redis was empty, sagas as long as they are kept. Amounts are exact; an
    average is rounded half-even, and None of nothing. Gas and fees are those of the sagas' own
    steps, whatever came of them; self-sends that only fill a nonce for a lane are not in them."""

    sagas: Mapping[State, int]
    lists: Mapping[str, int]
    intake: Mapping[Reason, str]
    """Why no new messages are taken now; empty when they are. A list of events between 90 % and
    100 % of OUTBOUND_MAX_DEPTH, that was longer, still stops the replicas and is not told here."""
    deployments: int
    adopted: int
    registrations: int
    gas_used: int
    gas_used_average: int | None
    """Per deployment of our own, as all averages."""
    fees_ether: str
    """In the chain's native token; each saga rounded to a gwei."""
    fees_ether_average: str | None
    priced: int
    """How many of the deployments have their cost in USD; the next two are of these."""
    usd: str
    usd_average: str | None


def show_stats(*, as_json: bool) -> None:
    stats = asyncio.run(_collect(load(StoreSettings)))
    if as_json:
        print_json(stats)
    else:
        _print(stats)


async def _collect(settings: StoreSettings) -> Stats:
    async with open_store(settings) as (views, _):
        look = await RedisIntake(views.client, redis_keys(settings)).look()
        return stats_of(
            await views.counts(),
            await views.depths(),
            await views.totals(),
            stops(look, most=settings.OUTBOUND_MAX_DEPTH, lagging=False),
        )


def stats_of(
    sagas: Mapping[State, int],
    lists: Mapping[str, int],
    totals: Totals,
    intake: Mapping[Reason, str] = MappingProxyType({}),
) -> Stats:
    count = totals.deployments
    fees, usd = _average(totals.fees_gwei, count), _average(totals.usd_micro, totals.priced)
    return Stats(
        sagas=sagas,
        lists=lists,
        intake=dict(intake),
        deployments=count,
        adopted=totals.adopted,
        registrations=totals.registrations,
        gas_used=totals.gas,
        gas_used_average=_average(totals.gas, count),
        fees_ether=_exact(totals.fees_gwei, GWEI),
        fees_ether_average=None if fees is None else _exact(fees, GWEI),
        priced=totals.priced,
        usd=_exact(totals.usd_micro, MICRO),
        usd_average=None if usd is None else _exact(usd, MICRO),
    )


def _average(total: int, count: int) -> int | None:
    return round(Fraction(total, count)) if count else None


def _exact(amount: int, unit: int) -> str:
    """All the digits that the unit has: 1500000 micro-dollars → "1.500000"."""
    digits = len(str(unit)) - 1
    return f"{amount // unit}.{amount % unit:0{digits}}"


def _print(stats: Stats) -> None:
    out = console()
    states = Table("state", "sagas", title=None)
    for state, count in stats.sagas.items():
        states.add_row(styled(state), str(count))
    lists = Table("list", "entries")
    for name, depth in stats.lists.items():
        lists.add_row(name.replace("_", " "), str(depth))
    out.print(states)
    out.print(lists)
    for why in [safe(f"stopped ({name}): {why}") for name, why in stats.intake.items()] or ["open"]:
        out.print(f"intake   {why}", soft_wrap=True)
    out.print(
        f"tokens   {stats.deployments} deployed, {stats.adopted} adopted; "
        f"{stats.registrations} registered"
    )
    gas = "" if stats.gas_used_average is None else f", {stats.gas_used_average} a deployment"
    out.print(f"gas      {stats.gas_used}{gas}")
    fees = _each(stats.fees_ether_average, 6)
    out.print(f"fees     {Decimal(stats.fees_ether):.6f} ether{fees}")
    if stats.priced:
        of = f"; a price was known for {stats.priced} of {stats.deployments} deployments"
        out.print(f"USD      {Decimal(stats.usd):.2f}{_each(stats.usd_average, 2)}{of}")
    else:
        out.print("USD      no price was known for any deployment")


def _each(average: str | None, digits: int) -> str:
    return "" if average is None else f", {Decimal(average):.{digits}f} a deployment"
