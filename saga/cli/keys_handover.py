"""What is left to do when a key was handed over: grants, funds, revokes, settings."""

from collections.abc import Sequence

import msgspec

from adapters.accounts import RoleCall, is_contract, look_at
from saga.cli.keys_desk import KeySource, LaneDesk
from saga.cli.render import console, safe
from saga.errors import UsageError
from saga.signer_settings import SOURCES


class ToDo(msgspec.Struct, frozen=True, kw_only=True):
    """By hand, after the lane was handed over; grants and funds before replicas start."""

    grants: Sequence[RoleCall] = ()
    """For the new address, to be made by an admin of the contract."""
    funds: str | None = None
    """What the new address lacks."""
    settings: Sequence[str] = ()
    """To change on every replica."""
    revokes: Sequence[RoleCall] = ()
    """Of the old address; last."""
    unknown: Sequence[str] = ()
    """What could not be found out."""


class Handover(msgspec.Struct, frozen=True, kw_only=True):
    """What was done with a lane, or would be."""

    chain_id: int
    old: str
    new: str
    result: str
    """`retired`, `lifted`, `nothing to lift`; with --dry-run `would be …`."""
    next_nonce: int | None
    reasons: Sequence[str]
    """What a drain would wait for."""
    to_do: ToDo


async def left_to_do(desk: LaneDesk, new: str) -> ToDo:
    """Raises ChainUnavailableError, and UsageError when nobody can have the new address's key."""
    rpc, node, old = desk.rpc, desk.settings, desk.sender
    if await is_contract(rpc, new):
        raise UsageError(f"--to {new} is a contract: give the address of the new key")
    before = await look_at(rpc, old, node.roles(old))
    after = await look_at(rpc, new, node.roles(new))
    unknown = [
        f"{role.name} on {role.contract} cannot be read"
        for role in after.roles
        if role.held is None
    ]
    return ToDo(
        grants=[role.grant() for role in after.roles if role.held is False],
        funds=None if after.balance else f"{new} has no funds on this chain",
        settings=_settings(desk.source, old, new),
        revokes=[role.revoke() for role in before.roles if role.held],
        unknown=[*node.lacking, *unknown],
    )


def _settings(source: KeySource | None, old: str, new: str) -> list[str]:
    """Names alone: where the new key is, the operator knows. The pin must name every key."""
    if source is None:
        return [f"the key source ({', '.join(SOURCES)}): that of {new}", f"DEPLOYER_ADDRESS={new}"]
    beside = [each for each in source.signing or () if each != old]
    if new in beside:
        return [
            f"{source.setting}: without the key of {old}",
            f"DEPLOYER_ADDRESS={','.join(beside)}",
        ]
    placed = f"{source.setting}: the key of {new} in place of {old}"
    if source.signing is None:
        return [placed, "DEPLOYER_ADDRESS: the addresses of all keys there, or not set"]
    return [placed, f"DEPLOYER_ADDRESS={','.join([*beside, new])}"]


def print_handover(done: Handover) -> None:
    """For people."""
    out = console()
    whose = f"{done.old} on chain {done.chain_id}"
    if done.old == done.new:
        out.print(f"{whose}: {done.result}")
        return
    following = "none was ever taken" if done.next_nonce is None else done.next_nonce
    out.print(f"{whose}: {done.result}, to {done.new}; next nonce {following}")
    for reason in done.reasons:
        out.print(f"  it would wait: {safe(reason)}")
    _print_to_do(done.to_do)


def _print_to_do(to_do: ToDo) -> None:
    out = console()
    if to_do.grants:
        out.print("grant, as an admin of the contract:")
    for each in to_do.grants:
        out.print(f"  {safe(each.call)} on {each.contract}", soft_wrap=True)
    if to_do.funds is not None:
        out.print(f"fund: {to_do.funds}")
    if to_do.settings:
        out.print("set, on every replica, and start them again:")
    for line in to_do.settings:
        out.print(f"  {safe(line)}", soft_wrap=True)
    if to_do.revokes:
        out.print("revoke at last:")
    for each in to_do.revokes:
        out.print(f"  {safe(each.call)} on {each.contract}", soft_wrap=True)
    for line in to_do.unknown:
        out.print(f"[yellow]not known:[/] {safe(line)}")
