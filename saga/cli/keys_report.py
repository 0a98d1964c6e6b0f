"""What `saga keys show` says, as data and as text."""

from collections.abc import Mapping, Sequence

import msgspec

from saga.cli.render import console, safe

_ROLE = {True: "[green]yes[/]", False: "[red]no[/]", None: "not known"}


class KeyLane(msgspec.Struct, frozen=True, kw_only=True):
    """A chain on which Redis knows the key."""

    chain_id: int
    next_nonce: int | None
    retired: str | None
    """`draining:<address>` or `retired:<address>`."""
    abandoned: bool
    """Retired because its key was given up as lost."""


class KeyStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One configured key. What is None could not be asked; `problems` say why."""

    address: str
    kind: str
    """`not opened` where only the pin is known."""
    setting: str
    pin: str
    """`ok`, `none`, `wrong`, or `not checked`."""
    lanes: Sequence[KeyLane] | None = None
    balance_ether: str | None = None
    nonce_latest: int | None = None
    nonce_pending: int | None = None
    roles: Mapping[str, bool | None] = {}
    """Role → whether it has it; None when the contract does not tell."""


class FormerLane(msgspec.Struct, frozen=True, kw_only=True):
    """A lane of a key that is not configured here."""

    address: str
    chain_id: int
    next_nonce: int | None
    spent_nonces: int | None
    out: int | None
    """How many nonces are given and not spent; None when no node was asked."""
    sagas: Sequence[str]
    """Whose these are."""
    retired: str | None
    abandoned: bool


class KeysStatus(msgspec.Struct, frozen=True, kw_only=True):
    """All of it."""

    chain_id: int | None
    keys: Sequence[KeyStatus]
    former: Sequence[FormerLane]
    problems: Sequence[str]
    """What is not shown, and why: a line each."""


def print_keys(status: KeysStatus) -> None:
    """For people."""
    out = console()
    for key in status.keys:
        pin = "no pin" if key.pin == "none" else f"pin {key.pin}"
        out.print(f"key      {key.address} {safe(key.kind)}, from {key.setting}, {pin}")
        if key.balance_ether is not None:
            nonces = f"{key.nonce_latest} spent, {key.nonce_pending} pending"
            out.print(f"  balance {key.balance_ether} ether, nonces {nonces}")
        for name, held in key.roles.items():
            out.print(f"  {name} {_ROLE[held]}")
        for lane in key.lanes or ():
            out.print(f"  chain {lane.chain_id}: next nonce {_nonce(lane)}{_mark(lane)}")
    for former in status.former:
        out.print(
            f"former   {former.address} on chain {former.chain_id}: next nonce {_nonce(former)}, "
            f"{_out(former)}{_mark(former)}"
        )
    for problem in status.problems:
        out.print(f"[red]not known:[/] {safe(problem)}")


def _nonce(lane: KeyLane | FormerLane) -> str:
    return "none yet" if lane.next_nonce is None else str(lane.next_nonce)


def _out(lane: FormerLane) -> str:
    if lane.out is None:
        return "what is out is not known"
    if not lane.out:
        return "nothing is out"
    sagas = f" (sagas {safe(', '.join(lane.sagas))})" if lane.sagas else ""
    return f"[yellow]{lane.out} out[/]{sagas}"


def _mark(lane: KeyLane | FormerLane) -> str:
    if lane.retired is None:
        return ""
    how, _, to = lane.retired.partition(":")
    if lane.abandoned:
        return f", [yellow]abandoned[/]; {safe(to)} signs instead"
    return f", [yellow]{safe(how)}[/] to {safe(to)}"
