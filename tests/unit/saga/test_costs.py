from decimal import Decimal
from fractions import Fraction

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saga.actions import Advance, Fail, Outcome
from saga.change import change_of
from saga.costs import (
    LEFT_KEPT,
    MICRO,
    Cost,
    Totals,
    charged,
    deployment_usd,
    deployment_wei,
    leaving,
    owned,
    raised,
    receipt_cost,
)
from saga.fees import GWEI
from saga.model import Deployment, ErrorClass, Receipt, Registration, Saga, State, Step
from tests.support.sagas import (
    DEPLOYMENT,
    LATER,
    RECEIPT,
    REGISTRATION,
    TOKEN,
    TOKEN_EXISTS,
    intent,
    make,
)

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


@pytest.mark.parametrize("adopted", [(True, False), (False, True), (True, True)])
def test_whoever_paid(adopted: tuple[bool, bool]) -> None:
    """In wei the chain says for ever what deployment and registration took, whoever paid; in
    dollars both are known or neither: what was adopted has no price."""
    prices = [None if each else "3000" for each in adopted]
    receipts = [
        msgspec.structs.replace(receipt, native_usd=usd)
        for receipt, usd in zip((RECEIPT, LATER), prices, strict=True)
    ]
    saga = saga_with(*receipts, adopted=adopted)
    assert (deployment_wei(saga), deployment_usd(saga)) == (2 * FEE, None)


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
    """A saga that has deployed nothing has no cost; one that is not registered, none in dollars."""
    assert deployment_wei(make(State.VALIDATED)) == 0
    assert deployment_usd(make(State.VALIDATED)) is None
    half = saga_with(priced(RECEIPT, "3000"), None)
    assert (deployment_wei(half), deployment_usd(half)) == (FEE, None)


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
    before = saga_with(RECEIPT, None, adopted=(True, False))
    after = saga_with(RECEIPT, register, adopted=(True, False))
    assert raised(before, after) == Totals(registrations=1)


PRICES = st.none() | st.from_regex(r"[0-9]{1,6}(\.[0-9]{1,9})?", fullmatch=True)


@given(prices=st.tuples(PRICES, PRICES))
def test_priced_as_the_event(prices: tuple[str | None, str | None]) -> None:
    """What the totals add in dollars is what the event says, nothing where that says nothing."""
    receipts = [
        msgspec.structs.replace(receipt, native_usd=usd)
        for receipt, usd in zip((RECEIPT, LATER), prices, strict=True)
    ]
    after = saga_with(*receipts)
    found, usd = raised(saga_with(receipts[0], None), after), deployment_usd(after)
    said = Decimal(0) if usd is None else Decimal(f"{usd:.6f}")
    assert found.priced == int(usd is not None)
    assert Decimal(found.usd_micro) == said * MICRO


def test_raised_by_adoption() -> None:
    """What is adopted is counted apart, and costs nothing."""
    nothing, token = saga_with(None, None), saga_with(RECEIPT, None, adopted=(True, True))
    assert raised(nothing, token) == Totals(adopted=1)
    assert raised(token, saga_with(RECEIPT, LATER, adopted=(True, True))) == Totals()


def test_raised_by_nothing() -> None:
    """A write that brings nothing new counts nothing, whatever the saga has done before."""
    saga = charged(saga_with(priced(RECEIPT, "1"), priced(LATER, "1")), Cost(5, 10**20))
    assert raised(saga, msgspec.structs.replace(saga, attempts=3)) == Totals()


def test_leaving() -> None:
    """A saga keeps the hashes of what it leaves, after those of before; leaving nothing changes
    nothing."""
    saga = make(State.VALIDATED, left=("0x01",))
    both = [intent(), intent(Step.REGISTER)]
    assert leaving(saga, both).left == ("0x01", *(each.attempts[0].hash for each in both))
    assert leaving(saga, []) is saga


def test_leaving_bounded() -> None:
    """Of all that a saga ever left it keeps the newest hashes, a few dozen."""
    saga = make(State.VALIDATED)
    for number in range(LEFT_KEPT + 3):
        attempt = msgspec.structs.replace(intent().attempts[0], hash=f"0x{number}")
        saga = leaving(saga, [msgspec.structs.replace(intent(), attempts=(attempt,))])
    assert saga.left == tuple(f"0x{number}" for number in range(3, LEFT_KEPT + 3))


def test_owned() -> None:
    """What one of the left transactions made is the saga's own; what any other made, be it their
    replacement, stays adopted."""
    saga = make(State.VALIDATED, left=("0x01", RECEIPT.tx_hash))
    assert owned(saga, TOKEN_EXISTS.deployment) == DEPLOYMENT
    entry = msgspec.structs.replace(REGISTRATION, adopted=True)
    assert owned(saga, entry) == entry
    assert owned(make(State.VALIDATED), TOKEN_EXISTS.deployment).adopted


COSTS = st.builds(Cost, st.integers(0, 10**7), st.integers(0, 10**20))
ADOPTED = st.booleans()


@st.composite
def outcomes(draw: st.DrawFn) -> list[Outcome | Cost]:
    """What a saga may pay for on its way: calls that came to nothing, a cancellation and a resume,
    in the end its results, or those that it finds."""
    nothing = st.lists(
        COSTS | st.builds(Fail, st.just(ErrorClass.CANCELLED), st.just("why"), cost=COSTS),
        max_size=4,
    )
    deploy, register = (
        msgspec.structs.replace(receipt, gas_price=draw(st.integers(0, 10**14)))
        for receipt in (RECEIPT, LATER)
    )
    deployment = Deployment(token=TOKEN, receipt=deploy, adopted=draw(ADOPTED))
    registration = Registration(receipt=register, adopted=draw(ADOPTED))
    return [
        *draw(nothing),
        Advance(deployment=deployment),
        *draw(nothing),
        Advance(registration=registration),
    ]


@given(path=outcomes())
def test_rounding_adds_up(path: list[Outcome | Cost]) -> None:
    """Over all the writes of a saga the totals rise by what it has paid, rounded half-even to a
    gwei once; gas is exact."""
    saga, gwei, gas = make(State.VALIDATED), 0, 0
    for each in path:
        after = charged(saga, each) if isinstance(each, Cost) else change_of(saga, each).saga
        found = raised(saga, after)
        gwei, gas = gwei + found.fees_gwei, gas + found.gas
        saga = after
    assert gwei == round(Fraction(saga.fees_wei, GWEI))
    assert gas == saga.gas_used


@pytest.mark.parametrize(("wei", "gwei"), [(5 * 10**8, 0), (15 * 10**8, 2), (25 * 10**8, 2)])
def test_half_even(wei: int, gwei: int) -> None:
    """Half a gwei goes to the even side."""
    saga = make(State.VALIDATED)
    assert raised(saga, charged(saga, Cost(0, wei))).fees_gwei == gwei
