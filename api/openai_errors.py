"""OpenAI's errors: the problems of `api.problems`, as OpenAI's routes say them.

    {"error": {"message": "…", "type": "invalid_request_error", "param": "model", "code": "…"}}

with what else a problem tells (`status_url`, `job_id`, `earliest_feasible_deadline`) beside these
four: the SDKs keep the whole of it in `error.body`. The content type is application/json, and what
is 422 elsewhere is 400 here. Headers, such as `Retry-After`, stay as they are.
"""

import json
from http import HTTPStatus
from typing import Any
from uuid import uuid4

from flask import Blueprint, Response, g

from api.problem_answers import body_of
from api.problems import Problem

PROBLEM = "application/problem+json"

_STATUS = {HTTPStatus.UNPROCESSABLE_ENTITY.value: HTTPStatus.BAD_REQUEST.value}
_SAID = {"type", "title", "status", "detail", "errors", "error", "instance"}
"""Members of a problem that OpenAI's four words say already."""


def register(routes: Blueprint) -> None:
    """Let the errors of `routes` be OpenAI's, and every answer name its request."""
    routes.after_request(_reshaped)
    routes.after_request(_named)


def request_id() -> str:
    """Return the id of the current request, which is that of its job if it makes one."""
    found: str = g.setdefault("request_id", str(uuid4()))
    return found


def name_job(response: Response, job_id: str, where: str) -> None:
    """Say in the headers of an answer which job it is of, and where that can be looked at."""
    response.headers["x-slalom-job-id"] = job_id
    response.headers["Location"] = where


def error_of(problem: Problem) -> dict[str, Any]:
    """Return what OpenAI's SDKs read of a problem."""
    return _error(body_of(problem))


def _error(body: dict[str, Any]) -> dict[str, Any]:
    error = {**body["error"], **{k: v for k, v in body.items() if k not in _SAID}}
    if where := body.get("instance"):
        error["status_url"] = where
    return error


def _reshaped(response: Response) -> Response:
    if response.mimetype != PROBLEM:
        return response
    error = _error(json.loads(response.get_data()))
    if job_id := error.get("job_id"):
        name_job(response, job_id, error["status_url"])
    response.set_data(json.dumps({"error": error}))
    response.content_type = "application/json"
    response.status_code = _STATUS.get(response.status_code, response.status_code)
    return response


def _named(response: Response) -> Response:
    response.headers["x-request-id"] = request_id()
    return response
