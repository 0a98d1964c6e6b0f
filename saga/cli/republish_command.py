"""`saga republish` on the command line; its work is in `saga.cli.republish`."""

from typing import Annotated

import typer


def republish(
    ids: Annotated[list[str] | None, typer.Argument(help="Saga ids or model ids.")] = None,
    *,
    model: Annotated[str | None, typer.Option("--model", help="The event of this model.")] = None,
    since: Annotated[
        str | None,
        typer.Option("--since", help="All first published since a time, or an age such as 36h."),
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="All that are kept.")] = False,
    rate: Annotated[str, typer.Option("--rate", help="Most events a second.")] = "50/s",
    execute: Annotated[
        bool, typer.Option("--execute", help="Do it; else it is only said what would be done.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout, nothing else.")] = False,
) -> None:
    """Publish the events of finished sagas again, byte for byte, in order; audited."""
    from saga.cli import republish as work  # noqa: PLC0415 - commands load what they need

    work.republish(
        [*(ids or []), *([model] if model else [])],
        since=since,
        all_=all_,
        rate=rate,
        execute=execute,
        as_json=as_json,
    )
