"""Sagas as rows, documents and lines for people and machines."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Any

import msgspec
from rich.console import Console
from rich.markup import escape

from saga.costs import deployment_usd, deployment_wei
from saga.fees import ether, gwei
from saga.model import Attempt, HistoryEntry, Saga, State, Step

Attempts = Mapping[Step, Sequence[Attempt]]
"""Every transaction of the steps that are not confirmed, as the lane's records have them."""

STATE_STYLES = {
    State.ACKED: "green",
    State.SKIPPED: "yellow",
    State.DEAD_LETTERED: "red",
}


def console() -> Console:
    """Wide enough for hashes when the output is no terminal."""
    return Console(width=None if sys.stdout.isatty() else 200, highlight=False)


def safe(text: object) -> str:
    """Foreign text for a terminal: no markup, no control characters."""
    cleaned = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in str(text))
    return escape(cleaned)


def styled(state: State) -> str:
    style = STATE_STYLES.get(state, "cyan")
    return f"[{style}]{state.value}[/]"


def iso(ms: int) -> str:
    text = datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def print_json(document: object) -> None:
    sys.stdout.write(msgspec.json.encode(document).decode() + "\n")


def document(
    saga: Saga, attempts: Attempts = MappingProxyType({}), held: str | None = None
) -> dict[str, Any]:
    """A saga as JSON shows it. Signed bytes are left out. `held`: why its lane is."""
    found = {
        "id": saga.id,
        "state": saga.state,
        "model_id": saga.model_id,
        "message_id": saga.message_id,
        "attempts": saga.attempts,
        "takeovers": saga.takeovers,
        "version": saga.version,
        "fence": saga.lease.fence,
        "created_at": iso(saga.created_ms),
        "updated_at": iso(saga.updated_ms),
        "error": saga.error,
        "error_class": saga.error_class,
        "duplicate_of": saga.duplicate_of,
        "conflicts_with": saga.conflicts_with,
        "failed_in": saga.failed_in,
        "discarded": saga.discarded,
        "token_address": None if saga.deployment is None else saga.deployment.token,
        "held": held,
        "cost": _cost(saga),
        "deployment": _step(saga, Step.DEPLOY, attempts),
        "registration": _step(saga, Step.REGISTER, attempts),
        "traceparent": saga.traceparent,
    }
    return {name: value for name, value in found.items() if value is not None}


def _cost(saga: Saga) -> dict[str, Any] | None:
    """What its own steps have paid, whatever came of them; and what deployment and registration
    took, whoever has paid."""
    wei, usd = deployment_wei(saga), deployment_usd(saga)
    if not wei and not saga.gas_used:
        return None
    found = {
        "gas_used": saga.gas_used,
        "fees_wei": str(saga.fees_wei),
        "fees_ether": ether(saga.fees_wei),
        "deployment_cost_wei": str(wei) if wei else None,
        "deployment_cost_usd": None if usd is None else f"{usd:.6f}",
    }
    return {name: value for name, value in found.items() if value is not None}


def cost_line(saga: Saga) -> str | None:
    """The same for people; None when nothing was paid, or by a release that did not say."""
    if not saga.gas_used:
        return None
    line = f"gas {saga.gas_used}, {Decimal(ether(saga.fees_wei)):.6f} ether"
    usd = deployment_usd(saga)
    if usd is None:
        return line
    of = "" if deployment_wei(saga) == saga.fees_wei else " without what came to nothing"
    return f"{line}, {usd:.2f} USD{of}"


def _step(saga: Saga, step: Step, attempts: Attempts) -> dict[str, Any] | None:
    intent, receipt = saga.intent(step), saga.receipt(step)
    if intent is None and receipt is None:
        return None
    shown: dict[str, Any] = {}
    if intent is not None:
        shown["nonce"] = intent.nonce
        shown["predicted_address"] = intent.predicted
        signed = attempts.get(step, intent.attempts)
        shown["transaction_hashes"] = [attempt.hash for attempt in signed]
        if step in attempts:
            shown["transactions"] = [
                {
                    "hash": attempt.hash,
                    "kind": attempt.kind,
                    "max_fee_gwei": gwei(attempt.max_fee),
                    "max_priority_fee_gwei": gwei(attempt.max_priority_fee),
                }
                for attempt in signed
            ]
    if receipt is not None:
        shown["receipt"] = msgspec.to_builtins(receipt)
    return shown


def history_documents(entries: Iterable[HistoryEntry]) -> list[dict[str, Any]]:
    return [
        {"at": iso(entry.at_ms)}
        | {
            name: value
            for name, value in msgspec.structs.asdict(entry).items()
            if value is not None and name != "at_ms"
        }
        for entry in entries
    ]
