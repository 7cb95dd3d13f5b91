"""OpenAI requests: what the door reads of them, and what it leaves to vLLM.

The service reads what concerns itself: the model's name, `service_tier`, `metadata`, how much
output is asked for, and whether it is streamed. It takes those out that are its own and passes on
every other field as it came: vLLM's serving layer in the worker validates and answers them, so
that whatever this vLLM can do may be asked for.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any, Self

from pydantic import ValidationError

from api.openai_schemas import BODIES
from api.order import Order
from api.problems import FieldError, Invalid, MalformedJson
from api.schemas import problem_of
from api.service_tier import tier_of
from config.tiers import TierTable
from scheduler.tenants import Tenant
from scheduler.work import MAX_TOKENS

MAX_DEPTH = 64
"""How deep objects and lists may lie in each other."""

_OURS = {"service_tier", "metadata", "stream", "stream_options"}
"""Fields that vLLM need not see: the worker says whether it streams."""


@dataclass(frozen=True, slots=True)
class OpenAIRequest:
    """A request to one of OpenAI's endpoints."""

    order: Order
    wants_usage: bool = False
    """Whether a stream is to end with what it used."""

    @classmethod
    def parse(cls, endpoint: str, text: bytes, tiers: TierTable, tenant: Tenant) -> Self:
        """Return the request in `text`; MalformedJson or Invalid if the door must refuse it."""
        return cls.of(endpoint, json_object(text), tiers, tenant)

    @classmethod
    def of(cls, endpoint: str, body: dict[str, Any], tiers: TierTable, tenant: Tenant) -> Self:
        """Return the request that `body` is; Invalid names what is wrong with it."""
        check(endpoint, body)
        tier = tier_of(body.get("service_tier"), tiers, tenant)
        if faults := _too_many_tokens(body, tiers, tier):
            raise Invalid(faults)
        order = Order(
            {"endpoint": endpoint, "body": {k: v for k, v in body.items() if k not in _OURS}},
            tier,
            metadata=body.get("metadata") or {},
            stream=bool(body.get("stream")),
        )
        return cls(order, bool((body.get("stream_options") or {}).get("include_usage")))


def check(endpoint: str, body: dict[str, Any]) -> None:
    """Raise Invalid for what the schema of the endpoint's requests does not allow."""
    try:
        BODIES[endpoint].model_validate(body)
    except ValidationError as error:
        raise problem_of(error) from None
    if body.get("stream_options") is not None and not body.get("stream"):
        text = "only a request with stream may have them"
        raise Invalid([{"field": "stream_options", "message": text}])


def json_object(text: bytes) -> dict[str, Any]:
    """Return the JSON object in `text`; MalformedJson if it is none, or too deep to pass on."""
    try:
        found = json.loads(text, parse_constant=_no_number, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        said = str(error) if isinstance(error, json.JSONDecodeError) else "it is no JSON"
        raise MalformedJson(f"the body cannot be read: {said}") from None
    if not isinstance(found, dict):
        raise MalformedJson("the body must be a JSON object")
    if not _is_shallow(found):
        raise MalformedJson(f"the body may nest objects and lists {MAX_DEPTH} deep at most")
    return found


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _finite(text: str) -> float:
    number = float(text)
    return number if isfinite(number) else _no_number(text)


def _is_shallow(value: object) -> bool:
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        level = [v for item in level for v in _members(item) if isinstance(v, dict | list)]
        if not level:
            return True
    return False


def _members(value: Any) -> Any:
    return value.values() if isinstance(value, dict) else value


def _too_many_tokens(body: Mapping[str, Any], tiers: TierTable, tier: str) -> list[FieldError]:
    most = tiers.tiers[tier].limits.max_tokens
    return [
        {"field": field, "message": f"must be at most {most} in tier {tier}"}
        for field in MAX_TOKENS
        if (body.get(field) or 0) > most
    ]
