"""OpenAI schemas: what the door reads of OpenAI's requests, and what it adds to their answers.

Any other field is allowed and goes on as it came: vLLM knows what it may be.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from api.problems import (
    BodyTooLarge,
    BrokenBody,
    ContextExceeded,
    EngineRefused,
    Invalid,
    JobCanceled,
    JobExpired,
    JobFailed,
    LimitReached,
    MalformedJson,
    ModelForbidden,
    ModelNotFound,
    NoRoomToWait,
    NotJson,
    OverLimit,
    Problem,
    QueueFull,
    StillRunning,
    TierForbidden,
    TooLate,
)
from api.schemas import MetadataKey, MetadataValue

MAX_N = 128
PROBLEMS: tuple[type[Problem], ...] = (
    MalformedJson,
    BrokenBody,
    BodyTooLarge,
    NotJson,
    Invalid,
    ContextExceeded,
    EngineRefused,
    TierForbidden,
    ModelForbidden,
    ModelNotFound,
    OverLimit,
    LimitReached,
    QueueFull,
    TooLate,
    JobCanceled,
    JobFailed,
    NoRoomToWait,
    StillRunning,
    JobExpired,
)
"""How a request that a job answers may end."""

Tokens = Annotated[int, Field(ge=0, description="at most what the tier allows")]


class _Open(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True, frozen=True)


class StreamOptions(_Open):
    """How a stream is told."""

    include_usage: bool | None = None


class OpenAIBody(_Open):
    """What all requests have in common."""

    model: Annotated[str, Field(min_length=1)]
    service_tier: Annotated[
        str | None, Field(description="auto, or a word of the SLA table for a tier")
    ] = None
    metadata: Annotated[dict[MetadataKey, MetadataValue], Field(max_length=16)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_N)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    max_output_tokens: Tokens | None = None


class ChatBody(OpenAIBody):
    """A conversation to be answered."""

    messages: Annotated[list[dict[str, Any]], Field(min_length=1)]


class CompletionBody(OpenAIBody):
    """A text, several, or token ids, to be completed."""

    prompt: str | list[Any] | None = None


class EmbeddingBody(OpenAIBody):
    """Texts, or token ids, to be turned into vectors."""

    input: str | list[Any] | None = None


class ResponseBody(OpenAIBody):
    """A response to be made."""

    input: Annotated[str | list[Any], Field(description="a text, or a list of items")]
    background: bool | None = None
    store: bool | None = None
    previous_response_id: str | None = None
    conversation: Annotated[None, Field(description="not kept here; use previous_response_id")] = (
        None
    )


BODIES: dict[str, type[OpenAIBody]] = {
    "/v1/chat/completions": ChatBody,
    "/v1/completions": CompletionBody,
    "/v1/embeddings": EmbeddingBody,
    "/v1/responses": ResponseBody,
}


class ResponseQuery(BaseModel):
    """How a response is looked at."""

    stream: bool = False
    starting_after: Annotated[int, Field(ge=0, lt=2**53)] | None = None


class OpenAIAnswer(BaseModel):
    """What vLLM made; `service_tier` names the tier that served."""

    model_config = ConfigDict(extra="allow")

    object: str
    model: str
    service_tier: str


class ResponseObject(OpenAIAnswer):
    """A response, as OpenAI shows it."""

    id: str
    status: Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
    background: bool
    store: bool


class DeletedResponse(BaseModel):
    """A response that is no more."""

    id: str
    object: Literal["response"]
    deleted: Literal[True]
