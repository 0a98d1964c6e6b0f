"""What a saga's mined transactions cost it, and what all sagas together did and paid. Pure.

A saga pays for its own steps' transactions: calls that did their work, calls that reverted, an
operator's cancellation, a self-send that took the nonce of a step it was still waiting for. What it
adopted was paid for by somebody else. In nobody's account are self-sends that only fill a nonce for
the lane (the keeper's, the second one of a cancelled pair), and what a saga left to a lane where
that came to nothing.
"""

from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from typing import TypeVar

import msgspec

from saga.fees import GWEI, cost_usd
from saga.model import Deployment, Intent, Receipt, Registration, Saga

MICRO = 10**6
"""Micro-dollars in a dollar."""
LEFT_KEPT = 32
"""Hashes of left transactions that a saga keeps: those of 16 pairs, far more than it has lanes."""

_Found = TypeVar("_Found", Deployment, Registration)


class Cost(msgspec.Struct, frozen=True):
    """Of one mined transaction of ours, whatever came of it."""

    gas: int
    wei: int
    """All that the chain took for it."""


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """What all sagas together did, as counted in Redis; it outlives the sagas. Names are stored."""

    deployments: int = 0
    """Tokens that sagas have deployed themselves."""
    adopted: int = 0
    """Tokens that were found on the chain, deployed by no transaction that a saga knew of."""
    registrations: int = 0
    """Registry entries that sagas have made themselves."""
    gas: int = 0
    """Burnt by the sagas' own steps, those that reverted or were cancelled included. Self-sends
    that only fill a nonce for the lane are in nobody's account."""
    fees_gwei: int = 0
    """The same in money. Gwei, rounded half-even for each saga: the 64 bits of a counter hold
    9.2 ether in wei."""
    usd_micro: int = 0
    """Micro-dollars: the sum of `deployment_cost_usd` in the events of `priced`."""
    priced: int = 0
    """Registered tokens whose event has `deployment_cost_usd`; all of them are of `deployments`,
    since what is adopted has no price."""


def receipt_cost(receipt: Receipt) -> Cost:
    return Cost(receipt.gas_used, receipt.gas_used * receipt.gas_price + receipt.l1_fee)


def charged(saga: Saga, cost: Cost | None) -> Saga:
    """The saga with one more transaction that it has paid for; None: with none."""
    if cost is None:
        return saga
    return msgspec.structs.replace(
        saga, gas_used=saga.gas_used + cost.gas, fees_wei=saga.fees_wei + cost.wei
    )


def leaving(saga: Saga, intents: Sequence[Intent]) -> Saga:
    """The saga with the hashes of what it leaves to a lane: the newest LEFT_KEPT of all."""
    if not intents:
        return saga
    hashes = [attempt.hash for intent in intents for attempt in intent.attempts]
    return msgspec.structs.replace(saga, left=(*saga.left, *hashes)[-LEFT_KEPT:])


def owned(saga: Saga, found: _Found) -> _Found:
    """What was found on the chain; not adopted where a transaction made it that the saga had left.

    The saga knows the hashes that it had stored itself. A replacement that the lane's keeper has
    signed has another one: what that made stays adopted, and its fees are in nobody's account.
    """
    if found.receipt.tx_hash not in saga.left:
        return found
    return msgspec.structs.replace(found, adopted=False)


def deployment_wei(saga: Saga) -> int:
    """What deployment and registration cost so far, whoever has paid: the chain says so for ever,
    hence also after Redis was lost."""
    results = (saga.deployment, saga.registration)
    return sum(receipt_cost(each.receipt).wei for each in results if each is not None)


def deployment_usd(saga: Saga) -> Decimal | None:
    """The same in US dollars with six digits, each transaction at the price when this service first
    saw its receipt; None until both are there, and where one has no price."""
    total = Decimal()
    for each in (saga.deployment, saga.registration):
        if each is None or each.receipt.native_usd is None:
            return None
        total += cost_usd(receipt_cost(each.receipt).wei, Decimal(each.receipt.native_usd))
    return total


def raised(before: Saga, after: Saga) -> Totals:
    """What one write of a saga adds to the totals."""
    deployed = None if before.deployment else after.deployment
    registered = None if before.registration else after.registration
    cost = None if registered is None else deployment_usd(after)
    return Totals(
        deployments=int(deployed is not None and not deployed.adopted),
        adopted=int(deployed is not None and deployed.adopted),
        registrations=int(registered is not None and not registered.adopted),
        gas=after.gas_used - before.gas_used,
        fees_gwei=_gwei(after.fees_wei) - _gwei(before.fees_wei),
        usd_micro=int((cost or 0) * MICRO),
        priced=int(cost is not None),
    )


def _gwei(wei: int) -> int:
    """Rounded half-even."""
    return round(Fraction(wei, GWEI))
