"""Wait and watch: until jobs have ended, for their outcome or with every token on the way."""

from collections.abc import AsyncIterable
from typing import Annotated

import typer

from client import given, tables
from client.command import Session, Subject, command
from client.failure import DONE, JOB_FAILED, Json, Refused
from client.following import Seen, follow
from client.ordered import ordered
from client.server import job_path

AT_ONCE = 8
"""Jobs followed at the same time; the others are asked about when their turn comes."""

Ids = Annotated[
    list[str],
    typer.Argument(metavar="ID", help="Ids of jobs; - reads them from standard input."),
]


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module."""
    command(app, "wait")(wait)
    command(app, "watch")(watch)


async def wait(session: Session, ids: Ids) -> int:
    """Wait until jobs have ended, and tell what became of each, in the order given.

    Ctrl-C ends the waiting, not the jobs.
    """
    total = None if given.STDIN in ids else len(ids)
    jobs = (({"id": job_id}, job_id) async for job_id in all_of(session, ids))
    return await tell(session, jobs, total=total)


async def watch(
    session: Session, job_id: Annotated[str, typer.Argument(metavar="ID", help="Id of a job.")]
) -> int:
    """Show the output of a job as it comes, if it was submitted with --stream, else at its end.

    Ctrl-C ends the watching, not the job.
    """
    return await live(session, job_id)


async def all_of(session: Session, ids: list[str]) -> AsyncIterable[str]:
    """Yield the ids on the command line, and those on standard input where it says `-`."""
    for job_id in ids:
        if job_id != given.STDIN:
            yield job_id
            continue
        async for word in given.words(given.STDIN, session.terminal.note):
            yield word


async def tell(
    session: Session, jobs: AsyncIterable[tuple[Subject, str]], *, total: int | None
) -> int:
    """Wait for jobs and write what became of each; return the exit status."""

    async def outcome(job: tuple[Subject, str]) -> tuple[Subject, Json | Refused]:
        subject, job_id = job
        try:
            return subject, await session.ended(job_id)
        except Refused as refused:
            return subject, refused
        finally:
            advance(1)

    status = DONE
    with session.terminal.progress("waiting", total) as advance:
        async for subject, found in ordered(jobs, outcome, at_once=AT_ONCE):
            status = max(status, _told(session, subject, found))
    return status


def _told(session: Session, subject: Subject, found: Json | Refused) -> int:
    """Write what became of a job; return the exit status that it stands for."""
    if isinstance(found, Refused):
        return session.refused(found, subject)
    if session.terminal.as_json and "line" in subject:
        session.terminal.json({**subject, "job": found})
    else:
        session.terminal.show(found, tables.outcome)
    return DONE if found.get("status") == "succeeded" else JOB_FAILED


async def live(session: Session, job_id: str) -> int:
    """Write the output of a job as it comes, and how it ended; return the exit status."""
    shown = Shown()
    with session.awaiting(job_id):
        async for seen in follow(session.server, job_id):
            if session.terminal.as_json:
                session.terminal.json({"event": seen.event, "id": seen.id, "data": seen.data})
            else:
                session.terminal.text(shown.more(seen))
        job = await session.server.get(job_path(job_id))
    if session.terminal.as_json:
        session.terminal.json({"event": "job", "id": "", "data": job})
    else:
        session.terminal.text(shown.rest(tables.answer(job)))
    return ended_as(session, job)


def ended_as(session: Session, job: Json) -> int:
    """Return the exit status that a job that has ended stands for; tell of one that failed."""
    if job.get("status") == "succeeded":
        return DONE
    why = tables.error_of(job)
    session.terminal.note(f"job {job.get('id')} {job.get('status')}" + (f": {why}" if why else ""))
    return JOB_FAILED


class Shown:
    """What has been written of a job's output, which begins anew with each of its runs."""

    def __init__(self) -> None:
        self._shown = ""
        self._text = ""
        self._attempt = ""

    def more(self, seen: Seen) -> str:
        """Return what an event adds to what is written."""
        if seen.event != "chunk":
            return ""
        if seen.attempt != self._attempt:
            self._attempt, self._text = seen.attempt, ""
        self._text += seen.text
        return self._up_to(self._text)

    def rest(self, answer: str) -> str:
        """Return what is missing of the whole answer, and the end of its last line."""
        missing = self._up_to(answer)
        return missing if not self._shown or self._shown.endswith("\n") else f"{missing}\n"

    def _up_to(self, text: str) -> str:
        """Return what leads from what is written to `text`; all of it, if it is another."""
        if self._shown.startswith(text):
            return ""
        is_more = text.startswith(self._shown)
        more = text[len(self._shown) :] if is_more else f"\n{text}"
        self._shown = text
        return more
