"""Route: what one route takes and answers, declared once, as data.

Each group of routes keeps the list of its own (`ROUTES`), beside the code that serves them;
`api.catalogue` collects the lists and `api.openapi` writes the document. Models are those that
validate requests and write answers, so the document cannot say anything else.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import BaseModel, WithJsonSchema

from api.problems import Problem

TierName = Annotated[str, WithJsonSchema({"$ref": "#/components/schemas/Tier"})]
"""The name of a tier; the document lists those of the SLA table."""

QueueName = Annotated[str, WithJsonSchema({"$ref": "#/components/schemas/Queue"})]


def exactly_one(*fields: str) -> dict[str, Any]:
    """Return what a schema says of an object that has one of these fields, and not null."""
    is_given = {"not": {"type": "null"}}
    return {"oneOf": [{"required": [name], "properties": {name: is_given}} for name in fields]}


@dataclass(frozen=True, slots=True)
class Header:
    """A header of a request or of an answer."""

    name: str
    says: str
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"})
    is_required: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What a route answers with one status; without `body` it has none, or is no JSON."""

    says: str
    body: type[BaseModel] | None = None
    headers: tuple[Header, ...] = ()
    media_type: str = "application/json"


@dataclass(frozen=True, slots=True)
class Route:
    """One method of one path; `name` is for programs, `says` for people."""

    method: str
    path: str
    name: str
    group: str
    says: str
    answers: Mapping[int, Answer]
    takes: type[BaseModel] | None = None
    takes_type: str = "application/json"
    query: type[BaseModel] | None = None
    headers: tuple[Header, ...] = ()
    problems: tuple[type[Problem], ...] = ()
    """Those of its own; whatever asks Redis may also find it away, and anything may fail."""
    needs_redis: bool = True
    is_open: bool = False
    """Whether it is answered without a key."""
    is_openai: bool = False
    """Whether its errors have OpenAI's shape, in which 422 is 400."""
