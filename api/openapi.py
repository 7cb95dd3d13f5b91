"""OpenAPI: the document of the API (3.1), written from the routes' own declarations.

Requests and answers are pydantic's models, whose JSON Schema is that of 3.1; what only this
installation knows, its tiers and its queues, is filled in. Problems are grouped by their status.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from api.error_schemas import OpenAIErrorBody, ProblemBody
from api.problems import InternalError, InvalidKey, Problem, RedisUnavailable, TenantUnreadable
from api.route import Answer, Header, Route
from config.tiers import TierTable

VERSION = "1"
"""Of the API, as its paths say it too."""

Json = dict[str, Any]
_Key = tuple[type[BaseModel], JsonSchemaMode]
_Refs = Mapping[Any, Json]
"""`$ref` by `_Key`."""

_REFS = "#/components/schemas/{model}"
_RETRY_AFTER = Header("Retry-After", "seconds to wait before trying again", {"type": "integer"})
_SHOULD_RETRY = Header("x-should-retry", "false: trying again is of no use; read by OpenAI's SDKs")
_ABOUT = (
    "Jobs for language models, in tiers. Errors are problems of RFC 9457, whose member `error` is "
    "what OpenAI's SDKs read."
)


def document(routes: Sequence[Route], tiers: TierTable) -> Json:
    """Return the document, as JSON values."""
    refs, found = models_json_schema(_models(routes), ref_template=_REFS)
    schemas = found.get("$defs", {})
    schemas["Tier"] = {"type": "string", "enum": [*tiers.tiers]}
    schemas["Queue"] = {"type": "string", "enum": [*tiers.queues]}
    paths: defaultdict[str, Json] = defaultdict(dict)
    for route in routes:
        paths[route.path][route.method.lower()] = _operation(route, refs, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Slalom", "version": VERSION, "description": _ABOUT},
        "paths": dict(paths),
        "components": {
            "schemas": schemas,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}],
    }


def _models(routes: Iterable[Route]) -> list[_Key]:
    """Return every model that is needed, each as a request or as an answer."""
    wanted: dict[_Key, None] = {(ProblemBody, "serialization"): None}
    for route in routes:
        for taken in (route.takes, route.query):
            if taken:
                wanted[taken, "validation"] = None
        for answer in route.answers.values():
            if answer.body:
                wanted[answer.body, "serialization"] = None
        if route.is_openai:
            wanted[OpenAIErrorBody, "serialization"] = None
    return [*wanted]


def _operation(route: Route, refs: _Refs, schemas: Mapping[str, Json]) -> Json:
    operation: Json = {
        "operationId": route.name,
        "tags": [route.group],
        "summary": route.says,
        "parameters": [*_parameters(route, refs, schemas)],
        "responses": {str(code): _answer(answer, refs) for code, answer in route.answers.items()},
    }
    operation["responses"] |= _problems(route, refs)
    if route.takes:
        content = {route.takes_type: {"schema": refs[route.takes, "validation"]}}
        operation["requestBody"] = {"required": True, "content": content}
    if route.is_open:
        operation["security"] = []
    return operation


def _parameters(route: Route, refs: _Refs, schemas: Mapping[str, Json]) -> Iterable[Json]:
    for name in re.findall(r"{(\w+)}", route.path):
        text = {"type": "string", "minLength": 1}
        yield {"name": name, "in": "path", "required": True, "schema": text}
    if route.query:
        query = schemas[refs[route.query, "validation"]["$ref"].rpartition("/")[2]]
        for name, schema in query["properties"].items():
            yield {"name": name, "in": "query", "schema": _given(schema)}
    for header in route.headers:
        yield {
            "name": header.name,
            "in": "header",
            "required": header.is_required,
            "description": header.says,
            "schema": dict(header.schema),
        }


def _given(schema: Json) -> Json:
    """Return the schema of a parameter that may be left out, but is never null."""
    kinds = [kind for kind in schema.get("anyOf", []) if kind != {"type": "null"}]
    rest = {name: value for name, value in schema.items() if name not in {"anyOf", "default"}}
    if not kinds:
        return schema
    return {**rest, **kinds[0]} if len(kinds) == 1 else {**rest, "anyOf": kinds}


def _answer(answer: Answer, refs: _Refs) -> Json:
    described: Json = {"description": answer.says, "headers": _headers(answer.headers)}
    if answer.body:
        schema = refs[answer.body, "serialization"]
        described["content"] = {answer.media_type: {"schema": schema}}
    elif answer.media_type != "application/json":
        described["content"] = {answer.media_type: {"schema": {"type": "string"}}}
    return described


def _problems(route: Route, refs: _Refs) -> Json:
    """Return the answers that are errors, one per status."""
    common: list[type[Problem]] = [
        InternalError,
        *([RedisUnavailable] if route.needs_redis else []),
    ]
    if not route.is_open:
        common += [InvalidKey, TenantUnreadable]
    kinds: defaultdict[HTTPStatus, list[type[Problem]]] = defaultdict(list)
    for problem in dict.fromkeys([*route.problems, *common]):
        is_shifted = route.is_openai and problem.status == HTTPStatus.UNPROCESSABLE_ENTITY
        kinds[HTTPStatus.BAD_REQUEST if is_shifted else problem.status].append(problem)
    body, media_type = (
        (OpenAIErrorBody, "application/json")
        if route.is_openai
        else (ProblemBody, "application/problem+json")
    )
    content = {media_type: {"schema": refs[body, "serialization"]}}
    return {
        str(int(status)): {
            "description": "; ".join(f"`{kind.code}`: {kind.title}" for kind in those),
            "headers": _headers(_of_problems(those)),
            "content": content,
        }
        for status, those in sorted(kinds.items())
    }


def _of_problems(those: Iterable[type[Problem]]) -> list[Header]:
    names = {name for kind in those for name in kind.headers}
    return [header for header in (_RETRY_AFTER, _SHOULD_RETRY) if header.name in names]


def _headers(headers: Iterable[Header]) -> Json:
    return {
        header.name: {
            "description": header.says,
            "schema": dict(header.schema),
            "required": header.is_required,
        }
        for header in headers
    }
