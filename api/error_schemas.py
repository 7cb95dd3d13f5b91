"""Error schemas: the bodies that `api.problems` writes, as the document describes them."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


def _left_out(says: str) -> Any:
    """Return the field of a member that is only there where it says something."""
    return Field(None, description=says, exclude_if=lambda value: value is None)


class OpenAIError(BaseModel):
    """An error as OpenAI's SDKs read it."""

    model_config = ConfigDict(extra="allow")

    message: str
    type: str = Field(examples=["invalid_request_error", "rate_limit_error", "server_error"])
    param: str | None
    code: str | None


class FieldErrorBody(BaseModel):
    """What is wrong with one field of a request."""

    field: str
    message: str


class ProblemBody(BaseModel):
    """A problem of RFC 9457; some kinds have members more. Nothing of the request is repeated."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(examples=["urn:problem-type:slalom:invalid_request"])
    title: str
    status: int
    detail: str = Field(description="what happened, and what to do")
    instance: str | None = _left_out("where to look at the job that may have been accepted")
    errors: list[FieldErrorBody] | None = _left_out("what is wrong, field by field")
    error: OpenAIError


class OpenAIErrorBody(BaseModel):
    """The body of an error on OpenAI's routes."""

    error: OpenAIError
