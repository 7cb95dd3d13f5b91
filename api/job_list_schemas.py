"""Job list schemas: which jobs a request means, and one as a list shows it.

Lists hold no prompts and no outputs; `status_url` leads to the whole job.
"""

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field
from werkzeug.datastructures import MultiDict

from api.problems import FieldError, Invalid
from api.query import read
from api.route import QueueName, TierName
from api.schemas import JobError
from config.tiers import TierTable
from scheduler.dead_letter_pages import BadCursor
from scheduler.job_pages import Cursor, Filter, JobSummary
from scheduler.jobs import Status

MOST_PER_PAGE = 200

_INSTANT = r"\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}:\d{2}(\.\d{1,6})?([Zz]|[+-]\d{2}:\d{2})"


def _instant(value: object) -> object:
    if isinstance(value, str) and not re.fullmatch(_INSTANT, value, re.ASCII):
        raise ValueError("give an instant with its zone, such as 2026-11-21T10:00:00Z")
    return value


Instant = Annotated[AwareDatetime, BeforeValidator(_instant)]


class JobQuery(BaseModel):
    """The query of GET /v1/jobs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    status: Status | None = None
    tier: TierName | None = None
    queue: QueueName | None = None
    metadata: Annotated[str, Field(pattern=r"^[^=]{1,64}=[\s\S]{0,512}$")] | None = Field(
        None, description="`key=value`: jobs with this pair in their metadata"
    )
    created_after: Instant | None = Field(None, description="jobs created then or later")
    created_before: Instant | None = Field(None, description="jobs created before")
    cursor: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="`next_cursor` of the page before"
    )
    limit: Annotated[int, Field(ge=1, le=MOST_PER_PAGE)] = 50

    @classmethod
    def from_query(cls, query: MultiDict[str, str], tiers: TierTable) -> Self:
        """Return what the query string means; Invalid names every parameter that is wrong."""
        wanted = read(cls, query)
        faults = [
            *_unknown("tier", wanted.tier, tiers.tiers),
            *_unknown("queue", wanted.queue, tiers.queues),
        ]
        if faults:
            raise Invalid(faults)
        return wanted

    def filter(self) -> Filter:
        """Return the filter."""
        key, _, value = (self.metadata or "").partition("=")
        return Filter(
            self.status,
            self.tier,
            self.queue,
            (key, value) if self.metadata else None,
            self.created_after.timestamp() if self.created_after else None,
            self.created_before.timestamp() if self.created_before else None,
        )

    def place(self) -> Cursor | None:
        """Return the place to go on from."""
        try:
            return Cursor.parse(self.cursor) if self.cursor else None
        except BadCursor as error:
            raise Invalid([{"field": "cursor", "message": str(error)}]) from None


class ListedJob(BaseModel):
    """A job in a list."""

    id: str
    object: Literal["job"] = "job"
    status: Status
    tier: str | None
    queue: str
    created_at: datetime
    queued_at: datetime | None
    started_at: datetime | None
    first_token_at: datetime | None
    finished_at: datetime | None
    deadline_at: datetime | None
    error: JobError | None
    metadata: dict[str, str]
    status_url: str

    @classmethod
    def of(cls, job: JobSummary) -> Self:
        """Return the body for `job`."""
        deadline_at = job.deadlines.deadline_at
        return cls(
            id=job.id,
            status=job.status,
            tier=job.tier,
            queue=job.queue,
            created_at=job.created_at,
            queued_at=job.queued_at,
            started_at=job.started_at,
            first_token_at=job.first_token_at,
            finished_at=job.finished_at,
            deadline_at=None if deadline_at is None else datetime.fromtimestamp(deadline_at, UTC),
            error=JobError(**job.failure) if job.failure else None,
            metadata=job.metadata,
            status_url=f"/v1/jobs/{job.id}",
        )


class JobList(BaseModel):
    """A page of jobs, latest first; it may be empty and not the last."""

    object: Literal["list"] = "list"
    data: list[ListedJob]
    next_cursor: str | None = Field(description="null at the end")


def _unknown(field: str, name: str | None, known: Iterable[str]) -> list[FieldError]:
    if name is None or name in known:
        return []
    return [{"field": field, "message": f"there is no such {field}; use one of {', '.join(known)}"}]
