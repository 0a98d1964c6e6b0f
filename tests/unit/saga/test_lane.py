"""Laws of a lane's keeper: what it does about one nonce that is out."""

from fractions import Fraction

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saga.fees import GWEI, Fees, Held, Limits, Market, ceiling, offer, sufficient
from saga.lane import (
    BLIND_BUMPS,
    HOLE_OBSERVATIONS,
    Duty,
    Fill,
    Outstanding,
    Pace,
    Rebroadcast,
    Replace,
    Sight,
    Wait,
    fees_of,
    next_kind,
    tend,
)
from saga.model import Attempt, AttemptKind, State
from tests.support.sagas import OWN

laws = settings(deadline=None, max_examples=400, derandomize=True)
GAS = 2_000_000
LIMITS = Limits(max_fee=100 * GWEI)
PACE = Pace(bump_after_seconds=45.0, bump_after_blocks=3)
TERMINAL = [state for state in State if state.terminal]
ACTIVE = [state for state in State if not state.terminal]
WEI = st.integers(0, 2000 * GWEI)


def priced(max_fee: float, tip: float, *, legacy: bool = False) -> Fees:
    """In gwei."""
    return Fees(max_fee=int(max_fee * GWEI), max_priority_fee=int(tip * GWEI), legacy=legacy)


def market(base_fee: float | None, tip: float) -> Market:
    """In gwei."""
    base = None if base_fee is None else int(base_fee * GWEI)
    return Market(base_fee=base, tip=int(tip * GWEI))


def attempt(price: Fees, kind: AttemptKind = AttemptKind.CALL) -> Attempt:
    return Attempt(
        hash="0x" + "4d" * 32,
        raw="0x02",
        max_fee=price.max_fee,
        max_priority_fee=price.max_priority_fee,
        gas=1,
        kind=kind,
    )


def out(*prices: Fees) -> Outstanding:
    """A saga's nonce with a transaction at each of these prices."""
    attempts = tuple(attempt(price) for price in prices)
    return Outstanding(nonce=5, saga_id=OWN, step="deploy", cost_gas=GAS, attempts=attempts)


def sight(
    *,
    state: State | None = State.VALIDATED,
    known: bool = True,
    lacking: bool | None = None,
    refused: bool = False,
    underpriced: bool = False,
    lowest: bool = True,
    age_seconds: float = PACE.bump_after_seconds,
    blocks: int = PACE.bump_after_blocks,
    observations: int = 0,
) -> Sight:
    """Of a nonce that every node knows (or, not `known`, none), and that blocks go by without."""
    return Sight(
        state=state,
        known=known,
        lacking=not known if lacking is None else lacking,
        refused=refused,
        underpriced=underpriced,
        lowest=lowest,
        age_seconds=age_seconds,
        blocks=blocks,
        observations=observations,
    )


HOLE = Outstanding(nonce=5)
CALM, HIGH = market(10, 2), market(130, 2)
LAST = priced(16, 2)
HIGH_HELD = Held("max_fee", "base fee 130 + tip 2 gwei is above MAX_FEE_GWEI 100")


def done(found: Outstanding, seen: Sight, asked: Market = CALM, limits: Limits = LIMITS) -> Duty:
    return tend(found, seen, asked, limits, PACE)


@pytest.mark.parametrize("observations", range(HOLE_OBSERVATIONS))
def test_hole_looked_at_again(observations: int) -> None:
    """A hole is left alone until it was seen three times: one node may lag."""
    assert done(HOLE, sight(state=None, known=False, observations=observations)) == Wait()


def test_hole_filled() -> None:
    """A hole that was seen often enough is filled at the market's price."""
    seen = sight(state=None, known=False, observations=HOLE_OBSERVATIONS)
    assert done(HOLE, seen) == Fill(priced(22, 2))
    assert done(HOLE, seen, market(None, 30)) == Fill(priced(30, 30, legacy=True))


def test_hole_known() -> None:
    """A hole in which a node has something is no hole, however often it was looked at."""
    assert done(HOLE, sight(state=None, known=True, observations=99)) == Wait()


def test_hole_held() -> None:
    """A hole is not filled while the market is above the limits."""
    seen = sight(state=None, known=False, observations=HOLE_OBSERVATIONS)
    assert done(HOLE, seen, HIGH) == HIGH_HELD


def test_fill_costs_no_model() -> None:
    """The limit of a model's cost is none of a fill's: nothing is deployed by it."""
    limits = Limits(max_fee=100 * GWEI, max_cost=1)
    seen = sight(state=None, known=False, observations=HOLE_OBSERVATIONS)
    assert done(HOLE, seen, CALM, limits) == Fill(priced(22, 2))
    refused = msgspec.structs.replace(seen, refused=True)
    assert done(out(LAST), refused, CALM, limits) == Fill(priced(22, 2.25))


def test_on_its_way() -> None:
    """What every node knows, and is young, is left alone."""
    assert done(out(LAST), sight(age_seconds=1.0, blocks=0)) == Wait()


def test_forgotten() -> None:
    """What some node does not know is sent again."""
    assert done(out(LAST), sight(known=False, age_seconds=1.0, blocks=0)) == Rebroadcast()


@pytest.mark.parametrize(("age_seconds", "blocks"), [(44.9, 99), (9999.0, 2), (0.0, 0)])
@pytest.mark.parametrize("last", [LAST, priced(1, 0)])
def test_too_early(last: Fees, age_seconds: float, blocks: int) -> None:
    """Nothing is replaced before both the time and the blocks have gone by."""
    seen = sight(age_seconds=age_seconds, blocks=blocks)
    assert done(out(last), seen) == Wait()


def test_stuck() -> None:
    """The lowest nonce is raised by an eighth, or to the market where that is higher."""
    assert done(out(LAST), sight(), market(1, 1)) == Replace(priced(18, 2.25))
    assert done(out(LAST), sight(), market(30, 5)) == Replace(priced(65, 5))


def test_behind_another() -> None:
    """What waits behind a lower nonce keeps a price that is sufficient, and is raised else."""
    assert done(out(LAST), sight(lowest=False), market(15, 2)) == Wait()
    assert done(out(LAST), sight(lowest=False), market(17, 2)) == Replace(priced(36, 2.25))


def test_behind_another_forgotten() -> None:
    """What waits behind a lower nonce is sent again where nodes have dropped it."""
    assert done(out(LAST), sight(lowest=False, known=False)) == Rebroadcast()


def test_blind_bumps() -> None:
    """A price that the market does not ask for is raised six times, then it is left."""
    raised = [LAST] * (BLIND_BUMPS + 1)
    assert isinstance(done(out(*raised[1:]), sight()), Replace)
    assert done(out(*raised), sight()) == Wait()
    assert done(out(*raised), sight(lacking=True)) == Rebroadcast()


def test_not_where_nobody_knows_it() -> None:
    """What no node has is sent again before its price is doubted; one node's ignorance is no
    reason not to raise what another has."""
    assert done(out(LAST), sight(known=False)) == Rebroadcast()
    assert done(out(LAST), sight(lacking=True)) == Replace(priced(22, 2.25))


@pytest.mark.parametrize("lowest", [True, False])
def test_refused_for_its_price(lowest: bool) -> None:
    """What nodes refuse for its price is raised, though the market asks for no more."""
    seen = sight(known=False, underpriced=True, lowest=lowest)
    assert done(out(LAST), seen) == Replace(priced(22, 2.25))
    assert done(out(LAST), msgspec.structs.replace(seen, blocks=0)) == Replace(priced(22, 2.25))
    early = msgspec.structs.replace(seen, age_seconds=1.0)
    assert done(out(LAST), early) == Rebroadcast()


@pytest.mark.parametrize("asked", [market(95, 1), market(50, 3)])
def test_near_the_ceiling(asked: Market) -> None:
    """What cannot be mined, and cannot be raised, is held, though a new offer would be allowed."""
    duty = done(out(priced(90, 1)), sight(), asked)
    assert isinstance(duty, Held)
    assert duty.hold == "max_fee"


def test_refused_for_its_price_near_the_ceiling() -> None:
    """What nodes refuse for its price, and cannot be raised, is held."""
    duty = done(out(priced(95, 2)), sight(known=False, underpriced=True))
    assert isinstance(duty, Held)
    assert duty.hold == "max_fee"


@pytest.mark.parametrize("kind", [AttemptKind.FILL, AttemptKind.CANCEL])
def test_self_sends_cost_no_model(kind: AttemptKind) -> None:
    """A self-send is raised whatever a model may cost."""
    limits = Limits(max_fee=100 * GWEI, max_cost=1)
    found = msgspec.structs.replace(out(), attempts=(attempt(LAST, kind),))
    assert done(found, sight(), CALM, limits) == Replace(priced(22, 2.25))


def test_without_a_market() -> None:
    """When nobody knows what the chain asks for, bytes are sent again, and nothing is signed."""
    for found, seen, duty in (
        (out(LAST), sight(known=False), Rebroadcast()),
        (out(LAST), sight(), Wait()),
        (HOLE, sight(state=None, known=False, observations=99), Wait()),
    ):
        assert tend(found, seen, None, LIMITS, PACE) == duty


def test_asked_for_more() -> None:
    """A tip above the last one is a reason to go on raising."""
    raised = [LAST] * (BLIND_BUMPS + 1)
    assert done(out(*raised), sight(), market(10, 3)) == Replace(priced(23, 3))


@pytest.mark.parametrize("known", [True, False])
def test_held(known: bool) -> None:
    """At the ceiling, and the market above it: the keeper holds, and says why with the numbers."""
    duty = done(out(priced(100, 2)), sight(known=known), HIGH)
    assert isinstance(duty, Held)
    assert duty.hold == "max_fee"
    assert "112.5 gwei" in duty.reason


def test_up_to_the_ceiling() -> None:
    """Below the ceiling a price still goes up to it, though the market is above."""
    assert done(out(priced(80, 2)), sight(), HIGH) == Replace(priced(100, 2.25))


def test_cannot_be_raised() -> None:
    """A price that cannot be raised, and need not be, is no hold: it is sent, or left."""
    assert done(out(priced(95, 2)), sight()) == Wait()
    assert done(out(priced(95, 2)), sight(known=False)) == Rebroadcast()


@pytest.mark.parametrize("state", ACTIVE)
def test_refused_at_work(state: State) -> None:
    """Refused bytes of a saga that is at work are sent again: it finds that out by itself."""
    seen = sight(state=state, known=False, refused=True, observations=99)
    assert done(out(LAST), seen) == Rebroadcast()


@pytest.mark.parametrize("state", [*TERMINAL, None])
def test_refused_deserted(state: State | None) -> None:
    """Refused bytes that nobody is at work on are filled over, once seen three times."""
    for observations in range(HOLE_OBSERVATIONS):
        seen = sight(state=state, known=False, refused=True, observations=observations)
        assert done(out(LAST), seen) == Rebroadcast()
    seen = sight(state=state, known=False, refused=True, observations=HOLE_OBSERVATIONS)
    assert done(out(LAST), seen) == Fill(priced(22, 2.25))


def test_refused_at_the_ceiling() -> None:
    """A fill that cannot be a raise is an offer: nobody holds bytes that all have refused."""
    seen = sight(state=None, known=False, refused=True, observations=HOLE_OBSERVATIONS)
    assert done(out(priced(95, 2)), seen) == Fill(priced(22, 2))


def test_refused_held() -> None:
    """A fill over refused bytes waits while the market is above the limits."""
    seen = sight(state=None, known=False, refused=True, observations=HOLE_OBSERVATIONS)
    assert done(out(priced(95, 2)), seen, HIGH) == HIGH_HELD


def test_kinds() -> None:
    """A bump does what the attempt before it did; the first attempt in a hole fills it."""
    assert next_kind(HOLE) is AttemptKind.FILL
    for kind in AttemptKind:
        last = attempt(LAST, kind)
        found = Outstanding(nonce=5, attempts=(attempt(LAST), last))
        assert next_kind(found) is kind


# --- In any world.

PRICES = st.builds(lambda fee, other: Fees(max_fee=fee, max_priority_fee=min(fee, other)), WEI, WEI)
MARKETS = st.builds(Market, base_fee=st.none() | WEI, tip=WEI)
AMPLE = st.just(10_000 * GWEI)
LIMITED = st.builds(
    Limits, max_fee=WEI | AMPLE | AMPLE, max_cost=st.just(0) | st.integers(1, 10**19)
)
PACES = st.builds(Pace, bump_after_seconds=st.floats(0, 50), bump_after_blocks=st.integers(0, 5))
PAID = st.lists(PRICES, min_size=1, max_size=BLIND_BUMPS + 3)
OUTS = st.builds(
    lambda prices, gas: msgspec.structs.replace(out(*prices), cost_gas=gas),
    st.just([]) | PAID | PAID,
    st.sampled_from([0, GAS, 16_777_216]),
)
SIGHTS = st.builds(
    sight,
    state=st.none() | st.sampled_from(State),
    known=st.booleans(),
    lacking=st.none() | st.just(True),
    refused=st.sampled_from([False, False, True]),
    underpriced=st.sampled_from([False, False, True]),
    lowest=st.booleans(),
    age_seconds=st.sampled_from([0.0, 20.0, 200.0]),
    blocks=st.sampled_from([0, 3, 20]),
    observations=st.sampled_from([0, 2, 3, 4]),
)
any_world = given(OUTS, SIGHTS, MARKETS, LIMITED, PACES)


@laws
@any_world
def test_never_above_the_ceiling(
    found: Outstanding, seen: Sight, asked: Market, limits: Limits, pace: Pace
) -> None:
    """Nothing is signed above the ceiling, and no tip is above its fee."""
    duty = tend(found, seen, asked, limits, pace)
    if isinstance(duty, Replace | Fill):
        cost_gas = found.cost_gas if isinstance(duty, Replace) else 0
        assert duty.fees.max_priority_fee <= duty.fees.max_fee <= ceiling(limits, cost_gas)


@laws
@any_world
def test_replacement_is_one(
    found: Outstanding, seen: Sight, asked: Market, limits: Limits, pace: Pace
) -> None:
    """A replacement raises both fields by an eighth at least, and by one wei in any case."""
    duty = tend(found, seen, asked, limits, pace)
    if isinstance(duty, Replace):
        last = found.attempts[-1]
        for before, after in (
            (last.max_fee, duty.fees.max_fee),
            (last.max_priority_fee, duty.fees.max_priority_fee),
        ):
            assert after >= Fraction(9, 8) * before
            assert after > before


@laws
@any_world
def test_replaced_in_time_alone(
    found: Outstanding, seen: Sight, asked: Market, limits: Limits, pace: Pace
) -> None:
    """Nothing is replaced before its time, nor before its blocks unless nodes refuse it for its
    price, nor what no node will ever take."""
    if isinstance(tend(found, seen, asked, limits, pace), Replace):
        assert seen.age_seconds >= pace.bump_after_seconds
        assert seen.underpriced or seen.blocks >= pace.bump_after_blocks
        assert not seen.refused


@laws
@any_world
def test_filled_for_good_reason(
    found: Outstanding, seen: Sight, asked: Market, limits: Limits, pace: Pace
) -> None:
    """Filled is only what was looked at three times: a hole in which no node knows anything, or
    bytes that every node refused and that no active saga is at work on."""
    if isinstance(tend(found, seen, asked, limits, pace), Fill):
        assert seen.observations >= HOLE_OBSERVATIONS
        if found.attempts:
            assert seen.refused
            assert seen.state is None or seen.state.terminal
        else:
            assert not seen.known


@laws
@any_world
def test_hole_has_nothing_to_send(
    found: Outstanding, seen: Sight, asked: Market, limits: Limits, pace: Pace
) -> None:
    """A hole has nothing to send again or to raise; bytes that a node lacks are not left."""
    duty = tend(found, seen, asked, limits, pace)
    if not found.attempts:
        assert isinstance(duty, Wait | Fill | Held)
    elif isinstance(duty, Wait):
        assert not seen.lacking


@laws
@any_world
def test_held_by_the_market_alone(
    found: Outstanding, seen: Sight, asked: Market, limits: Limits, pace: Pace
) -> None:
    """The keeper holds only while the market is above the limits, or above what is out, or nodes
    refuse what is out for its price, when that cannot be raised within them."""
    if isinstance(tend(found, seen, asked, limits, pace), Held):
        of_model = found.attempts and not seen.refused
        above = isinstance(offer(asked, limits, found.cost_gas if of_model else 0), Held)
        last = fees_of(found.attempts[-1], asked) if found.attempts else None
        short = last is not None and (
            not sufficient(last, asked) or asked.tip > last.max_priority_fee
        )
        assert above or short or seen.underpriced


@laws
@any_world
def test_pure(found: Outstanding, seen: Sight, asked: Market, limits: Limits, pace: Pace) -> None:
    """The same sight gives the same duty."""
    duty = tend(found, seen, asked, limits, pace)
    assert tend(found, seen, asked, limits, pace) == duty


@laws
@given(PRICES, MARKETS, LIMITED)
def test_bumps_end(first: Fees, asked: Market, limits: Limits) -> None:
    """In a market that stays as it is, no transaction is ever replaced more than six times."""
    found = out(first)
    for _ in range(2 * BLIND_BUMPS):
        duty = tend(found, sight(), asked, limits, PACE)
        if isinstance(duty, Replace):
            attempts = (*found.attempts, attempt(duty.fees))
            found = msgspec.structs.replace(found, attempts=attempts)
    assert len(found.attempts) <= BLIND_BUMPS + 1


def left(*prices: Fees) -> Outstanding:
    """The same of a call that its saga has given up."""
    return msgspec.structs.replace(out(*prices), saga_id="")


def test_left_and_forgotten() -> None:
    """A call that nobody wants any more and no node has is not sent again: the nonce is filled, at
    a price that replaces it wherever it may be."""
    seen = sight(state=None, known=False, age_seconds=1.0, blocks=0)
    assert done(left(LAST), seen) == Fill(priced(22, 2.25))
    assert done(left(priced(100, 2)), seen) == Fill(priced(22, 2)), "where a raise is too much"


def test_left_and_known() -> None:
    """One that a node has may still be mined; when its price is too low, it is filled over."""
    assert done(left(LAST), sight(state=None, age_seconds=1.0, blocks=0)) == Wait()
    assert done(left(LAST), sight(state=None)) == Fill(priced(22, 2.25))


def test_left_costs_no_model() -> None:
    """The limit of a model's cost is none of what takes the place of a call that was left."""
    limits = Limits(max_fee=100 * GWEI, max_cost=1)
    assert done(left(LAST), sight(state=None), CALM, limits) == Fill(priced(22, 2.25))
