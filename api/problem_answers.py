"""Problem answers: the responses that problems and other errors become.

The body is application/problem+json (RFC 9457) with two members more: `errors`, one entry per
invalid field, and `error`, the same as OpenAI's SDKs read it. No body repeats what a client sent:
prompts would leak into logs. On OpenAI's routes the body is `error` alone, and 422 is 400:
`api.openai_errors`.
"""

import json
import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from flask import Flask, Response
from gunicorn.http.errors import NoMoreData, ParseException
from werkzeug.exceptions import HTTPException

from api.problems import BrokenBody, InternalError, JobNotFound, Problem, RedisUnavailable
from config.connections import UNAVAILABLE
from scheduler.jobs import UnknownJob

logger = logging.getLogger(__name__)


def register(app: Flask) -> None:
    """Answer every error of `app` with a problem."""
    app.register_error_handler(Problem, _respond)
    app.register_error_handler(HTTPException, _from_werkzeug)
    app.register_error_handler(UnknownJob, job_not_found)
    app.register_error_handler(ParseException, _broken_body)
    app.register_error_handler(NoMoreData, _broken_body)
    for error in UNAVAILABLE:
        app.register_error_handler(error, _redis_down)
    app.register_error_handler(Exception, _unforeseen)


def _respond(problem: Problem) -> Response:
    headers = {**problem.headers}
    if problem.retry_after_s is not None:
        headers["Retry-After"] = str(problem.retry_after_s)
    return _response(body_of(problem), headers)


def body_of(problem: Problem) -> dict[str, Any]:
    """Return the body that a response with `problem` has."""
    body = {
        "type": f"urn:problem-type:slalom:{problem.code}",
        "title": problem.title,
        "status": int(problem.status),
        "detail": problem.detail,
        **problem.members,
    }
    if problem.instance:
        body["instance"] = problem.instance
    if problem.errors:
        body["errors"] = problem.errors
    param = problem.errors[0]["field"] if problem.errors else None
    return _with_error(body, problem.code, param)


def _from_werkzeug(error: HTTPException) -> Response:
    """Keep the headers that belong to the error, such as 405's Allow."""
    status = HTTPStatus(error.code or HTTPStatus.INTERNAL_SERVER_ERROR)
    body = {
        "type": "about:blank",
        "title": status.phrase,
        "status": int(status),
        "detail": error.description or status.phrase,
    }
    ours = {"content-type", "content-length"}
    headers = {name: value for name, value in error.get_headers() if name.lower() not in ours}
    code = status.phrase.lower().replace(" ", "_")
    return _response(_with_error(body, code, None), headers)


def _with_error(body: dict[str, Any], code: str, param: str | None) -> dict[str, Any]:
    """Return the body with the member that OpenAI's SDKs read."""
    kind = _kind(body["status"])
    error = {"message": body["detail"], "type": kind, "param": param, "code": code}
    return {**body, "error": error}


def _response(body: dict[str, Any], headers: Mapping[str, str]) -> Response:
    status = body["status"]
    return Response(json.dumps(body), status, headers, mimetype="application/problem+json")


def _kind(status: int) -> str:
    """Return OpenAI's word for such errors."""
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return "rate_limit_error"
    return "server_error" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error"


def job_not_found(error: Exception) -> Response:
    """Answer an error that says that there is no job of an id."""
    return _respond(JobNotFound("there is no job of this id: it never was, or it has expired"))


def _broken_body(error: Exception) -> Response:
    return _respond(BrokenBody("the body breaks off, or its chunks are none: send it again"))


def _redis_down(error: Exception) -> Response:
    logger.warning("redis unavailable", extra={"event": "redis.unavailable", "error": error})
    return _respond(RedisUnavailable("Redis does not answer; try again"))


def _unforeseen(error: Exception) -> Response:
    logger.error("request failed", exc_info=error, extra={"event": "request.failed"})
    return _respond(InternalError("the service failed; the cause is in its log"))
