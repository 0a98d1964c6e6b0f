"""`saga dlq`: the dead letters, and what is to become of them."""

from typing import Annotated

import typer

from saga.model import State

dlq_app = typer.Typer(
    help="Dead letters: ours, and those that others have put into the list.", no_args_is_help=True
)

Json = Annotated[bool, typer.Option("--json", help="JSON on stdout, nothing else.")]
Ids = Annotated[
    list[str] | None, typer.Argument(help="Saga ids, model ids, or ids as `saga dlq list` shows.")
]
All = Annotated[bool, typer.Option("--all", help="All dead letters.")]
Execute = Annotated[
    bool, typer.Option("--execute", help="Do it; without this only say what would be done.")
]
Class = Annotated[
    str | None, typer.Option("--class", help="Only of this error class; foreign: of nobody here.")
]
Model = Annotated[str | None, typer.Option("--model", help="Only of this model id.")]
Older = Annotated[
    str | None, typer.Option("--older-than", help="Only what failed longer ago: 90m, 1h, 2d.")
]
FailedIn = Annotated[State | None, typer.Option("--state", help="Only what failed in this state.")]


@dlq_app.command(name="list")
def list_(
    *,
    error_class: Class = None,
    model: Model = None,
    older_than: Older = None,
    state: FailedIn = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="At most so many, the newest.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List dead letters, newest first; with --json one object a line."""
    from saga.cli.dlq_choice import Choice  # noqa: PLC0415 - commands load what they need
    from saga.cli.dlq_report import list_letters  # noqa: PLC0415

    choice = Choice.of(
        error_class=error_class, model=model, older_than=older_than, state=state, all_=True
    )
    list_letters(choice, limit, as_json=as_json)


@dlq_app.command()
def show(
    name: Annotated[
        str, typer.Argument(help="Saga id, model id, id or number as `saga dlq list` shows.")
    ],
    *,
    ask: Annotated[bool, typer.Option("--ask", help="Ask the chain what a replay would do.")] = (
        False
    ),
    as_json: Json = False,
) -> None:
    """Show one dead letter whole, its saga, and what a replay would do."""
    from saga.cli.dlq_report import show_letter  # noqa: PLC0415

    show_letter(name, ask=ask, as_json=as_json)


@dlq_app.command()
def replay(
    ids: Ids = None,
    *,
    all_: All = False,
    error_class: Class = None,
    model: Model = None,
    older_than: Older = None,
    state: FailedIn = None,
    execute: Execute = False,
    as_json: Json = False,
) -> None:
    """Put dead letters back to work, oldest first: sagas from the step they failed in, messages
    of others on the inbound list."""
    from saga.cli.dlq_act import replay_letters  # noqa: PLC0415
    from saga.cli.dlq_choice import Choice  # noqa: PLC0415

    choice = Choice.of(
        ids,
        error_class=error_class,
        model=model,
        older_than=older_than,
        state=state,
        all_=all_,
    )
    replay_letters(choice, execute=execute, as_json=as_json)


@dlq_app.command()
def discard(
    ids: Ids = None,
    *,
    reason: Annotated[str, typer.Option("--reason", help="Why, for the saga's history.")],
    all_: All = False,
    error_class: Class = None,
    model: Model = None,
    older_than: Older = None,
    state: FailedIn = None,
    execute: Execute = False,
    as_json: Json = False,
) -> None:
    """Give dead letters up: their sagas stay as they are and come back by their ids alone."""
    from saga.cli.dlq_act import discard_letters  # noqa: PLC0415
    from saga.cli.dlq_choice import Choice  # noqa: PLC0415

    choice = Choice.of(
        ids,
        error_class=error_class,
        model=model,
        older_than=older_than,
        state=state,
        all_=all_,
    )
    discard_letters(choice, reason, execute=execute, as_json=as_json)
