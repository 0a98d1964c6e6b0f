"""What a saga's mined transactions cost it, and what all sagas together did and paid. Pure.

Only what was paid for a saga counts: what it adopted was paid for before it, or by somebody else.
"""

from decimal import Decimal
from fractions import Fraction

import msgspec

from saga.fees import GWEI, cost_usd
from saga.model import Receipt, Saga

MICRO = 10**6
"""Micro-dollars in a dollar."""


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
    """Tokens that the chain held already."""
    registrations: int = 0
    """Registry entries that sagas have made themselves."""
    gas: int = 0
    """Of all transactions of sagas, those that reverted or were cancelled included."""
    fees_gwei: int = 0
    """The same in money. Gwei, rounded half-even for each saga: the 64 bits of a counter hold
    9.2 ether in wei."""
    usd_micro: int = 0
    """Micro-dollars: the sum of `deployment_cost_usd` in the events of `priced`."""
    priced: int = 0
    """Those of `deployments` whose whole cost is known in USD."""


def receipt_cost(receipt: Receipt) -> Cost:
    return Cost(receipt.gas_used, receipt.gas_used * receipt.gas_price + receipt.l1_fee)


def charged(saga: Saga, cost: Cost | None) -> Saga:
    """The saga with one more transaction that it has paid for; None: with none."""
    if cost is None:
        return saga
    return msgspec.structs.replace(
        saga, gas_used=saga.gas_used + cost.gas, fees_wei=saga.fees_wei + cost.wei
    )


def deployment_wei(saga: Saga) -> int:
    """What deployment and registration cost so far, whoever has paid: the chain says so for ever,
    hence also after Redis was lost."""
    results = (saga.deployment, saga.registration)
    return sum(receipt_cost(each.receipt).wei for each in results if each is not None)


def own_wei(saga: Saga) -> int:
    """The same of the transactions that this saga has sent itself."""
    return sum(receipt_cost(receipt).wei for receipt in _own(saga))


def deployment_usd(saga: Saga) -> Decimal | None:
    """What its own of them cost a saga in US dollars with six digits, at the receipts' prices; None
    when one of them has no price, or there is none."""
    receipts = _own(saga)
    total = Decimal()
    for receipt in receipts:
        if receipt.native_usd is None:
            return None
        total += cost_usd(receipt_cost(receipt).wei, Decimal(receipt.native_usd))
    return total if receipts else None


def raised(before: Saga, after: Saga) -> Totals:
    """What one write of a saga adds to the totals."""
    deployed = None if before.deployment else after.deployment
    registered = None if before.registration else after.registration
    cost = None
    if registered is not None and after.deployment is not None and not after.deployment.adopted:
        cost = deployment_usd(after)
    return Totals(
        deployments=int(deployed is not None and not deployed.adopted),
        adopted=int(deployed is not None and deployed.adopted),
        registrations=int(registered is not None and not registered.adopted),
        gas=after.gas_used - before.gas_used,
        fees_gwei=_gwei(after.fees_wei) - _gwei(before.fees_wei),
        usd_micro=int((cost or 0) * MICRO),
        priced=int(cost is not None),
    )


def _own(saga: Saga) -> list[Receipt]:
    """Of the confirmed transactions that this saga has sent itself."""
    results = (saga.deployment, saga.registration)
    return [each.receipt for each in results if each is not None and not each.adopted]


def _gwei(wei: int) -> int:
    """Rounded half-even."""
    return round(Fraction(wei, GWEI))
