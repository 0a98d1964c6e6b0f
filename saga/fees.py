"""What to pay: offers, bumps and the caps that hold them. Pure arithmetic, wei per gas."""

import math
from collections.abc import Callable, Mapping
from decimal import Decimal
from fractions import Fraction

import msgspec

GWEI = 10**9
ETHER = 10**18
"""wei in one native token, whatever the chain calls it."""

MAX_USD = 10**9
USD_DECIMALS = 18
MIN_USD = Decimal(f"1E-{USD_DECIMALS}")
"""Bounds of an amount or a price in US dollars: far beyond any that is real, on both sides, and
near enough for exact arithmetic."""

NETWORK_TIP_FLOOR: Mapping[int, int] = {137: 25 * GWEI, 80002: 25 * GWEI}
"""Chain id → wei. Polygon and its Amoy test network: bor takes nothing below a tip of 25 gwei
("transaction gas price below minimum"; hummingbot/gateway #521)."""
TIP_FLOOR = 1_000_000
"""geth's default `miner.gasprice`, 0.001 gwei: its miners leave out what tips less."""

NETWORK_MAX_FEE: Mapping[int, int] = {137: 1_000 * GWEI, 80002: 1_000 * GWEI}
"""Chain id → wei. Polygon is paid in a token worth far less than ether, in more gwei."""
MAX_FEE = 100 * GWEI
"""Where op-service's transaction manager begins to limit its own fees (`fee-limit-threshold`)."""

BASE_FEE_FACTOR = 2
"""What is offered stays above the base fee for six blocks, be they all full: a full block raises it
by 12.5 % (EIP-1559), and 1.125 ^ 5 < 2. geth's own `bind` doubles it as well."""
BUMP_DIVISOR = 8
"""A replacement raises both fields by an eighth, 12.5 %, rounded up. geth (`txpool.pricebump`),
erigon, bor and Hardhat refuse one that raises either by less than 10 %; the margin keeps their
rounding out of it."""


class Market(msgspec.Struct, frozen=True, kw_only=True):
    """What the chain asks for at this moment."""

    base_fee: int | None
    """Of the next block; None on a chain without base fee."""
    tip: int
    """What miners took of late, the network's floor applied; the gas price without base fee."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What the operator allows."""

    max_fee: int
    """Most per gas, base fee included."""
    max_cost: int = 0
    """Most for one model's transactions together, wei; 0: no limit."""
    max_cost_usd: Decimal | None = None
    """The same in US dollars; None: no limit. Not active while there is no price."""
    native_usd: Decimal | None = None
    """Price of the native token, US dollars; None: not known."""


class Budget:
    """The operator's limits with the token's price of the moment, for whoever lives long."""

    def __init__(self, limits: Limits, price: Callable[[], Decimal | None] | None = None) -> None:
        """`price` in US dollars, None while it is not known; without it the limits never change."""
        self._limits = limits
        self._price = price

    @property
    def limits(self) -> Limits:
        """As of now: to be read for each decision, and not kept."""
        if self._price is None:
            return self._limits
        return msgspec.structs.replace(self._limits, native_usd=self._price())


class Fees(msgspec.Struct, frozen=True, kw_only=True):
    """What one transaction offers. Where `legacy`, both fields are the gas price."""

    max_fee: int
    max_priority_fee: int
    legacy: bool = False


class Held(msgspec.Struct, frozen=True):
    """The limits do not allow what the market asks for."""

    hold: str
    """`max_fee` or `max_cost`."""
    reason: str
    """With the numbers and the setting's name."""


def tip_floor(chain_id: int, override: int | None) -> int:
    """Least tip, wei per gas: the operator's, else the network's, else geth's."""
    return NETWORK_TIP_FLOOR.get(chain_id, TIP_FLOOR) if override is None else override


def max_fee_default(chain_id: int) -> int:
    """Most per gas, wei, where the operator says nothing."""
    return NETWORK_MAX_FEE.get(chain_id, MAX_FEE)


def ceiling(limits: Limits, cost_gas: int) -> int:
    """Most per gas for a transaction of a model whose transactions together burn `cost_gas`."""
    most = cost_limit(limits)
    if most is not None and cost_gas:
        return min(limits.max_fee, most // cost_gas)
    return limits.max_fee


def cost_limit(limits: Limits) -> int | None:
    """Most for one model, wei: the lower of the limits in wei and in dollars. None: no limit."""
    in_dollars = _usd_limit(limits)
    if in_dollars is None:
        return limits.max_cost or None
    return min(limits.max_cost, in_dollars) if limits.max_cost else in_dollars


def cost_usd(wei: int, native_usd: Decimal) -> Decimal:
    """What an amount is worth, US dollars with six decimals, half to even.

    A micro-dollar is 0.00000033 ether at 3000 dollars: enough to add up deployments exactly.
    """
    return Decimal(f"{round(_dollars(wei, native_usd) * 10**6)}E-6")


def offer(market: Market, limits: Limits, cost_gas: int) -> Fees | Held:
    """What a new transaction offers, or why it has to wait."""
    top = ceiling(limits, cost_gas)
    least = (market.base_fee or 0) + market.tip
    if least > top:
        return _held(_asked(market), least, limits, cost_gas)
    if market.base_fee is None:
        return Fees(max_fee=market.tip, max_priority_fee=market.tip, legacy=True)
    return Fees(
        max_fee=min(BASE_FEE_FACTOR * market.base_fee + market.tip, top),
        max_priority_fee=market.tip,
    )


def bump(last: Fees, market: Market, limits: Limits, cost_gas: int) -> Fees | Held:
    """What a replacement of `last` offers, or why there is none.

    A pool takes a replacement only when both fields rise enough. Each goes to the market's level
    where that is higher still; where the market is above the ceiling, the fee goes to the ceiling.
    A legacy transaction stays one.
    """
    top = ceiling(limits, cost_gas)
    fee, tip = _raised(last.max_fee), _raised(last.max_priority_fee)
    if fee > top:
        what = f"a replacement of {gwei(last.max_fee)} gwei costs {gwei(fee)} gwei, which"
        return _held(what, fee, limits, cost_gas)
    wanted = offer(market, limits, cost_gas)
    if isinstance(wanted, Held):
        wanted = Fees(max_fee=top, max_priority_fee=min(market.tip, top))
    fee, tip = max(fee, wanted.max_fee), max(tip, wanted.max_priority_fee)
    return Fees(max_fee=fee, max_priority_fee=fee if last.legacy else tip, legacy=last.legacy)


def sufficient(fees: Fees, market: Market) -> bool:
    """Whether the next block can take it at all. Without base fee there is no such bound."""
    return market.base_fee is None or fees.max_fee >= market.base_fee


def gwei(wei: int) -> str:
    """Exact, without trailing zeros: 1500000000 → "1.5"."""
    whole, rest = divmod(wei, GWEI)
    return f"{whole}.{rest:09}".rstrip("0").rstrip(".")


def ether(wei: int) -> str:
    """Exact, without trailing zeros: 1500000000000000000 → "1.5"."""
    whole, rest = divmod(wei, ETHER)
    return f"{whole}.{rest:018}".rstrip("0").rstrip(".")


def _raised(amount: int) -> int:
    """At least one wei more, since geth wants both fields strictly higher."""
    return amount + max(-(-amount // BUMP_DIVISOR), 1)


def _asked(market: Market) -> str:
    if market.base_fee is None:
        return f"gas price {gwei(market.tip)} gwei"
    return f"base fee {gwei(market.base_fee)} + tip {gwei(market.tip)} gwei"


def _held(what: str, per_gas: int, limits: Limits, cost_gas: int) -> Held:
    if per_gas > limits.max_fee:
        return Held("max_fee", f"{what} is above MAX_FEE_GWEI {gwei(limits.max_fee)}")
    cost, most, usd = per_gas * cost_gas, limits.max_cost_usd, limits.native_usd
    if most is None or usd is None or 0 < limits.max_cost == cost_limit(limits):
        return Held(
            "max_cost",
            f"{what} makes the model cost {cost} wei with {cost_gas} gas, above "
            f"MAX_DEPLOYMENT_COST_WEI {limits.max_cost}",
        )
    return Held(
        "max_cost",
        f"{what} makes the model cost {_cents_up(cost, usd)} USD with {cost_gas} gas and the "
        f"native token at {usd:f} USD, above MAX_DEPLOYMENT_COST_USD {most:f}",
    )


def _usd_limit(limits: Limits) -> int | None:
    """In wei, rounded down. None: no limit, or no price to know it by."""
    if not limits.max_cost_usd or limits.native_usd is None:
        return None
    return Fraction(limits.max_cost_usd) * ETHER // Fraction(limits.native_usd)


def _dollars(wei: int, native_usd: Decimal) -> Fraction:
    return Fraction(native_usd) * wei / ETHER


def _cents_up(wei: int, native_usd: Decimal) -> str:
    """Two decimals, rounded up: what is above a limit is never shown as below it."""
    return f"{Decimal(f'{math.ceil(_dollars(wei, native_usd) * 100)}E-2'):f}"
