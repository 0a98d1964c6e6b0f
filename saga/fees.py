"""What to pay: offers, bumps and the caps that hold them. Pure arithmetic, amounts in wei per gas."""

import msgspec


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
    """With the numbers in gwei and the setting's name."""
