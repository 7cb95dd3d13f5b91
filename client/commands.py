"""Commands: the program `slalom`, put together."""

from typing import Annotated

import typer

from client import dead_letters, jobs, operations, submit, tenants, wait
from client.command import EXIT_STATUS

app = typer.Typer(
    name="slalom",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"slalom {operations.installed_version()}")
        raise typer.Exit


@app.callback(epilog=EXIT_STATUS)
def slalom(
    _version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version."),
    ] = False,
) -> None:
    """Submit jobs to Slalom, wait for them, watch them, and look after the queues.

    The server is found by SLALOM_URL, and asked with the key in SLALOM_API_KEY.
    """


submit.add_to(app)
wait.add_to(app)
jobs.add_to(app)
operations.add_to(app)
app.add_typer(dead_letters.app, name="dead-letters")
tenants.add_to(app)
