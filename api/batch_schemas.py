"""Batch schemas: what the routes of batches take and answer, as OpenAI has it.

`service_tier` is ours: which tier serves the lines that name none, `flex` if it is left out.
"""

import re
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from api.schemas import MetadataKey, MetadataValue, problem_of
from scheduler.batch_record import Batch, BatchFault, Status, Usage

Endpoint = Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"]

MAX_WINDOW_S = 30 * 86_400
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_WINDOW = re.compile(r"^([1-9][0-9]{0,6})([smhd])$")


class ExpiresAfter(BaseModel):
    """How long the result files are kept after they were made."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=3600, le=30 * 86_400)]


class BatchRequest(BaseModel):
    """The body of POST /v1/batches."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    input_file_id: Annotated[str, Field(min_length=1, max_length=80)]
    endpoint: Endpoint
    completion_window: Annotated[str, Field(json_schema_extra={"pattern": _WINDOW.pattern})]
    metadata: Annotated[dict[MetadataKey, MetadataValue], Field(max_length=16)] | None = None
    output_expires_after: ExpiresAfter | None = None
    service_tier: Annotated[str, Field(max_length=32)] | None = None

    @field_validator("completion_window")
    @classmethod
    def _window(cls, value: str) -> str:
        found = _WINDOW.fullmatch(value)
        if not found or int(found[1]) * _UNITS[found[2]] > MAX_WINDOW_S:
            raise ValueError("must be a number and s, m, h or d, such as 24h; at most 30d")
        return value

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Return the request in `body`; MalformedJson or Invalid if it is none."""
        try:
            return cls.model_validate_json(body)
        except ValidationError as error:
            raise problem_of(error) from None

    @property
    def window_s(self) -> int:
        """The completion window in seconds."""
        return int(self.completion_window[:-1]) * _UNITS[self.completion_window[-1]]


class BatchQuery(BaseModel):
    """Which batches are listed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    after: Annotated[str, Field(max_length=80)] | None = None
    limit: Annotated[int, Field(ge=1, le=100)] = 20


class BatchError(BaseModel):
    """Why a batch failed as a whole."""

    code: str
    message: str
    line: int | None
    param: str | None = None

    @classmethod
    def of(cls, fault: BatchFault) -> Self:
        """Return the body for a fault."""
        return cls(code=fault.code, message=fault.message, line=fault.line)


class BatchErrors(BaseModel):
    """All of that."""

    object: Literal["list"] = "list"
    data: list[BatchError]


class RequestCounts(BaseModel):
    """How many lines there are, and how many were answered and were not."""

    total: int
    completed: int
    failed: int


class InputTokensDetails(BaseModel):
    """Of the tokens of the prompts."""

    cached_tokens: int


class OutputTokensDetails(BaseModel):
    """Of the tokens of the answers."""

    reasoning_tokens: int


class BatchUsage(BaseModel):
    """Tokens of all answers together."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int

    @classmethod
    def of(cls, usage: Usage) -> Self:
        """Return the body for a usage."""
        return cls(
            input_tokens=usage.input_tokens,
            input_tokens_details=InputTokensDetails(cached_tokens=usage.cached_tokens),
            output_tokens=usage.output_tokens,
            output_tokens_details=OutputTokensDetails(reasoning_tokens=usage.reasoning_tokens),
            total_tokens=usage.input_tokens + usage.output_tokens,
        )


class BatchBody(BaseModel):
    """A batch; instants in epoch s, null where that has not happened."""

    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    model: str | None
    errors: BatchErrors | None
    input_file_id: str
    completion_window: str
    status: Status
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None = None
    expires_at: int
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    request_counts: RequestCounts
    usage: BatchUsage
    metadata: dict[str, str] | None
    service_tier: str | None

    @classmethod
    def of(cls, batch: Batch, service_tier: str | None) -> Self:
        """Return the body for a batch."""
        order, progress = batch.order, batch.progress
        faults = [BatchError.of(fault) for fault in progress.faults]
        instants: dict[str, Any] = {
            name: progress.instants.get(name) for name in _INSTANTS if name in cls.model_fields
        }
        has_files = batch.has_ended
        return cls(
            id=batch.id,
            endpoint=order.endpoint,
            model=progress.model,
            errors=BatchErrors(data=faults) if faults else None,
            input_file_id=order.input_file_id,
            completion_window=order.completion_window,
            status=progress.status,
            output_file_id=progress.output.file_id or None if has_files else None,
            error_file_id=progress.errors.file_id or None if has_files else None,
            created_at=order.created_at,
            expires_at=order.expires_at,
            request_counts=RequestCounts(
                total=progress.total, completed=progress.completed, failed=progress.failed
            ),
            usage=BatchUsage.of(progress.usage),
            metadata=order.metadata,
            service_tier=service_tier,
            **instants,
        )


_INSTANTS = [f"{status}_at" for status in get_args(Status)]


class BatchList(BaseModel):
    """A page of batches; the id of the last one is the cursor of the next page."""

    object: Literal["list"] = "list"
    data: list[BatchBody]
    first_id: str | None
    last_id: str | None
    has_more: bool

    @classmethod
    def of(cls, data: list[BatchBody], *, has_more: bool) -> Self:
        """Return the page."""
        first, last = (data[0].id, data[-1].id) if data else (None, None)
        return cls(data=data, first_id=first, last_id=last, has_more=has_more)
