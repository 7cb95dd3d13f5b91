"""Tenants: the operator's own command, `python -m scheduler.tenants`, under the name of this one.

It works on Redis and not through the API, so it needs what the server's processes have: their
settings, and a Redis that it can reach. It is run as it is, in a process of its own.
"""

import subprocess
import sys

import typer

COMMAND = [sys.executable, "-m", "scheduler.tenants"]

_PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def add_to(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command("tenants", context_settings=_PASSED_ON)(tenants)


def tenants(context: typer.Context) -> None:
    """Look after tenants and their keys; for the operator, on a machine with the server's settings.

    The same as `python -m scheduler.tenants`, whose --help tells more; works on Redis itself.
    """
    raise typer.Exit(_run([*COMMAND, *context.args]))


def _run(command: list[str]) -> int:
    """Run a program to its end; return its exit status."""
    with subprocess.Popen(command) as process:
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:  # it got the signal as well, and answers it
                continue
