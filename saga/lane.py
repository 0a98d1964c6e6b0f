"""What the lane of one signer on one chain holds, and what its keeper does about it. Pure.

A lane gives out nonces. Each nonce below `next` that the chain has not spent is out: it has a
record with every transaction ever signed for it. One keeper in the fleet looks after them all.
"""

import msgspec

from saga import fees
from saga.fees import Fees, Held, Limits, Market
from saga.model import Attempt, AttemptKind, State

HOLE_OBSERVATIONS = 3
"""As op-service/txmgr: one answer of a lagging node must not count."""
BLIND_BUMPS = 6
"""Raises of a price that the market does not ask for (research: rule 9, at most six)."""


class Outstanding(msgspec.Struct, frozen=True, kw_only=True):
    """One nonce that is out. Without attempts it is a hole: nobody's bytes will ever spend it."""

    nonce: int
    saga_id: str = ""
    step: str = ""
    """`deploy`, `register`, or `fill`."""
    cost_gas: int = 0
    attempts: tuple[Attempt, ...] = ()
    at_ms: int = 0
    """When the last attempt was stored, by the server's clock."""


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """When the keeper acts."""

    bump_after_seconds: float
    bump_after_blocks: int
    rebroadcast_seconds: float = 15.0
    """More than the usual time between blocks: what is on its way is left alone."""


class Sight(msgspec.Struct, frozen=True, kw_only=True):
    """What the keeper knows of one nonce from outside the record."""

    state: State | None
    """Of its saga; None when there is none."""
    known: bool
    """Whether any node has one of its transactions; for a hole, a transaction of the key."""
    lacking: bool
    """Whether a node that answers lacks the last of them."""
    refused: bool
    """Whether every node that answers refused the last bytes for good."""
    underpriced: bool
    """Whether nodes refused the last bytes for their price."""
    lowest: bool
    """Whether it is the next one that the chain waits for."""
    age_seconds: float
    """Since the last attempt was stored."""
    blocks: int
    """That came in since."""
    observations: int
    """How often in a row it was seen as a hole, or refused."""


class Wait(msgspec.Struct, frozen=True):
    """Nothing to do now."""


class Rebroadcast(msgspec.Struct, frozen=True):
    """Give the last stored bytes to the nodes again."""


class Replace(msgspec.Struct, frozen=True):
    """Sign the same call with other fees, on the same nonce."""

    fees: Fees


class Fill(msgspec.Struct, frozen=True):
    """Spend the nonce with a zero-value self-send."""

    fees: Fees


Duty = Wait | Rebroadcast | Replace | Fill | Held
"""Held: the price cannot be raised; what no node knows is sent again all the same."""


def tend(out: Outstanding, sight: Sight, market: Market | None, limits: Limits, pace: Pace) -> Duty:
    """What is to be done about one nonce. `market` None: nobody knows what the chain asks for.

    SIDE EFFECTS: none.
    """
    again = Rebroadcast() if sight.lacking else Wait()
    if not out.attempts:
        if market is None or sight.known or sight.observations < HOLE_OBSERVATIONS:
            return Wait()
        return _filled(fees.offer(market, limits, 0))
    if market is None:
        return again
    if sight.refused:
        return _refused(out, sight, market, limits)
    if _left(out) and not sight.known:
        return _filled(_cheapest(out, market, limits))
    if _priced_out(out, sight, market, limits, pace):
        last = fees_of(out.attempts[-1], market)
        raised = fees.bump(last, market, limits, _cost_gas(out))
        if isinstance(raised, Fees):
            return Fill(raised) if _left(out) else Replace(raised)
        short = not fees.sufficient(last, market) or market.tip > last.max_priority_fee
        if sight.underpriced or short:
            return raised
    return again


def _left(out: Outstanding) -> bool:
    """Whether its saga has given the call up: a self-send in its place costs less than a revert."""
    return not out.saga_id and next_kind(out) is AttemptKind.CALL


def _cost_gas(out: Outstanding) -> int:
    """A self-send burns next to nothing: no model's cost is judged by it."""
    return out.cost_gas if next_kind(out) is AttemptKind.CALL and not _left(out) else 0


def _cheapest(out: Outstanding, market: Market, limits: Limits) -> Fees | Held:
    """For what no pool holds any more: where a raise is too much, an offer will do."""
    raised = fees.bump(fees_of(out.attempts[-1], market), market, limits, 0)
    return raised if isinstance(raised, Fees) else fees.offer(market, limits, 0)


def _refused(out: Outstanding, sight: Sight, market: Market, limits: Limits) -> Duty:
    """Bytes that no node will ever take. A saga that is at work finds that out by itself."""
    deserted = sight.state is None or sight.state.terminal
    if not deserted or sight.observations < HOLE_OBSERVATIONS:
        return Rebroadcast()
    return _filled(_cheapest(out, market, limits))


def _filled(price: Fees | Held) -> Duty:
    return Fill(price) if isinstance(price, Fees) else price


def _priced_out(out: Outstanding, sight: Sight, market: Market, limits: Limits, pace: Pace) -> bool:
    """Whether blocks have gone by that could have held it, and its price may be why they do not.

    Behind the lowest nonce nothing can be mined yet, and what no node has is not waited for by the
    chain: there, only what nodes refuse for its price or is below the base fee is raised.
    """
    if sight.age_seconds < pace.bump_after_seconds:
        return False
    if sight.underpriced:
        return True  # whatever blocks come, no node has it
    if sight.blocks < pace.bump_after_blocks:
        return False
    last = fees_of(out.attempts[-1], market)
    if not fees.sufficient(last, market):
        return True
    if not (sight.lowest and sight.known):
        return False
    wanted = fees.offer(market, limits, _cost_gas(out))
    asked_for_more = isinstance(wanted, Fees) and wanted.max_priority_fee > last.max_priority_fee
    return asked_for_more or len(out.attempts) <= BLIND_BUMPS


def fees_of(attempt: Attempt, market: Market) -> Fees:
    """What a stored attempt offers."""
    return Fees(
        max_fee=attempt.max_fee,
        max_priority_fee=attempt.max_priority_fee,
        legacy=market.base_fee is None,
    )


def next_kind(out: Outstanding) -> AttemptKind:
    """A bump does what the attempt before it did."""
    return out.attempts[-1].kind if out.attempts else AttemptKind.FILL
