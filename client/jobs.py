"""Jobs: show one, list many, cancel some."""

from typing import Annotated

import typer
from rich.text import Text

from client import tables
from client.command import Session, command
from client.failure import DONE, Json, Refused
from client.ordered import ordered
from client.pages import write_list
from client.server import job_path
from client.terminal import Terminal
from client.times import before
from client.wait import Ids, all_of

AT_ONCE = 8


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module."""
    command(app, "show")(show)
    command(app, "list")(list_jobs)
    command(app, "cancel")(cancel)


async def show(
    session: Session, job_id: Annotated[str, typer.Argument(metavar="ID", help="Id of a job.")]
) -> None:
    """Show a job, and its answer if it has one."""
    write(session.terminal, await session.server.get(job_path(job_id)))


async def list_jobs(
    session: Session,
    status: Annotated[
        str | None, typer.Option(metavar="STATUS", help="Only those that are queued, running, ...")
    ] = None,
    tier: Annotated[str | None, typer.Option(metavar="TIER", help="Only those of a tier.")] = None,
    queue: Annotated[
        str | None, typer.Option(metavar="QUEUE", help="Only those of a queue.")
    ] = None,
    metadata: Annotated[
        str | None, typer.Option(metavar="KEY=VALUE", help="Only those with this metadata.")
    ] = None,
    older_than: Annotated[
        str | None, typer.Option(metavar="AGE", help="Created so long ago: 90, 15m, 2h, 7d.")
    ] = None,
    newer_than: Annotated[
        str | None, typer.Option(metavar="AGE", help="Created since: 90, 15m, 2h, 7d.")
    ] = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="How many at most.")] = 20,
    everything: Annotated[bool, typer.Option("--all", help="All there are.")] = False,
    cursor: Annotated[
        str | None, typer.Option(metavar="CURSOR", help="Go on behind an earlier list.")
    ] = None,
) -> None:
    """List jobs, latest first."""
    wanted = {
        "status": status,
        "tier": tier,
        "queue": queue,
        "metadata": metadata,
        "created_before": before("--older-than", older_than),
        "created_after": before("--newer-than", newer_than),
        "cursor": cursor,
    }
    most = None if everything else limit
    await write_list(session, "/v1/jobs", wanted, most, tables.jobs)


async def cancel(session: Session, ids: Ids) -> int:
    """Cancel jobs: waiting ones never run, running ones are stopped."""

    async def outcome(job_id: str) -> tuple[str, Json | Refused]:
        try:
            return job_id, await session.server.delete(job_path(job_id))
        except Refused as refused:
            return job_id, refused

    status = DONE
    async for job_id, found in ordered(all_of(session, ids), outcome, at_once=AT_ONCE):
        if isinstance(found, Refused):
            status = session.refused(found, {"id": job_id})
        else:
            session.terminal.show(found, canceled)
    return status


def write(terminal: Terminal, job: Json) -> None:
    """Write what is known of a job, and its answer at the end."""
    terminal.show(job, tables.job)
    if not terminal.as_json and (answer := tables.answer(job)):
        terminal.line(f"\n{answer}")


def canceled(body: Json) -> Text:
    """Return in one line what became of a job that was to be cancelled."""
    return Text.assemble(tables.cell(body.get("id")), "  ", tables.state(body))
