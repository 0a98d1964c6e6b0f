"""Laws of fees: an offer is enough and below the ceiling, a bump is one to any pool."""

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saga.fees import (
    ETHER,
    GWEI,
    MAX_USD,
    Budget,
    Fees,
    Held,
    Limits,
    Market,
    bump,
    ceiling,
    cost_limit,
    cost_usd,
    gwei,
    max_fee_default,
    offer,
    sufficient,
    tip_floor,
)

GAS = 3_000_000
LIMITS = Limits(max_fee=100 * GWEI)
WEI = st.integers(0, 2000 * GWEI)


@st.composite
def fees(draw: st.DrawFn) -> Fees:
    """What some transaction may offer."""
    max_fee, other = draw(WEI), draw(WEI)
    legacy = draw(st.booleans())
    tip = max_fee if legacy else min(max_fee, other)
    return Fees(max_fee=max_fee, max_priority_fee=tip, legacy=legacy)


MARKETS = st.builds(Market, base_fee=st.none() | WEI, tip=WEI)
DOLLARS = st.decimals("1E-18", MAX_USD, places=18) | st.decimals("0.01", 10_000, places=2)
LIMITED = st.builds(
    Limits,
    max_fee=WEI,
    max_cost=st.just(0) | st.integers(1, 10**19),
    max_cost_usd=st.none() | DOLLARS,
    native_usd=st.none() | DOLLARS,
)
COST_GAS = st.integers(0, 16_777_216)


def in_dollars(most: str, price: str | None, max_cost: int = 0) -> Limits:
    """A limit in dollars, and the price of the token."""
    return Limits(
        max_fee=100 * GWEI,
        max_cost=max_cost,
        max_cost_usd=Decimal(most),
        native_usd=None if price is None else Decimal(price),
    )


def market(base_fee: float | None, tip: float) -> Market:
    """In gwei."""
    base = None if base_fee is None else int(base_fee * GWEI)
    return Market(base_fee=base, tip=int(tip * GWEI))


def priced(max_fee: float, tip: float | None = None) -> Fees:
    """In gwei; legacy without a tip."""
    price = int(max_fee * GWEI)
    if tip is None:
        return Fees(max_fee=price, max_priority_fee=price, legacy=True)
    return Fees(max_fee=price, max_priority_fee=int(tip * GWEI))


@pytest.mark.parametrize(
    ("limits", "cost_gas", "expected"),
    [
        (Limits(max_fee=100), 0, 100),
        (Limits(max_fee=100), 7, 100),
        (Limits(max_fee=100, max_cost=699), 7, 99),
        (Limits(max_fee=100, max_cost=700), 7, 100),
        (Limits(max_fee=100, max_cost=10**9), 7, 100),
        (Limits(max_fee=100, max_cost=6), 7, 0),
        (Limits(max_fee=100, max_cost=1), 0, 100),
        (in_dollars("50", None), 1, 100 * GWEI),
        (in_dollars("0", "3000"), 1, 100 * GWEI),
        (in_dollars("50", "3000"), GAS, 5_555_555_555),
        (in_dollars("50", "0.5"), GAS, 100 * GWEI),
        (in_dollars("0.000000000000003", "3000"), 1, 1),
        (in_dollars("0.0000000000000029", "3000"), 1, 0),
        (in_dollars("50", "3000", max_cost=GAS * GWEI), GAS, GWEI),
        (in_dollars("50", "3000", max_cost=GAS * 6 * GWEI), GAS, 5_555_555_555),
    ],
)
def test_ceiling(limits: Limits, cost_gas: int, expected: int) -> None:
    """The ceiling is the lowest of the limits, the cost's shared out over the model's gas."""
    assert ceiling(limits, cost_gas) == expected


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (market(10, 2), priced(22, 2)),
        (market(0, 2), priced(2, 2)),
        (market(49, 2), priced(100, 2)),
        (market(60, 2), priced(100, 2)),
        (market(98, 2), priced(100, 2)),
        (market(None, 30), priced(30)),
        (market(None, 100), priced(100)),
    ],
)
def test_offer(asked: Market, expected: Fees) -> None:
    """An offer is twice the base fee and the tip, or the ceiling while that is enough for now."""
    assert offer(asked, LIMITS, GAS) == expected


@pytest.mark.parametrize(
    ("asked", "limits", "held"),
    [
        (
            market(130, 2),
            LIMITS,
            Held("max_fee", "base fee 130 + tip 2 gwei is above MAX_FEE_GWEI 100"),
        ),
        (
            market(98.5, 1.500000001),
            LIMITS,
            Held("max_fee", "base fee 98.5 + tip 1.500000001 gwei is above MAX_FEE_GWEI 100"),
        ),
        (
            market(None, 101),
            LIMITS,
            Held("max_fee", "gas price 101 gwei is above MAX_FEE_GWEI 100"),
        ),
        (
            market(48, 3),
            Limits(max_fee=100 * GWEI, max_cost=150_000_000 * GWEI),
            Held(
                "max_cost",
                "base fee 48 + tip 3 gwei makes the model cost 153000000000000000 wei with 3000000 "
                "gas, above MAX_DEPLOYMENT_COST_WEI 150000000000000000",
            ),
        ),
        (
            market(48, 3),
            in_dollars("50", "3000.10"),
            Held(
                "max_cost",
                "base fee 48 + tip 3 gwei makes the model cost 459.02 USD with 3000000 gas and the "
                "native token at 3000.10 USD, above MAX_DEPLOYMENT_COST_USD 50",
            ),
        ),
        (
            market(None, 50),
            in_dollars("5E+1", "333.3333333333333334", max_cost=ETHER),
            Held(
                "max_cost",
                "gas price 50 gwei makes the model cost 50.01 USD with 3000000 gas and the native "
                "token at 333.3333333333333334 USD, above MAX_DEPLOYMENT_COST_USD 50",
            ),
        ),
        (
            market(48, 3),
            in_dollars("450.01", "3000", max_cost=150_000_000 * GWEI),
            Held(
                "max_cost",
                "base fee 48 + tip 3 gwei makes the model cost 153000000000000000 wei with 3000000 "
                "gas, above MAX_DEPLOYMENT_COST_WEI 150000000000000000",
            ),
        ),
    ],
)
def test_offer_held(asked: Market, limits: Limits, held: Held) -> None:
    """What the limits do not allow is held, with the numbers and the setting to change."""
    assert offer(asked, limits, GAS) == held


@pytest.mark.parametrize(
    ("last", "asked", "expected"),
    [
        pytest.param(priced(16, 2), market(1, 1), priced(18, 2.25), id="an eighth more"),
        pytest.param(priced(16, 2), market(30, 5), priced(65, 5), id="the market is higher"),
        pytest.param(priced(16, 2), market(1, 5), priced(18, 5), id="only its tip is"),
        pytest.param(priced(16, 2), market(70, 3), priced(100, 3), id="the offer was capped"),
        pytest.param(priced(16, 2), market(130, 2), priced(100, 2.25), id="above the ceiling"),
        pytest.param(priced(16, 2), market(30, 200), priced(100, 100), id="its tip is above it"),
        pytest.param(priced(80, 2), market(1, 1), priced(90, 2.25), id="just below"),
        pytest.param(priced(16), market(None, 1), priced(18), id="legacy"),
        pytest.param(priced(16), market(None, 60), priced(60), id="legacy, market"),
        pytest.param(priced(16), market(None, 200), priced(100), id="legacy, above the ceiling"),
        pytest.param(priced(16), market(10, 2), priced(22), id="legacy where a base fee came"),
    ],
)
def test_bump(last: Fees, asked: Market, expected: Fees) -> None:
    """A bump goes an eighth up, or to the market where that is higher, or as near as it may."""
    assert bump(last, asked, LIMITS, GAS) == expected


def test_bump_rounds_up() -> None:
    """Odd amounts round up, and a tip of nothing becomes one wei: pools want both fields higher."""
    last = Fees(max_fee=9, max_priority_fee=0)
    assert bump(last, Market(base_fee=0, tip=0), LIMITS, 0) == Fees(max_fee=11, max_priority_fee=1)


@pytest.mark.parametrize("asked", [market(1, 1), market(130, 2)])
def test_bump_held(asked: Market) -> None:
    """A step too small for a pool is never tried: at the ceiling the last bytes stay."""
    held = bump(priced(89, 2), asked, LIMITS, GAS)
    text = "a replacement of 89 gwei costs 100.125 gwei, which is above MAX_FEE_GWEI 100"
    assert held == Held("max_fee", text)


def test_bump_held_by_cost() -> None:
    """The cost limit holds a bump as the fee limit does, under its own name."""
    limits = Limits(max_fee=100 * GWEI, max_cost=50 * GWEI * GAS)
    held = bump(priced(48, 2), market(1, 1), limits, GAS)
    assert isinstance(held, Held)
    assert held.hold == "max_cost"
    assert str(54 * GWEI * GAS) in held.reason


@given(MARKETS, LIMITED, COST_GAS)
def test_offer_or_held(asked: Market, limits: Limits, cost_gas: int) -> None:
    """An offer is within the ceiling and enough for the next block; Held means that none is."""
    top = ceiling(limits, cost_gas)
    offered = offer(asked, limits, cost_gas)
    if (asked.base_fee or 0) + asked.tip > top:
        assert isinstance(offered, Held)
        return
    assert isinstance(offered, Fees)
    assert (asked.base_fee or 0) + asked.tip <= offered.max_fee <= top
    assert asked.tip == offered.max_priority_fee <= offered.max_fee
    assert offered.legacy is (asked.base_fee is None)
    assert sufficient(offered, asked)


@given(MARKETS, LIMITED, COST_GAS)
def test_held_names_what_holds(asked: Market, limits: Limits, cost_gas: int) -> None:
    """`max_fee` holds what is above it; `max_cost` what the fee limit alone would let through."""
    held = offer(asked, limits, cost_gas)
    if isinstance(held, Held):
        least = (asked.base_fee or 0) + asked.tip
        assert held.hold == ("max_fee" if least > limits.max_fee else "max_cost")
        if held.hold == "max_cost":
            cost, name = least * cost_gas, held.reason.split()[-2]
            assert (cost_limit(limits) == limits.max_cost > 0) is name.endswith("_WEI")
            if name == "MAX_DEPLOYMENT_COST_WEI":
                assert cost > limits.max_cost
            else:
                assert name == "MAX_DEPLOYMENT_COST_USD"
                assert limits.max_cost_usd is not None
                assert limits.native_usd is not None
                assert worth(cost, limits.native_usd) > limits.max_cost_usd


def worth(wei: int, native_usd: Decimal) -> Fraction:
    """In dollars, exactly."""
    return Fraction(wei, ETHER) * Fraction(native_usd)


@given(DOLLARS, DOLLARS, st.integers(1, 16_777_216))
def test_dollars_exact(most: Decimal, price: Decimal, cost_gas: int) -> None:
    """What the ceiling lets through never costs more than the limit, and one wei per gas more
    would: nothing is lost but to whole wei."""
    limits = Limits(max_fee=10**60, max_cost_usd=most, native_usd=price)
    top = ceiling(limits, cost_gas)
    assert worth(top * cost_gas, price) <= Fraction(most) < worth((top + 1) * cost_gas, price)


@given(st.integers(0, 10**30), DOLLARS)
def test_cost_usd(wei: int, price: Decimal) -> None:
    """A cost in dollars is off by half a micro-dollar at most, however large it is."""
    cost = cost_usd(wei, price)
    assert cost.as_tuple().exponent == -6
    assert abs(Fraction(cost) - worth(wei, price)) <= Fraction(1, 2 * 10**6)


@pytest.mark.parametrize(
    ("wei", "price", "cost"),
    [
        (0, "3000", "0.000000"),
        (ETHER, "3000.25", "3000.250000"),
        (5 * ETHER // 10, "0.000001", "0.000000"),
        (15 * ETHER // 10, "0.000001", "0.000002"),
        (25 * ETHER // 10, "0.000001", "0.000002"),
        (10**40, "1000000000", "1" + "0" * 31 + ".000000"),
    ],
)
def test_cost_usd_half_even(wei: int, price: str, cost: str) -> None:
    """A cost has six decimals; what lies between two goes to the even one."""
    assert str(cost_usd(wei, Decimal(price))) == cost


def test_budget_follows_the_price() -> None:
    """A budget's limits hold the price of the moment, and none while none is known."""
    prices: list[Decimal | None] = [None]
    limits = in_dollars("50", None)
    budget = Budget(limits, lambda: prices[-1])
    assert budget.limits == limits
    assert isinstance(offer(market(48, 3), budget.limits, GAS), Fees)
    prices.append(Decimal(3000))
    assert budget.limits == in_dollars("50", "3000")
    assert isinstance(offer(market(48, 3), budget.limits, GAS), Held)
    prices.append(Decimal(300))
    assert isinstance(offer(market(48, 3), budget.limits, GAS), Fees)


def test_budget_without_a_feed() -> None:
    """A budget without a price of its own is what the settings say."""
    assert Budget(in_dollars("50", "3000")).limits == in_dollars("50", "3000")


@given(fees(), MARKETS, LIMITED, COST_GAS)
def test_bump_or_held(last: Fees, asked: Market, limits: Limits, cost_gas: int) -> None:
    """A bump raises both fields by an eighth within the ceiling; Held means that it cannot."""
    top = ceiling(limits, cost_gas)
    bumped = bump(last, asked, limits, cost_gas)
    eighth = Fraction(9, 8)
    if isinstance(bumped, Held):
        assert last.max_fee * eighth > top or last.max_fee == top
        return
    assert last.max_fee * eighth <= bumped.max_fee <= top
    assert last.max_priority_fee * eighth <= bumped.max_priority_fee <= bumped.max_fee
    assert last.max_fee < bumped.max_fee
    assert last.max_priority_fee < bumped.max_priority_fee
    assert bumped.legacy is last.legacy
    assert not last.legacy or bumped.max_fee == bumped.max_priority_fee


@given(fees(), MARKETS, LIMITED, COST_GAS)
def test_bump_reaches_market(last: Fees, asked: Market, limits: Limits, cost_gas: int) -> None:
    """A bump is never below a new offer; where no offer is allowed it goes to the ceiling."""
    bumped, offered = bump(last, asked, limits, cost_gas), offer(asked, limits, cost_gas)
    if isinstance(bumped, Held):
        return
    if isinstance(offered, Held):
        assert bumped.max_fee == ceiling(limits, cost_gas)
        return
    assert bumped.max_fee >= offered.max_fee
    assert bumped.max_priority_fee >= offered.max_priority_fee


@given(fees(), LIMITED, COST_GAS, st.lists(MARKETS, max_size=200))
def test_bumps_end(last: Fees, limits: Limits, cost_gas: int, asked: list[Market]) -> None:
    """However the market moves, a chain of bumps only rises and never passes the ceiling."""
    top = ceiling(limits, cost_gas)
    for each in asked:
        bumped = bump(last, each, limits, cost_gas)
        if isinstance(bumped, Held):
            return
        assert last.max_fee < bumped.max_fee <= top
        last = bumped


@given(st.integers(8, 10**15), WEI)
def test_six_full_blocks(base_fee: int, tip: int) -> None:
    """What is offered today is enough for each of the next six blocks, be they all full."""
    limits = Limits(max_fee=10**18)
    offered = offer(Market(base_fee=base_fee, tip=tip), limits, 0)
    assert isinstance(offered, Fees)
    for _ in range(5):
        base_fee += base_fee // 8  # EIP-1559
    assert sufficient(offered, Market(base_fee=base_fee, tip=tip))


@pytest.mark.parametrize(
    ("offered", "asked", "enough"),
    [
        (priced(30, 2), market(30, 2), True),
        (priced(30, 2), market(30.5, 2), False),
        (priced(30), market(None, 50), True),
        (priced(30), market(31, 1), False),
    ],
)
def test_sufficient(offered: Fees, asked: Market, enough: bool) -> None:
    """The base fee is what the next block insists on; without one nothing is."""
    assert sufficient(offered, asked) is enough


@pytest.mark.parametrize(
    ("chain_id", "floor", "most"),
    [(1, 0.001, 100), (137, 25, 1000), (80002, 25, 1000), (31337, 0.001, 100)],
)
def test_network_defaults(chain_id: int, floor: float, most: int) -> None:
    """Polygon's networks have a floor and a ceiling of their own; an operator's floor wins."""
    assert tip_floor(chain_id, None) == int(floor * GWEI)
    assert tip_floor(chain_id, 0) == 0
    assert tip_floor(chain_id, 7) == 7
    assert max_fee_default(chain_id) == most * GWEI


@pytest.mark.parametrize(
    ("wei", "text"),
    [
        (0, "0"),
        (1, "0.000000001"),
        (1_500_000_000, "1.5"),
        (100 * GWEI, "100"),
        (10**18, str(GWEI)),
    ],
)
def test_gwei(wei: int, text: str) -> None:
    """Amounts are shown exactly: a float would round what a limit compares."""
    assert gwei(wei) == text
