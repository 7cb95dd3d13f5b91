"""Problems: every way a request can end badly, and the only home of error statuses.

    Problem                     status  code
    ├── BadPreference           400     bad_preference
    ├── BadCursor               400     bad_cursor
    ├── MalformedJson           400     malformed_json
    ├── BrokenBody              400     broken_body
    ├── BadIdempotencyKey       400     bad_idempotency_key
    ├── Unauthorized            401     unauthorized
    ├── InvalidKey              401     invalid_api_key
    ├── Forbidden               403     forbidden
    ├── TierForbidden           403     tier_not_allowed
    ├── ModelForbidden          403     model_not_allowed
    ├── JobNotFound             404     job_not_found
    ├── JobEnded                409     job_ended               final
    ├── NotRequeueable          409     not_requeueable         final
    ├── NoDeadLetter            409     not_dead_letter         final
    ├── IdempotencyKeyReused    409     idempotency_key_reused  final
    ├── BodyTooLarge            413     body_too_large
    ├── NotJson                 415     not_json
    ├── Invalid                 422     invalid_request
    │   └── ContextExceeded     422     context_length_exceeded
    ├── TooLate                 429     deadline_unreachable    Retry-After
    ├── QueueFull               429     queue_full              Retry-After
    ├── LimitReached            429     rate_limit_exceeded     Retry-After
    ├── OverLimit               429     request_too_large       final
    ├── InternalError           500     internal_error          final
    ├── JobUnreadable           500     job_unreadable          final
    ├── TenantUnreadable        503     tenant_unreadable       Retry-After
    ├── RedisUnavailable        503     redis_unavailable       Retry-After
    ├── NotReady                503     not_ready               Retry-After
    └── NoRoomToWait            503     no_room_to_wait         Retry-After

The body is application/problem+json (RFC 9457) with two members more: `errors`, one entry per
invalid field, and `error`, the same as OpenAI's SDKs read it. No body repeats what a client sent:
prompts would leak into logs. "Final" problems carry `x-should-retry: false`, because those SDKs
repeat 409 and 5xx by themselves.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, ClassVar, TypedDict

from flask import Flask, Response
from gunicorn.http.errors import NoMoreData, ParseException
from werkzeug.exceptions import HTTPException

from config.connections import UNAVAILABLE
from scheduler.jobs import UnknownJob

logger = logging.getLogger(__name__)

RETRY_AFTER_S = 1

_FINAL = {"x-should-retry": "false"}
_RETRY = {"Retry-After": str(RETRY_AFTER_S)}


class FieldError(TypedDict):
    """What is wrong with one field of a request."""

    field: str
    message: str


class Problem(Exception):
    """A request ends with an error; `detail` tells its sender what happened and what to do."""

    status: ClassVar[HTTPStatus]
    code: ClassVar[str]
    title: ClassVar[str]
    headers: ClassVar[Mapping[str, str]] = {}

    def __init__(
        self,
        detail: str,
        *,
        errors: Sequence[FieldError] = (),
        instance: str | None = None,
        retry_after_s: int | None = None,
        **members: Any,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = errors
        self.instance = instance
        self.retry_after_s = retry_after_s
        self.members = members


class BadPreference(Problem):
    """The Prefer header cannot be read."""

    status, code = HTTPStatus.BAD_REQUEST, "bad_preference"
    title = "The Prefer header cannot be read"


class BadCursor(Problem):
    """The place in a stream from which to go on cannot be read."""

    status, code = HTTPStatus.BAD_REQUEST, "bad_cursor"
    title = "The cursor is no id of an event"


class MalformedJson(Problem):
    """The body is no JSON."""

    status, code = HTTPStatus.BAD_REQUEST, "malformed_json"
    title = "The body is not valid JSON"


class BrokenBody(Problem):
    """The body does not come as its headers say."""

    status, code = HTTPStatus.BAD_REQUEST, "broken_body"
    title = "The body cannot be read"


class BadIdempotencyKey(Problem):
    """The Idempotency-Key cannot be used."""

    status, code = HTTPStatus.BAD_REQUEST, "bad_idempotency_key"
    title = "The Idempotency-Key cannot be used"


class Unauthorized(Problem):
    """User name or password is missing or wrong."""

    status, code = HTTPStatus.UNAUTHORIZED, "unauthorized"
    title = "Authentication is required"
    headers: ClassVar[Mapping[str, str]] = {
        "WWW-Authenticate": 'Basic realm="slalom", charset="UTF-8"'
    }


class InvalidKey(Problem):
    """The API key is missing, or not one that is valid now."""

    status, code = HTTPStatus.UNAUTHORIZED, "invalid_api_key"
    title = "A valid API key is required"
    headers: ClassVar[Mapping[str, str]] = {"WWW-Authenticate": 'Bearer realm="slalom"'}


class Forbidden(Problem):
    """The request may not do this from where it comes."""

    status, code = HTTPStatus.FORBIDDEN, "forbidden"
    title = "The request is not allowed"


class TierForbidden(Problem):
    """The tier is above the tenant's ceiling."""

    status, code = HTTPStatus.FORBIDDEN, "tier_not_allowed"
    title = "The tier is not allowed"


class ModelForbidden(Problem):
    """The tenant may not use the model."""

    status, code = HTTPStatus.FORBIDDEN, "model_not_allowed"
    title = "The model is not allowed"


class JobNotFound(Problem):
    """There is no job of that id."""

    status, code = HTTPStatus.NOT_FOUND, "job_not_found"
    title = "There is no such job"


class JobEnded(Problem):
    """The job has ended, so it cannot be canceled."""

    status, code = HTTPStatus.CONFLICT, "job_ended"
    title = "The job has already ended"
    headers = _FINAL


class NotRequeueable(Problem):
    """The job cannot go back into its queue."""

    status, code = HTTPStatus.CONFLICT, "not_requeueable"
    title = "The job cannot be requeued"
    headers = _FINAL


class NoDeadLetter(Problem):
    """The job is not failed, so it can be neither replayed nor purged."""

    status, code = HTTPStatus.CONFLICT, "not_dead_letter"
    title = "The job is no dead letter"
    headers = _FINAL


class IdempotencyKeyReused(Problem):
    """The key was used before, for another request."""

    status, code = HTTPStatus.CONFLICT, "idempotency_key_reused"
    title = "The Idempotency-Key was used for another request"
    headers = _FINAL


class BodyTooLarge(Problem):
    """The body is over the limit."""

    status, code = HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "body_too_large"
    title = "The body is too large"


class NotJson(Problem):
    """The content type is not JSON's."""

    status, code = HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "not_json"
    title = "The content type must be application/json"


class Invalid(Problem):
    """The body is JSON, and breaks the schema or the tier's limits."""

    status, code = HTTPStatus.UNPROCESSABLE_ENTITY, "invalid_request"
    title = "The request is not valid"

    def __init__(self, errors: Sequence[FieldError]) -> None:
        super().__init__("; ".join(f"{e['field']}: {e['message']}" for e in errors), errors=errors)


class ContextExceeded(Invalid):
    """The prompt does not fit into the model's context."""

    code = "context_length_exceeded"
    title = "The prompt is too long for the model"


class TooLate(Problem):
    """The job would most likely miss its deadline."""

    status, code = HTTPStatus.TOO_MANY_REQUESTS, "deadline_unreachable"
    title = "The job would most likely be late"


class QueueFull(Problem):
    """The queue of the tier holds as much as it may."""

    status, code = HTTPStatus.TOO_MANY_REQUESTS, "queue_full"
    title = "The queue is full"


class LimitReached(Problem):
    """The tenant has had as much of the tier as it may, for now."""

    status, code = HTTPStatus.TOO_MANY_REQUESTS, "rate_limit_exceeded"
    title = "A limit is reached"


class OverLimit(Problem):
    """The job alone is more than the tenant may have at a time."""

    status, code = HTTPStatus.TOO_MANY_REQUESTS, "request_too_large"
    title = "The job is larger than a limit"
    headers = _FINAL


class InternalError(Problem):
    """The service failed; the cause is in its log."""

    status, code = HTTPStatus.INTERNAL_SERVER_ERROR, "internal_error"
    title = "The service failed"
    headers = _FINAL


class JobUnreadable(Problem):
    """The job's record is not what this service writes."""

    status, code = HTTPStatus.INTERNAL_SERVER_ERROR, "job_unreadable"
    title = "The record of the job cannot be read"
    headers = _FINAL


class TenantUnreadable(Problem):
    """The record of the tenant cannot be used."""

    status, code = HTTPStatus.SERVICE_UNAVAILABLE, "tenant_unreadable"
    title = "The tenant's record is damaged"
    headers = _RETRY


class RedisUnavailable(Problem):
    """Redis does not answer."""

    status, code = HTTPStatus.SERVICE_UNAVAILABLE, "redis_unavailable"
    title = "Redis does not answer"
    headers = _RETRY


class NotReady(Problem):
    """Something that jobs need is missing."""

    status, code = HTTPStatus.SERVICE_UNAVAILABLE, "not_ready"
    title = "The service is not ready"
    headers = _RETRY


class NoRoomToWait(Problem):
    """As many requests wait in this process as may."""

    status, code = HTTPStatus.SERVICE_UNAVAILABLE, "no_room_to_wait"
    title = "Too many requests wait for their jobs"
    headers = _RETRY


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
