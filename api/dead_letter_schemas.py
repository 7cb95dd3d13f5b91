"""Dead-letter schemas: which dead letters a request means, and one as a list shows it.

A query string is text, so its numbers are read from text; a body's types are strict, as everywhere.
What bulk work means must be said: a filter, or `all`. Lists hold no prompts and no outputs.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from werkzeug.datastructures import MultiDict

from api.problems import FieldError, Invalid
from api.query import read
from api.schemas import problem_of
from scheduler.dead_letter_pages import BadCursor, Cursor, DeadLetter, Filter

MOST_PER_PAGE = 200

Text = Annotated[str, Field(min_length=1)]
Age = Annotated[float, Field(ge=0)]


class _Wanted(BaseModel):
    """A filter, and the place to go on from."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    queue: Text | None = None
    tier: Text | None = None
    cause: Text | None = None
    older_than_s: Age | None = None
    newer_than_s: Age | None = None
    cursor: Text | None = None

    @classmethod
    def from_query(cls, query: MultiDict[str, str], queues: Iterable[str]) -> Self:
        """Return what the query string means; Invalid names every parameter that is wrong."""
        wanted = read(cls, query)
        wanted.check(queues)
        return wanted

    def check(self, queues: Iterable[str]) -> None:
        """Raise Invalid for a queue that is not in the table."""
        known = list(queues)
        if self.queue not in (None, *known):
            text = f"there is no such queue; use one of {', '.join(known)}"
            raise Invalid([_fault("queue", text)])

    def filter(self) -> Filter:
        """Return the filter."""
        return Filter(self.queue, self.tier, self.cause, self.older_than_s, self.newer_than_s)

    def place(self) -> Cursor | None:
        """Return the place to go on from."""
        try:
            return Cursor.parse(self.cursor) if self.cursor else None
        except BadCursor as error:
            raise bad_cursor(error) from None


class DeadLetterQuery(_Wanted):
    """The query of GET /v1/dead-letters."""

    limit: Annotated[int, Field(ge=1, le=MOST_PER_PAGE)] = 50


class _Bulk(_Wanted):
    """What is to be done to many."""

    all: bool = False
    dry_run: bool = False

    def check(self, queues: Iterable[str]) -> None:
        """Raise Invalid also where everything is meant and `all` does not say so."""
        super().check(queues)
        if self.filter() == Filter() and not (self.all or self.dry_run):
            raise Invalid([_fault("all", "give a filter, or all=true to mean every dead letter")])


class DeadLetterPurge(_Bulk):
    """The query of DELETE /v1/dead-letters."""


class DeadLetterReplay(_Bulk):
    """The body of POST /v1/dead-letters/replay."""

    @classmethod
    def parse(cls, body: bytes, queues: Iterable[str]) -> Self:
        """Return what `body` means; MalformedJson or Invalid if it means nothing."""
        try:
            wanted = cls.model_validate_json(body, strict=True)
        except ValidationError as error:
            raise problem_of(error) from None
        wanted.check(queues)
        return wanted


class DeadLetterBody(BaseModel):
    """A dead letter in a list."""

    id: str
    object: Literal["dead_letter"] = "dead_letter"
    tier: str | None
    queue: str
    cause: str
    message: str
    ended_at: datetime | None
    attempts: int
    worker_deaths: int
    url: str

    @classmethod
    def of(cls, letter: DeadLetter) -> Self:
        """Return the body for `letter`."""
        return cls(
            id=letter.id,
            tier=letter.tier,
            queue=letter.queue,
            cause=letter.cause,
            message=letter.message,
            ended_at=letter.ended_at,
            attempts=letter.attempts,
            worker_deaths=letter.worker_deaths,
            url=f"/v1/dead-letters/{letter.id}",
        )


class DeadLetterList(BaseModel):
    """A page of dead letters, newest first in each queue; it may be empty and not the last."""

    object: Literal["list"]
    data: list[DeadLetterBody]
    next_cursor: str | None = Field(description="null at the end")


class _Tally(BaseModel):
    """How many dead letters were looked at and were meant, and where the next request goes on."""

    dry_run: bool
    scanned: int
    matched: int
    next_cursor: str | None = Field(description="null at the end")


class Replayed(_Tally):
    """What became of a replay of many."""

    replayed: int


class Purged(_Tally):
    """What became of a purge of many."""

    purged: int


def bad_cursor(error: BadCursor) -> Invalid:
    """Return the problem that a cursor is."""
    return Invalid([_fault("cursor", str(error))])


def _fault(field: str, message: str) -> FieldError:
    return {"field": field, "message": message}
