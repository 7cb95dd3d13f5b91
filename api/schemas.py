"""Schemas: what comes in and what goes out.

`JobRequest` is the native form of a request; it becomes an OpenAI request, with only what was
given, at this door. Types are strict: "5" is no number. `JobBody` is a job as the API shows it.
"""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from api.order import Order
from api.problems import FieldError, Invalid, MalformedJson
from api.route import TierName, exactly_one
from config.tiers import TierTable
from scheduler.estimate import Outlook
from scheduler.jobs import JobView, Status

MAX_STOPS = 4
MAX_FIELD_NAME = 80

Temperature = Annotated[float, Field(ge=0, le=2)]
TopP = Annotated[float, Field(gt=0, le=1)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Seconds = Annotated[float, Field(gt=0, le=30 * 86_400)]
Stops = (
    Annotated[str, Field(min_length=1)]
    | Annotated[
        list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=MAX_STOPS)
    ]
)
MetadataKey = Annotated[str, Field(max_length=64)]
MetadataValue = Annotated[str, Field(max_length=512)]

_EXAMPLE: dict[str, Any] = {"examples": [{"prompt": "12+30=", "max_tokens": 8}]}
_NAME = re.compile(r"\w{1,80}|\[key\]", re.ASCII)

_OPENAI_FIELDS = {
    "model",
    "prompt",
    "messages",
    "max_tokens",
    "temperature",
    "top_p",
    "stop",
    "seed",
    "ignore_eos",
}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Message(_Strict):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str


class JobRequest(_Strict):
    """The body of POST /v1/jobs."""

    model_config = ConfigDict(json_schema_extra={**exactly_one("prompt", "messages"), **_EXAMPLE})

    prompt: Annotated[str, Field(min_length=1)] | None = None
    messages: Annotated[list[Message], Field(min_length=1)] | None = None
    tier: TierName | None = None
    fallback_tier: TierName | None = None
    model: Annotated[str, Field(min_length=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    stop: str | list[str] | None = None
    seed: Seed | None = None
    ignore_eos: bool | None = None
    stream: bool | None = None
    start_within_s: Seconds | None = None
    finish_within_s: Seconds | None = None
    metadata: Annotated[dict[MetadataKey, MetadataValue], Field(max_length=16)] | None = None

    @field_validator("stop", mode="plain", json_schema_input_type=Stops | None)
    @classmethod
    def _stops(cls, value: object) -> object:
        stops = value if isinstance(value, list) else [value]
        right = all(isinstance(stop, str) and stop for stop in stops)
        if value is not None and not (right and 1 <= len(stops) <= MAX_STOPS):
            raise ValueError(f"must be a string or 1 to {MAX_STOPS} strings, none of them empty")
        return value

    @classmethod
    def parse(cls, body: bytes, tiers: TierTable) -> Self:
        """Return the request in `body`; MalformedJson or Invalid if it is none."""
        try:
            return cls.model_validate_json(body)._checked(tiers)
        except ValidationError as error:
            raise problem_of(error) from None

    @classmethod
    def of(cls, value: object, tiers: TierTable) -> Self:
        """Return the request that a JSON value is; Invalid if it is none."""
        try:
            return cls.model_validate(value)._checked(tiers)
        except ValidationError as error:
            raise problem_of(error) from None

    def _checked(self, tiers: TierTable) -> Self:
        """Return the request itself; Invalid where it breaks what the schema cannot say."""
        if faults := [*self._faults(tiers)]:
            raise Invalid(faults)
        return self

    def _faults(self, tiers: TierTable) -> Iterator[FieldError]:
        """Yield what the schema cannot say."""
        if (self.prompt is None) == (self.messages is None):
            yield {"field": "prompt", "message": "give exactly one of prompt and messages"}
        yield from self._tier_faults(tiers, "tier", self.tier_in(tiers))
        if self.fallback_tier == self.tier_in(tiers):
            yield {"field": "fallback_tier", "message": "must be another tier than the first"}
        elif self.fallback_tier is not None:
            yield from self._tier_faults(tiers, "fallback_tier", self.fallback_tier)

    def _tier_faults(self, tiers: TierTable, field: str, name: str) -> Iterator[FieldError]:
        tier = tiers.tiers.get(name)
        if tier is None:
            known = ", ".join(tiers.tiers)
            yield {"field": field, "message": f"there is no such tier; use one of {known}"}
        elif self.max_tokens and self.max_tokens > tier.limits.max_tokens:
            most = f"must be at most {tier.limits.max_tokens} in tier {name}"
            yield {"field": "max_tokens", "message": most}

    def tier_in(self, tiers: TierTable) -> str:
        """Return the name of the tier that is asked for."""
        return tiers.default_tier if self.tier is None else self.tier

    def order(self, tiers: TierTable) -> Order:
        """Return the order: an OpenAI request with only what was given."""
        endpoint = "/v1/chat/completions" if self.messages else "/v1/completions"
        given = self.model_dump(include=_OPENAI_FIELDS, exclude_none=True)
        return Order(
            {"endpoint": endpoint, "body": given},
            self.tier_in(tiers),
            fallback_tier=self.fallback_tier,
            start_within_s=self.start_within_s,
            finish_within_s=self.finish_within_s,
            metadata=self.metadata or {},
            stream=self.stream or False,
        )


def problem_of(error: ValidationError) -> Invalid | MalformedJson:
    """Return the problem that `error` is, without the input that pydantic adds to it."""
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    if faults[0]["type"] == "json_invalid":
        return MalformedJson(faults[0]["msg"])
    return Invalid(
        [
            {"field": _field(fault["loc"]), "message": fault["msg"].removeprefix("Value error, ")}
            for fault in faults
        ]
    )


def _field(loc: tuple[str | int, ...]) -> str:
    """Return the path of a field; a name that a caller made up is repeated if it is one word."""
    names = (str(name) if _NAME.fullmatch(str(name)) else "…" for name in loc)
    return ".".join(names)[:MAX_FIELD_NAME] or "body"


class Output(BaseModel):
    """What the model wrote, in short; the whole is in `response`."""

    text: str
    finish_reason: str | None

    @classmethod
    def of(cls, response: Any) -> Self | None:
        """Return the first choice of an OpenAI response, None if it has none with text."""
        match response:
            case {"choices": [{"text": str(text)} as choice, *_]}:
                return cls(text=text, finish_reason=choice.get("finish_reason"))
            case {"choices": [{"message": {"content": str(text)}} as choice, *_]}:
                return cls(text=text, finish_reason=choice.get("finish_reason"))
        return None


class JobError(BaseModel):
    """Why a job failed; `code` never changes its meaning."""

    code: str
    message: str


class Quantiles(BaseModel):
    """Instants by which it will have happened, with probability 0.5 and 0.9."""

    p50: datetime
    p90: datetime

    @classmethod
    def of(cls, at: float, p50_s: float | None, p90_s: float | None) -> Self | None:
        """Return the instants so many seconds after `at` (epoch s)."""
        if p50_s is None or p90_s is None:
            return None
        return cls(
            p50=datetime.fromtimestamp(at + p50_s, UTC), p90=datetime.fromtimestamp(at + p90_s, UTC)
        )


class Estimate(BaseModel):
    """When a waiting job will start and finish."""

    start_at: Quantiles
    finish_at: Quantiles


class Expectation(BaseModel):
    """What may be said of a job that waits; null is what is not known."""

    position: int | None = None
    estimate: Estimate | None = None
    at_risk: bool = False

    @classmethod
    def of(cls, outlook: Outlook, *, at_risk: bool = False) -> Self:
        """Return what `outlook` says."""
        start = Quantiles.of(outlook.at, outlook.start_s(0.5), outlook.start_s(0.9))
        finish = Quantiles.of(outlook.at, outlook.finish_s(0.5), outlook.finish_s(0.9))
        estimate = Estimate(start_at=start, finish_at=finish) if start and finish else None
        return cls(position=outlook.position, estimate=estimate, at_risk=at_risk)


class JobBody(BaseModel):
    """A job as the API shows it; what has not happened is null."""

    id: str
    object: Literal["job"] = "job"
    status: Status
    stopping: bool = False
    position: int | None = None
    estimate: Estimate | None = None
    at_risk: bool = False
    tier: str | None
    queue: str
    model: str | None
    created_at: datetime
    queued_at: datetime | None
    started_at: datetime | None
    first_token_at: datetime | None
    finished_at: datetime | None
    deadline_at: datetime | None
    start_by: datetime | None
    finish_by: datetime | None
    output: Output | None
    usage: dict[str, Any] | None
    response: Any
    error: JobError | None
    metadata: dict[str, Any]
    status_url: str

    @classmethod
    def of(cls, view: JobView, expectation: Expectation, *, status_url: str) -> Self:
        """Return the body for `view`."""
        response = view.response if isinstance(view.response, dict) else {}
        body = view.request["body"] if view.request else {}
        return cls(
            id=view.id,
            status=view.status,
            tier=view.tier,
            queue=view.queue,
            model=response.get("model") or body.get("model"),
            created_at=view.created_at,
            queued_at=view.queued_at,
            started_at=view.started_at,
            first_token_at=view.first_token_at,
            finished_at=view.finished_at,
            deadline_at=_instant(view.deadlines.deadline_at),
            start_by=_instant(view.deadlines.start_by),
            finish_by=_instant(view.deadlines.finish_by),
            output=Output.of(view.response),
            usage=response.get("usage"),
            response=view.response,
            error=JobError(**view.failure) if view.failure else None,
            metadata=view.metadata,
            status_url=status_url,
            position=expectation.position,
            estimate=expectation.estimate,
            at_risk=expectation.at_risk,
        )


def _instant(at: float | None) -> datetime | None:
    return None if at is None else datetime.fromtimestamp(at, UTC)
