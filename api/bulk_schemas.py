"""Bulk schemas: a list of jobs, and what became of each.

The jobs of a list are read one by one, by the schema of a single one, so that a bad one is refused
alone; the list itself only has to be a list of the right length.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema

from api.error_schemas import ProblemBody
from api.problem_answers import body_of
from api.problems import Invalid, Problem
from api.schemas import JobBody, problem_of

_OneJob = Annotated[
    Any,
    WithJsonSchema(
        {
            "description": "a job as POST /v1/jobs takes it; what is none is refused alone",
            "anyOf": [{"$ref": "#/components/schemas/JobRequest"}, {}],
        }
    ),
]


class RequestList(BaseModel):
    """The body of POST /v1/jobs:batch."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        json_schema_extra={"examples": [{"jobs": [{"prompt": "1+1="}, {"prompt": "2+2="}]}]},
    )

    jobs: Annotated[list[_OneJob], Field(min_length=1)]

    @classmethod
    def parse(cls, body: bytes, *, most: int) -> Self:
        """Return the list in `body`; MalformedJson or Invalid if it is none."""
        try:
            wanted = cls.model_validate_json(body)
        except ValidationError as error:
            raise problem_of(error) from None
        if len(wanted.jobs) > most:
            text = f"has {len(wanted.jobs)} jobs: send {most} at most in one request"
            raise Invalid([{"field": "jobs", "message": text}])
        return wanted


class AcceptedJob(BaseModel):
    """A job that was queued."""

    status: Literal[202] = 202
    job: JobBody


class RefusedJob(BaseModel):
    """A job that was not: `status` and `error` are what POST /v1/jobs would have answered."""

    status: Annotated[int, Field(ge=400)]
    error: ProblemBody


class Counts(BaseModel):
    """How many jobs the list had, and what became of them."""

    total: int
    accepted: int
    refused: int


class Outcomes(BaseModel):
    """What became of each job, in the order of the request."""

    object: Literal["job_batch"] = "job_batch"
    items: list[AcceptedJob | RefusedJob]
    counts: Counts

    @classmethod
    def of(cls, outcomes: Sequence[JobBody | Problem]) -> Self:
        """Return the body for `outcomes`."""
        items = [_item(outcome) for outcome in outcomes]
        accepted = sum(isinstance(item, AcceptedJob) for item in items)
        counts = Counts(total=len(items), accepted=accepted, refused=len(items) - accepted)
        return cls(items=items, counts=counts)


def _item(outcome: JobBody | Problem) -> AcceptedJob | RefusedJob:
    if isinstance(outcome, JobBody):
        return AcceptedJob(job=outcome)
    error = ProblemBody.model_validate(body_of(outcome))
    return RefusedJob(status=outcome.status, error=error)
