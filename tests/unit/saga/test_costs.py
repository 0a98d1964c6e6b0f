from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saga.costs import (
    Cost,
    Totals,
    charged,
    deployment_usd,
    deployment_wei,
    raised,
    receipt_cost,
)
from saga.fees import GWEI
from saga.model import Deployment, Receipt, Registration, Saga, State
from tests.support.sagas import LATER, RECEIPT, TOKEN, make

# 1,000,000 gas at 2 gwei.
FEE = 2 * 10**15


def saga_with(
    deploy: Receipt | None, register: Receipt | None, *, adopted: tuple[bool, bool] = (False, False)
) -> Saga:
    return make(
        State.REGISTERED,
        deployment=deploy and Deployment(token=TOKEN, receipt=deploy, adopted=adopted[0]),
        registration=register and Registration(receipt=register, adopted=adopted[1]),
    )


def priced(receipt: Receipt, usd: str) -> Receipt:
    return msgspec.structs.replace(receipt, native_usd=usd)


def test_receipt_cost() -> None:
    """A transaction costs its gas at the effective price, and what an OP-stack chain took for its
    data."""
    assert receipt_cost(RECEIPT) == Cost(1_000_000, FEE)
    rollup = msgspec.structs.replace(RECEIPT, l1_fee=77)
    assert receipt_cost(rollup) == Cost(1_000_000, FEE + 77)


def test_charged() -> None:
    """What a saga pays adds up; nothing paid, nothing changed."""
    saga = charged(charged(make(State.VALIDATED), Cost(21_000, 5)), Cost(1, 10**30))
    assert (saga.gas_used, saga.fees_wei) == (21_001, 10**30 + 5)
    assert charged(saga, None) is saga


@pytest.mark.parametrize(
    ("adopted", "wei"),
    [
        ((False, False), 2 * FEE),
        ((True, False), FEE),
        ((False, True), FEE),
        ((True, True), None),
    ],
)
def test_own_alone(adopted: tuple[bool, bool], wei: int | None) -> None:
    """What a saga adopted has not cost it anything in dollars of its day; in wei the chain says for
    ever what it took, whoever paid."""
    saga = saga_with(priced(RECEIPT, "3000"), priced(LATER, "3000"), adopted=adopted)
    assert deployment_wei(saga) == 2 * FEE
    usd = deployment_usd(saga)
    assert usd == (None if wei is None else Decimal(3000 * wei) / 10**18)


@pytest.mark.parametrize(
    ("deploy", "register"),
    [(RECEIPT, priced(LATER, "3000")), (priced(RECEIPT, "3000"), LATER), (RECEIPT, LATER)],
)
def test_one_price_missing(deploy: Receipt, register: Receipt) -> None:
    """A cost of which a part has no price is known in wei alone."""
    saga = saga_with(deploy, register)
    assert (deployment_wei(saga), deployment_usd(saga)) == (2 * FEE, None)
    assert raised(saga_with(deploy, None), saga).priced == 0


def test_two_prices() -> None:
    """Each transaction counts at the price of its own day."""
    saga = saga_with(priced(RECEIPT, "3000"), priced(LATER, "1000.5"))
    assert str(deployment_usd(saga)) == "8.001000"


def test_nothing_done() -> None:
    """A saga that has deployed nothing has no cost."""
    assert deployment_wei(make(State.VALIDATED)) == 0
    assert deployment_usd(make(State.VALIDATED)) is None


def test_raised_by_deployment() -> None:
    """A deployment counts when it is made; its cost in dollars only with its registration."""
    before = saga_with(None, None)
    after = charged(saga_with(priced(RECEIPT, "3000"), None), receipt_cost(RECEIPT))
    assert raised(before, after) == Totals(deployments=1, gas=1_000_000, fees_gwei=FEE // GWEI)


def test_raised_by_registration() -> None:
    """A registration completes the cost of a deployment of its own."""
    before = saga_with(priced(RECEIPT, "3000"), None)
    after = saga_with(priced(RECEIPT, "3000"), priced(LATER, "3000"))
    assert raised(before, after) == Totals(registrations=1, usd_micro=12_000_000, priced=1)


@pytest.mark.parametrize("register", [priced(LATER, "3000"), LATER])
def test_raised_by_registration_of_the_adopted(register: Receipt) -> None:
    """No token that was adopted counts as a priced deployment, whatever its registration cost."""
    before = saga_with(priced(RECEIPT, "3000"), None, adopted=(True, False))
    after = saga_with(priced(RECEIPT, "3000"), register, adopted=(True, False))
    assert raised(before, after) == Totals(registrations=1)


def test_raised_by_adoption() -> None:
    """What is adopted is counted apart, and costs nothing."""
    nothing, token = saga_with(None, None), saga_with(RECEIPT, None, adopted=(True, True))
    assert raised(nothing, token) == Totals(adopted=1)
    assert raised(token, saga_with(RECEIPT, LATER, adopted=(True, True))) == Totals()


def test_raised_by_nothing() -> None:
    """A write that brings nothing new counts nothing, whatever the saga has done before."""
    saga = charged(saga_with(priced(RECEIPT, "1"), priced(LATER, "1")), Cost(5, 10**20))
    assert raised(saga, msgspec.structs.replace(saga, attempts=3)) == Totals()


@given(fees=st.lists(st.integers(0, 10**12), max_size=8))
def test_rounding_adds_up(fees: list[int]) -> None:
    """Whatever the fees of a saga, in whatever parts, it adds its sum rounded to a gwei."""
    saga, total = make(State.VALIDATED), 0
    for wei in fees:
        after = charged(saga, Cost(1, wei))
        total += raised(saga, after).fees_gwei
        saga = after
    assert abs(total * GWEI - saga.fees_wei) <= GWEI // 2
    assert raised(make(State.VALIDATED), saga).fees_gwei == total


@pytest.mark.parametrize(("wei", "gwei"), [(5 * 10**8, 0), (15 * 10**8, 2), (25 * 10**8, 2)])
def test_half_even(wei: int, gwei: int) -> None:
    """Half a gwei goes to the even side."""
    saga = make(State.VALIDATED)
    assert raised(saga, charged(saga, Cost(0, wei))).fees_gwei == gwei
