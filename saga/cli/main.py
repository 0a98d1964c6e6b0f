"""The command line. Each command is a thin function; its work is in the module it imports."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from saga.cli.dlq import dlq_app
from saga.cli.republish_command import republish
from saga.errors import ConfigError, SagaError
from saga.model import State

app = typer.Typer(
    name="saga",
    help="One HokusaiToken for each model that beats its baseline, exactly once.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
contracts_app = typer.Typer(help="Contracts of development chains.", no_args_is_help=True)
app.add_typer(contracts_app, name="contracts")
chain_app = typer.Typer(
    help="The chain and the transactions that are out; no replica need run.", no_args_is_help=True
)
app.add_typer(chain_app, name="chain")
keys_app = typer.Typer(
    help="The deployer's keys: where they are, what they may do.", no_args_is_help=True
)
app.add_typer(keys_app, name="keys")
app.add_typer(dlq_app, name="dlq")

Json = Annotated[bool, typer.Option("--json", help="JSON on stdout, nothing else.")]
IdOrModel = Annotated[str, typer.Argument(help="Saga id or model id.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say what would be sent; sign and send nothing.")
]
StateOption = Annotated[State | None, typer.Option("--state", help="Only sagas in this state.")]


def cli(arguments: list[str]) -> None:
    """Run one command; errors that are the caller's or the world's are one line each."""
    try:
        app(args=arguments)
    except ConfigError as error:
        for problem in error.problems:
            sys.stderr.write(f"saga: {problem}\n")
        sys.exit(2)
    except SagaError as error:
        sys.stderr.write(f"saga: {error}\n")
        sys.exit(1)


@app.command()
def run(
    *,
    adopt_pending: Annotated[
        bool,
        typer.Option(
            "--adopt-pending",
            help="Begin behind transactions of the key that Redis does not know.",
        ),
    ] = False,
    abandon_key: Annotated[
        list[str] | None,
        typer.Option(
            "--abandon-key",
            help="Address of a former key that is lost: start although it has transactions out.",
        ),
    ] = None,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Refuse to start when Redis or the nodes are away.")
    ] = False,
) -> None:
    """Run the orchestrator until SIGTERM; then finish or release what is in hand."""
    from saga.cli.run import run_orchestrator  # noqa: PLC0415 - commands load what they need

    run_orchestrator(adopt_pending=adopt_pending, abandoned=abandon_key or [], wait=not no_wait)


@app.command()
def pause(
    *,
    reason: Annotated[str, typer.Option("--reason", help="Why: shown wherever it matters.")] = "",
    as_json: Json = False,
) -> None:
    """Take no new messages, in any replica, until `saga resume-intake`. Sagas under way go on to
    their end; messages wait on the inbound list."""
    from saga.cli.pause import pause_intake  # noqa: PLC0415

    pause_intake(reason, as_json=as_json)


@app.command(name="resume-intake")
def resume_intake(*, as_json: Json = False) -> None:
    """Take new messages again after `saga pause`."""
    from saga.cli.pause import resume_intake  # noqa: PLC0415

    resume_intake(as_json=as_json)


@app.command()
def send(
    files: Annotated[
        list[Path], typer.Argument(help="Message files; - reads one from stdin.", allow_dash=True)
    ],
) -> None:
    """Put messages on the inbound list, as they are; a .jsonl file is one message a line."""
    from saga.cli.send import send_files  # noqa: PLC0415

    send_files(files)


@app.command(name="list")
def list_(*, state: StateOption = None, as_json: Json = False) -> None:
    """List sagas, oldest first; with --json one object a line."""
    from saga.cli.show import list_sagas  # noqa: PLC0415

    list_sagas(state, as_json=as_json)


@app.command()
def show(id_or_model: IdOrModel, *, as_json: Json = False) -> None:
    """Show one saga: state, reason, addresses, transactions, history."""
    from saga.cli.show import show_saga  # noqa: PLC0415

    show_saga(id_or_model, as_json=as_json)


@app.command()
def stats(*, as_json: Json = False) -> None:
    """Sagas by state, the depth of the lists, and what deployments have cost in all."""
    from saga.cli.stats import show_stats  # noqa: PLC0415

    show_stats(as_json=as_json)


@app.command()
def resume(
    ids: Annotated[list[str] | None, typer.Argument(help="Saga ids or model ids.")] = None,
    *,
    all_: Annotated[bool, typer.Option("--all", help="All dead-lettered sagas.")] = False,
    state: Annotated[State | None, typer.Option("--state", help="All sagas in this state.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Ask the chain and say what would be done.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Put dead-lettered or waiting sagas back to work, from the step they failed in."""
    from saga.cli.resume import resume_sagas  # noqa: PLC0415

    resume_sagas(ids or [], all_=all_, state=state, dry_run=dry_run, as_json=as_json)


app.command()(republish)


@chain_app.command()
def status(
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Changes nothing here: the command only reads.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Endpoints, head, fees, limits, and the lane of the configured key: what is out, and holes."""
    from saga.cli.chain_status import chain_status  # noqa: PLC0415

    chain_status(as_json=as_json)


@chain_app.command()
def bump(id_or_model: IdOrModel, *, dry_run: DryRun = False, as_json: Json = False) -> None:
    """Replace what is out of a saga by the same transactions with higher fees."""
    from saga.cli.chain import bump_saga  # noqa: PLC0415

    bump_saga(id_or_model, dry_run=dry_run, as_json=as_json)


@chain_app.command()
def cancel(
    id_or_model: IdOrModel,
    *,
    dry_run: DryRun = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Replace what is out of a saga by self-sends: it ends as cancelled and can be resumed."""
    from saga.cli.chain import cancel_saga  # noqa: PLC0415

    cancel_saga(id_or_model, dry_run=dry_run, as_json=as_json, yes=yes)


@keys_app.command(name="new-keystore")
def new_keystore(
    path: Annotated[Path, typer.Argument(help="File to write; never one that exists.")],
    *,
    password_file: Annotated[
        Path | None,
        typer.Option(
            "--password-file",
            help="File with the password; else DEPLOYER_KEYSTORE_PASSWORD_FILE, else asked for.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a random key in an encrypted file; neither Redis nor a node is needed."""
    from saga.cli.keystore import new_keystore  # noqa: PLC0415

    new_keystore(path, password_file, as_json=as_json)


@keys_app.command(name="show")
def keys_show(*, as_json: Json = False) -> None:
    """Address, kind, balance, nonces, roles, lanes of each key; and what former keys have out."""
    from saga.cli.keys import show_keys  # noqa: PLC0415

    if not show_keys(as_json=as_json):
        raise typer.Exit(1)


@keys_app.command(name="check")
def keys_check(*, as_json: Json = False) -> None:
    """Sign a test transaction with each key and compare its address with the pin; send nothing."""
    from saga.cli.keys_check import check_keys  # noqa: PLC0415

    if not check_keys(as_json=as_json):
        raise typer.Exit(1)


@keys_app.command(name="rotate")
def keys_rotate(
    *,
    to: Annotated[str, typer.Option("--to", help="The new address; the old one itself: undo.")],
    sender: Annotated[
        str | None,
        typer.Option("--from", help="The old address, where its key cannot be opened."),
    ] = None,
    wait: Annotated[
        float, typer.Option("--wait", min=0, help="Seconds until nothing may be outstanding.")
    ] = 600.0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done; change nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Drain the key's lane, prove that nothing of it is outstanding, hand over to another key."""
    from saga.cli.keys_rotate import rotate_keys  # noqa: PLC0415

    rotate_keys(to, sender=sender, wait=wait, dry_run=dry_run, as_json=as_json)


@contracts_app.command()
def deploy(
    *,
    i_know: Annotated[
        bool, typer.Option("--i-know", help="Allow chain ids 1 and 137, with real money.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Deploy registry and manager, grant the key its roles, install the CREATE2 proxy."""
    from saga.cli.contracts import deploy_contracts  # noqa: PLC0415

    deploy_contracts(i_know=i_know, as_json=as_json)


@app.command()
def demo(
    *,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the stack up; Ctrl-C ends it.")
    ] = False,
    as_json: Json = False,
) -> None:
    """The whole job on embedded parts, with a kill -9 in the middle, then an audit."""
    from saga.cli.demo import run_demo  # noqa: PLC0415

    run_demo(keep=keep, as_json=as_json)
