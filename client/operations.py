"""Operations: how full the queues are, which models are served, which version this is."""

import platform
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of

import typer
from rich.text import Text

from client import tables
from client.command import Session, command


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module."""
    command(app, "queues")(queues)
    command(app, "models")(models)
    command(app, "version")(version)


async def queues(session: Session) -> None:
    """Show each queue: what waits and runs, who works on it, how long its next job has waited."""
    found = await session.server.get("/v1/queues")
    session.terminal.show(found, lambda body: tables.queues(body["data"]))


async def models(session: Session) -> None:
    """List the models that are served."""
    found = await session.server.get("/v1/models")
    if found["data"] or session.terminal.as_json:
        session.terminal.show(found, lambda body: tables.models(body["data"]))
    else:
        session.terminal.hint("no model is served: no worker runs")


async def version(session: Session) -> None:
    """Show the version of this program; asks no server."""
    body = {"slalom": installed_version(), "python": platform.python_version()}
    session.terminal.show(body, lambda shown: Text(f"slalom {shown['slalom']}"))


def installed_version() -> str:
    """Return the version of this program."""
    try:
        return version_of("slalom")
    except PackageNotFoundError:
        return "unknown"
