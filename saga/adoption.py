"""Whether a token that somebody else made is the one that this service would have made. Pure."""

import msgspec


class Traits(msgspec.Struct, frozen=True, kw_only=True):
    """What a token's content and power follow from. None: the contract does not say."""

    code_hash: str | None
    """keccak256 of the runtime code, 0x hex. HokusaiToken has no immutables: the code of all
    tokens of one release is the same."""
    name: str | None
    symbol: str | None
    model_id: str | None
    mlflow_run_id: str | None
    controller: str | None
    """Who mints and burns, in checksum case."""
    owner: str | None
    """Who may replace the controller, in checksum case."""


LABELS = {
    "code_hash": "code hash",
    "name": "name",
    "symbol": "symbol",
    "model_id": "model id",
    "mlflow_run_id": "mlflow_run_id",
    "controller": "controller",
    "owner": "owner",
}


def differing(theirs: Traits, ours: Traits) -> list[str]:
    """A phrase for each trait that is another, theirs against ours; empty: the same token."""
    return [
        f"{label} {_shown(getattr(theirs, field))} instead of {_shown(getattr(ours, field))}"
        for field, label in LABELS.items()
        if getattr(theirs, field) != getattr(ours, field)
    ]


def _shown(value: str | None) -> str:
    """Quoted, and shortened: a foreign contract may answer with a megabyte."""
    if value is None:
        return "none"
    return repr(value if len(value) <= 80 else value[:77] + "...")
