"""Job pages: a tenant's jobs, latest first, read in steps of bounded work.

Every submission puts its job into the list of its tenant, in the transaction that queues it; a job
that plain RQ enqueued is in none. The score is the instant of the submission, so a cursor is a
place in time, valid whatever comes or goes. A step is one script call over STEP entries, a page
looks at MOST_SCANNED of them at most and may be empty and not the last. Ids whose record has
expired leave the list when a step meets them, or when `maintenance` does (`trim`).

    slalom:jobs:{tenant}   zset   job id -> created_at (epoch s)     written by submit
    slalom:listed          set    tenants that have such a list      written by submit
"""

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import isfinite
from typing import Any, Self, cast

from redis import Redis
from redis.client import Pipeline
from rq.job import Job, JobStatus
from rq.utils import str_to_date

from scheduler import keys
from scheduler.dead_letter_pages import MOST_MESSAGE, BadCursor, cause_of, read_meta
from scheduler.deadlines import Deadlines
from scheduler.jobs import EXPIRED, FIRST_TOKEN_AT, STATUS, Failure, Status

STEP = 200
"""Entries of one script call; Redis serves nobody else meanwhile."""
MOST_SCANNED = 5_000
TRIM_STEP = 500


@dataclass(frozen=True, slots=True)
class Cursor:
    """The place behind an entry; `score` as Redis writes it, no `job_id`: all of that score."""

    score: str = "+inf"
    job_id: str = ""

    def __str__(self) -> str:
        """Return the cursor as callers carry it."""
        text = json.dumps([self.score, self.job_id])
        return urlsafe_b64encode(text.encode()).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the cursor; BadCursor if `text` is none."""
        try:
            score, job_id = json.loads(urlsafe_b64decode(text + "=" * (-len(text) % 4)))
            if not (isinstance(score, str) and isinstance(job_id, str) and isfinite(float(score))):
                raise BadCursor(text)
            job_id.encode()
        except (ValueError, TypeError, RecursionError) as error:
            raise BadCursor("take the cursor from the page before, unchanged") from error
        return cls(repr(float(score)), job_id)

    def is_before(self, score: str, job_id: str) -> bool:
        """Whether an entry stands behind this place."""
        own, other = float(self.score), float(score)
        is_of_the_same = own == other and bool(self.job_id)
        return own > other or (is_of_the_same and self.job_id.encode() > job_id.encode())


@dataclass(frozen=True, slots=True)
class JobSummary:
    """A job in a list: neither its prompt nor its output."""

    id: str
    status: Status
    tier: str | None
    queue: str
    created_at: datetime
    queued_at: datetime | None
    started_at: datetime | None
    first_token_at: datetime | None
    finished_at: datetime | None
    deadlines: Deadlines
    failure: Failure | None
    metadata: dict[str, str]


@dataclass(frozen=True, slots=True)
class Filter:
    """Which jobs are meant; None: any."""

    status: Status | None = None
    tier: str | None = None
    queue: str | None = None
    metadata: tuple[str, str] | None = None
    created_after: float | None = None
    """Epoch s, itself included."""
    created_before: float | None = None

    def matches(self, job: JobSummary) -> bool:
        """Whether `job` is meant, but for when it was created."""
        wanted = [(self.status, job.status), (self.tier, job.tier), (self.queue, job.queue)]
        has_pair = self.metadata is None or self.metadata in job.metadata.items()
        return has_pair and all(want in (None, has) for want, has in wanted)


@dataclass(frozen=True, slots=True)
class Page:
    """Jobs, and where to go on: None at the end."""

    jobs: list[JobSummary] = field(default_factory=list)
    cursor: Cursor | None = None


def enlist(pipeline: Pipeline, job: Job, tenant: str) -> None:
    """Add to the transaction that queues a job what puts it into the list of its tenant."""
    created_at = job.created_at.replace(tzinfo=job.created_at.tzinfo or UTC).timestamp()
    pipeline.zadd(keys.jobs(tenant), {job.id: created_at})
    pipeline.sadd(keys.LISTED, tenant)


def read_page(
    connection: Redis, tenant: str, wanted: Filter, *, cursor: Cursor | None, limit: int
) -> Page:
    """Return up to `limit` of the wanted jobs that stand behind `cursor`."""
    page = Page()
    entries = _entries(connection, tenant, _start(wanted, cursor))
    for scanned, (place, job) in enumerate(entries, 1):
        if wanted.created_after is not None and float(place.score) < wanted.created_after:
            return page
        if job and wanted.matches(job):
            page.jobs.append(job)
        if len(page.jobs) == limit or scanned == MOST_SCANNED:
            return Page(page.jobs, place)
    return page


def trim(connection: Redis, tenant: str, cursor: int) -> int:
    """Drop vanished jobs from a stretch of the list; return the next one's cursor, 0 at the end."""
    script = keys.script(connection, "trim_jobs")
    return int(script(keys=[keys.jobs(tenant), keys.LISTED], args=[cursor, TRIM_STEP, tenant]))


def _start(wanted: Filter, cursor: Cursor | None) -> Cursor:
    """Return the place to begin at: the one that leaves less."""
    begin = Cursor() if wanted.created_before is None else Cursor(repr(wanted.created_before))
    return cursor if cursor and float(cursor.score) <= float(begin.score) else begin


def _entries(
    connection: Redis, tenant: str, place: Cursor
) -> Iterator[tuple[Cursor, JobSummary | None]]:
    """Yield each entry with its place; None where its record is gone or damaged."""
    script = keys.script(connection, "list_jobs")
    while True:
        reply = script(keys=[keys.jobs(tenant)], args=[STEP, place.score, place.job_id])
        entries = cast(list[list[Any]], reply)
        start = place
        for entry in entries:
            job_id, score = entry[0].decode(), entry[1].decode()
            place = Cursor(score, job_id)
            if start.is_before(score, job_id):
                yield place, _summary(job_id, entry)
        if len(entries) < STEP:
            return


def _summary(job_id: str, entry: list[Any]) -> JobSummary | None:
    """Return the job; None for a record that Slalom did not write."""
    try:
        return _read(job_id, *entry[2:]) if len(entry) > 2 else None
    except (ValueError, LookupError, TypeError, AttributeError):
        return None


def _read(
    job_id: str,
    status: bytes,
    queue: bytes,
    meta: bytes | None,
    created_at: bytes,
    queued_at: bytes | None,
    started_at: bytes | None,
    ended_at: bytes | None,
    start_by: bytes | None,
    finish_by: bytes | None,
    text: bytes | None,
) -> JobSummary:
    known = read_meta(meta) or {}
    first_token_at = known.get(FIRST_TOKEN_AT)
    word = STATUS[JobStatus(status.decode())]
    failure = _shortened(cause_of(known, text)) if word == "failed" else None
    return JobSummary(
        id=job_id,
        status="expired" if failure and failure["code"] == EXPIRED else word,
        tier=known.get("tier"),
        queue=queue.decode(),
        created_at=str_to_date(created_at),
        queued_at=_instant(queued_at),
        started_at=_instant(started_at),
        first_token_at=datetime.fromisoformat(first_token_at) if first_token_at else None,
        finished_at=_instant(ended_at),
        deadlines=Deadlines.read({"start_by": start_by, "finish_by": finish_by}),
        failure=failure,
        metadata=known.get("metadata") or {},
    )


def _shortened(failure: Failure) -> Failure:
    return Failure(code=failure["code"], message=failure["message"][:MOST_MESSAGE])


def _instant(text: bytes | None) -> datetime | None:
    return str_to_date(text) if text else None
