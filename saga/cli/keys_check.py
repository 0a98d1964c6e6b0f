"""`saga keys check`: whether each key signs, and as whom; no Redis and no node is needed."""

import asyncio
from collections.abc import Sequence

import msgspec

from adapters.log_setup import configure_logging
from adapters.signer import PROBE_NONCE, Signer
from adapters.transaction import UNREADABLE, decoded, sender_of
from saga.cli.keys_desk import ChainId
from saga.cli.render import console, print_json, safe
from saga.config import load
from saga.errors import ConfigError, HeldError
from saga.fees import Fees
from saga.model import AttemptKind
from saga.signer_settings import SignerSettings
from saga.signers import open_signers

ANY_CHAIN = 1
"""What is signed for where CHAIN_ID is not set. With that nonce nothing is ever mined there."""


class KeyCheck(msgspec.Struct, frozen=True, kw_only=True):
    """One key."""

    address: str
    kind: str
    setting: str
    ok: bool
    pin: str
    """`ok`, or `none`: DEPLOYER_ADDRESS is not set. A wrong one opens no key."""
    problem: str | None = None


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """All of them."""

    ok: bool
    chain_id: int
    """That the test transaction was for."""
    chain_id_set: bool
    keys: Sequence[KeyCheck]
    problems: Sequence[str]
    """Why keys could not be opened, a line each."""


def check_keys(*, as_json: bool) -> bool:
    """Returns whether all of them sign. Raises ConfigError when the settings name no key."""
    settings, chain = load(SignerSettings), load(ChainId)
    configure_logging("ERROR", "json")
    checked = asyncio.run(_check(settings, chain.CHAIN_ID))
    if as_json:
        print_json(checked)
    else:
        _print(checked)
    return checked.ok


async def _check(settings: SignerSettings, chain_id: int | None) -> Checked:
    """SIDE EFFECTS: signs one transaction with each key; sends nothing."""
    signed_for = ANY_CHAIN if chain_id is None else chain_id
    keys: list[KeyCheck] = []
    problems: list[str] = []
    try:
        async with open_signers(settings) as signers:
            keys = [await _one(settings, signer, signed_for) for signer in signers]
    except ConfigError as error:
        problems = error.problems
    except HeldError as error:
        problems = [f"{settings.source}: {error}"]
    return Checked(
        ok=not problems and all(key.ok for key in keys),
        chain_id=signed_for,
        chain_id_set=chain_id is not None,
        keys=keys,
        problems=problems,
    )


async def _one(settings: SignerSettings, signer: Signer, chain_id: int) -> KeyCheck:
    problem = await _refusal(signer, chain_id)
    return KeyCheck(
        address=signer.address,
        kind=signer.kind,
        setting=settings.source,
        ok=problem is None,
        pin="ok" if settings.pinned else "none",
        problem=problem,
    )


async def _refusal(signer: Signer, chain_id: int) -> str | None:
    """Why a key does not sign as its address; None when it does."""
    one = Fees(max_fee=1, max_priority_fee=1)
    try:
        probe = await signer.self_send(PROBE_NONCE, chain_id, one, AttemptKind.FILL)
        found = sender_of(*decoded(bytes.fromhex(probe.raw[2:])))
    except HeldError as error:
        return str(error)
    except UNREADABLE:
        return "what it signed cannot be read"
    return None if found == signer.address else f"it signs as {found}"


def _print(checked: Checked) -> None:
    out = console()
    for key in checked.keys:
        pin = "pin ok" if key.pin == "ok" else "no pin: DEPLOYER_ADDRESS is not set"
        said = "signs" if key.ok else f"[red]does not sign:[/] {safe(key.problem)}"
        out.print(f"{key.address} {safe(key.kind)}, from {key.setting}: {said}; {pin}")
    for problem in checked.problems:
        out.print(f"[red]no key:[/] {safe(problem)}")
    if checked.keys:
        chosen = "CHAIN_ID" if checked.chain_id_set else "CHAIN_ID is not set"
        out.print(f"test transaction for chain {checked.chain_id} ({chosen}); nothing was sent")
