"""Dead letters: failed jobs, for the person who looks after them, through the API."""

from typing import Annotated, Any

import typer
from rich.text import Text

from client import jobs, tables
from client.command import Session, command
from client.failure import DONE, Json, Misused, Refused
from client.ordered import each, ordered
from client.pages import write_list
from client.server import segment
from client.times import seconds

PATH = "/v1/dead-letters"
AT_ONCE = 8

app = typer.Typer(
    no_args_is_help=True, help="List, show, replay or purge jobs that failed for good."
)

Id = Annotated[str, typer.Argument(metavar="ID", help="Id of the job.")]
Ids = Annotated[
    list[str] | None,
    typer.Argument(metavar="ID", help="Ids of jobs; none: those that the options mean."),
]
Queue = Annotated[str | None, typer.Option(metavar="QUEUE", help="Only those of a queue.")]
Tier = Annotated[str | None, typer.Option(metavar="TIER", help="Only those of a tier.")]
Cause = Annotated[
    str | None, typer.Option(metavar="CAUSE", help="Only those that failed so: worker_died, ...")
]
OlderThan = Annotated[
    str | None, typer.Option(metavar="AGE", help="Ended at least so long ago: 90, 15m, 2h, 7d.")
]
NewerThan = Annotated[str | None, typer.Option(metavar="AGE", help="Ended since: 90, 15m, 2h, 7d.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only count them.")]
Everything = Annotated[bool, typer.Option("--all", help="All; needed where nothing else is said.")]


async def list_letters(
    session: Session,
    queue: Queue = None,
    tier: Tier = None,
    cause: Cause = None,
    older_than: OlderThan = None,
    newer_than: NewerThan = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="How many at most.")] = 50,
    everything: Annotated[bool, typer.Option("--all", help="All there are.")] = False,
    cursor: Annotated[
        str | None, typer.Option(metavar="CURSOR", help="Go on behind an earlier list.")
    ] = None,
) -> None:
    """List dead letters, newest first in each queue."""
    wanted = _filter(queue, tier, cause, older_than, newer_than) | {"cursor": cursor}
    await write_list(session, PATH, wanted, None if everything else limit, tables.dead_letters)


async def show(session: Session, job_id: Id) -> None:
    """Show a dead letter, whole."""
    jobs.write(session.terminal, await session.server.get(_path(job_id)))


async def replay(
    session: Session,
    ids: Ids = None,
    queue: Queue = None,
    tier: Tier = None,
    cause: Cause = None,
    older_than: OlderThan = None,
    newer_than: NewerThan = None,
    dry_run: DryRun = False,
    everything: Everything = False,
) -> int:
    """Put dead letters back into their queues, by id or all that the options mean."""
    wanted = _filter(queue, tier, cause, older_than, newer_than)
    _check("replay", ids, wanted, dry_run=dry_run, everything=everything)
    if ids:
        return await _one_by_one(session, ids, "replay")
    await _many(session, "replayed", wanted, dry_run=dry_run, everything=everything)
    return DONE


async def purge(
    session: Session,
    ids: Ids = None,
    queue: Queue = None,
    tier: Tier = None,
    cause: Cause = None,
    older_than: OlderThan = None,
    newer_than: NewerThan = None,
    dry_run: DryRun = False,
    everything: Everything = False,
) -> int:
    """Delete dead letters for good, by id or all that the options mean."""
    wanted = _filter(queue, tier, cause, older_than, newer_than)
    _check("purge", ids, wanted, dry_run=dry_run, everything=everything)
    if ids:
        return await _one_by_one(session, ids, "purge")
    await _many(session, "purged", wanted, dry_run=dry_run, everything=everything)
    return DONE


command(app, "list")(list_letters)
command(app, "show")(show)
command(app, "replay")(replay)
command(app, "purge")(purge)


async def _one_by_one(session: Session, ids: list[str], verb: str) -> int:
    """Replay or purge by id; return the exit status."""

    async def outcome(job_id: str) -> tuple[str, Json | Refused]:
        try:
            if verb == "replay":
                return job_id, await session.server.post(f"{_path(job_id)}/replay", {})
            await session.server.delete(_path(job_id))
        except Refused as refused:
            return job_id, refused
        return job_id, {"id": job_id, "status": "purged"}

    status = DONE
    async for job_id, found in ordered(each(ids), outcome, at_once=AT_ONCE):
        if isinstance(found, Refused):
            status = session.refused(found, {"id": job_id})
        else:
            session.terminal.show(found, tables.outcome)
    return status


async def _many(
    session: Session, done: str, wanted: Json, *, dry_run: bool, everything: bool
) -> None:
    """Replay or purge all that are meant, some thousands per request; write the sums."""
    sums = {"scanned": 0, "matched": 0, done: 0}
    asked = wanted | {"dry_run": dry_run, "all": everything}
    with session.terminal.progress(done, None) as advance:
        while True:
            step = await _step(session, done, asked)
            for name in sums:
                sums[name] += int(step[name])
            advance(int(step["matched"]))
            if not step.get("next_cursor"):
                break
            asked["cursor"] = step["next_cursor"]
    session.terminal.show({"dry_run": dry_run, **sums}, _sums)


async def _step(session: Session, done: str, asked: Json) -> Json:
    given = {name: value for name, value in asked.items() if value is not None}
    if done == "replayed":
        return await session.server.post(f"{PATH}/replay", given)
    return await session.server.delete(PATH, **given)


def _sums(body: Json) -> Text:
    return Text(", ".join(f"{body[name]} {name}" for name in body if name != "dry_run"))


def _path(job_id: str) -> str:
    return f"{PATH}/{segment(job_id)}"


def _filter(
    queue: str | None,
    tier: str | None,
    cause: str | None,
    older_than: str | None,
    newer_than: str | None,
) -> dict[str, Any]:
    """Return the filter as the API takes it."""
    return {
        "queue": queue,
        "tier": tier,
        "cause": cause,
        "older_than_s": seconds("--older-than", older_than),
        "newer_than_s": seconds("--newer-than", newer_than),
    }


def _check(
    verb: str, ids: list[str] | None, wanted: Json, *, dry_run: bool, everything: bool
) -> None:
    """Raise Misused where the arguments contradict each other, or mean nothing."""
    is_filtered = any(value is not None for value in wanted.values())
    if ids and (is_filtered or everything or dry_run):
        raise Misused("give ids, or options that mean some; not both")
    if not (ids or is_filtered or everything or dry_run):
        raise Misused(f"{verb} what? Give ids, options that mean some, or --all")
