"""What `saga chain status` says, as data and as text."""

from collections.abc import Sequence

import msgspec
from rich.table import Table

from saga.cli.render import console, safe, styled
from saga.model import AttemptKind, State

_KNOWN = {True: "on a node", False: "on no node", None: "no node can tell"}


class EndpointStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One endpoint, as the questions of this command found it."""

    host: str
    kind: str
    usable: bool
    refused: str | None
    circuit: str
    latency_ms: float | None
    error_rate: float
    head: int | None
    lag_blocks: int


class FeeStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Per gas, in gwei, exact; what would be offered is None while it is above a limit."""

    base_fee_gwei: str | None
    tip_gwei: str
    offer_max_fee_gwei: str | None
    offer_max_priority_fee_gwei: str | None
    limit_max_fee_gwei: str
    limit_model_ether: str | None
    """What both limits of a model's cost allow; None: no limit is active."""
    limit_model_usd: str | None
    """MAX_DEPLOYMENT_COST_USD, active or not; None: no limit."""
    native_usd: str | None
    """Price of the native token; None while it is not known, and the limit above not active."""


class AttemptStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One signed transaction."""

    hash: str
    kind: AttemptKind
    max_fee_gwei: str
    max_priority_fee_gwei: str
    known: bool | None
    """Whether a node has it; None when none can tell."""


class NonceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One nonce that is out."""

    nonce: int
    step: str
    saga_id: str
    model_id: str | None
    state: State | None
    age_seconds: float
    """Since its last transaction was stored."""
    attempts: Sequence[AttemptStatus]


class LaneStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The lane of one key on one chain. `next_nonce` is None before the first one was taken."""

    address: str
    balance_ether: str
    next_nonce: int | None
    spent_nonces: int
    pending_nonces: int
    keeper: str | None
    keeper_lease_seconds: float | None
    hold: str | None
    retired: str | None
    """`draining:<address>` or `retired:<address>`: no new nonce is given."""
    outstanding: Sequence[NonceStatus]
    outstanding_more: int
    """How many more are out than are shown."""
    holes: Sequence[int]
    """Given by the lane, unspent, without any transaction."""
    unknown_pending: Sequence[int]
    """Pending on a node, unknown to Redis."""


class ChainStatus(msgspec.Struct, frozen=True, kw_only=True):
    """All of it."""

    chain_id: int
    network: str
    head: int
    head_age_seconds: float
    endpoints: Sequence[EndpointStatus]
    fees: FeeStatus
    would_hold: Sequence[str]
    """Why a new saga would not be sent now."""
    problems: Sequence[str]
    lanes: Sequence[LaneStatus]


def print_status(status: ChainStatus) -> None:
    """For people."""
    out = console()
    age = f"{status.head_age_seconds:g} s old"
    out.print(f"chain    {status.chain_id} {safe(status.network)}, head {status.head}, {age}")
    _print_fees(status.fees)
    out.print(_endpoints(status.endpoints))
    for lane in status.lanes:
        _print_lane(lane)
    for reason in status.would_hold:
        out.print(f"[yellow]a new saga would wait:[/] {safe(reason)}")
    if not status.would_hold:
        out.print("a new saga would be sent now")
    for problem in status.problems:
        out.print(f"[red]`saga run` would not start:[/] {safe(problem)}")


def _print_fees(fees: FeeStatus) -> None:
    out = console()
    base = "none" if fees.base_fee_gwei is None else f"{fees.base_fee_gwei} gwei"
    out.print(f"fees     base fee {base}, tip {fees.tip_gwei} gwei")
    if fees.offer_max_fee_gwei is not None:
        tip = fees.offer_max_priority_fee_gwei
        out.print(f"offer    max fee {fees.offer_max_fee_gwei} gwei, tip {tip} gwei")
    model = fees.limit_model_ether
    cost = "a model's cost is not limited" if model is None else f"a model's cost {model} ether"
    out.print(f"limits   max fee {fees.limit_max_fee_gwei} gwei, {cost}")
    usd, price = fees.limit_model_usd, fees.native_usd
    limit = (
        "a model's cost in dollars is not limited" if usd is None else f"a model's cost {usd} USD"
    )
    if price is not None:
        out.print(f"dollars  native token {price} USD, {limit}")
    elif usd is not None:
        out.print(f"dollars  native token's price is not known: {limit} is not active")


def _endpoints(endpoints: Sequence[EndpointStatus]) -> Table:
    table = Table("endpoint", "kind", "circuit", "latency", "errors", "head", "lag", "used")
    for each in endpoints:
        table.add_row(
            safe(each.host),
            each.kind,
            each.circuit,
            "" if each.latency_ms is None else f"{each.latency_ms:g} ms",
            f"{100 * each.error_rate:.0f} %",
            "" if each.head is None else str(each.head),
            f"{each.lag_blocks} blocks",
            safe(each.refused or ("yes" if each.usable else "no")),
        )
    return table


def _print_lane(lane: LaneStatus) -> None:
    out = console()
    following = "none yet" if lane.next_nonce is None else str(lane.next_nonce)
    keeper = "nobody"
    if lane.keeper is not None:
        keeper = f"{safe(lane.keeper)}, lease for {lane.keeper_lease_seconds:g} s more"
    out.print(f"lane     {lane.address}, balance {lane.balance_ether} ether")
    out.print(
        f"nonces   next {following}, spent {lane.spent_nonces}, pending {lane.pending_nonces}"
    )
    out.print(f"keeper   {keeper}")
    if lane.retired is not None:
        how, _, to = lane.retired.partition(":")
        out.print(f"[yellow]marked[/]   {safe(how)} to {safe(to)}: no new nonce is given")
    if lane.hold is not None:
        out.print(f"[yellow]held[/]     {safe(lane.hold)}")
    _print_outstanding(lane.outstanding)
    if lane.outstanding_more:
        out.print(f"and {lane.outstanding_more} more nonces are out")
    if lane.holes:
        out.print(f"[yellow]holes[/]    nonces {spans(lane.holes)}: no transaction is stored")
    if lane.unknown_pending:
        out.print(
            f"[yellow]foreign[/]  nonces {spans(lane.unknown_pending)} are pending on a node and "
            "unknown to Redis"
        )


def _print_outstanding(nonces: Sequence[NonceStatus]) -> None:
    """Lines, no table: hashes and numbers beside each other are wider than a terminal."""
    out = console()
    for each in nonces:
        whose = f"saga {safe(each.saga_id)}" if each.saga_id else "no saga"
        model = f", model {safe(each.model_id)}" if each.model_id else ""
        state = f", {styled(each.state)}" if each.state else ""
        out.print(
            f"nonce {each.nonce} {each.step}, {each.age_seconds:g} s, {whose}{model}{state}",
            soft_wrap=True,
        )
        for attempt in each.attempts:
            out.print(
                f"  {attempt.hash} {attempt.kind}, at most {attempt.max_fee_gwei} gwei, "
                f"tip {attempt.max_priority_fee_gwei} gwei, {_KNOWN[attempt.known]}",
                soft_wrap=True,
            )


def spans(numbers: Sequence[int]) -> str:
    """Ascending numbers, runs of them short: 3, 4, 5, 9 → "3 to 5, 9"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ", ".join(" to ".join(map(str, run)) for run in runs)
