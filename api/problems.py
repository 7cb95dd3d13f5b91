"""Problems: every way a request can end badly, and the only home of error statuses.

    Problem                     status  code
    ├── BadPreference           400     bad_preference
    ├── BadCursor               400     bad_cursor
    ├── MalformedJson           400     malformed_json
    ├── BrokenBody              400     broken_body
    ├── MalformedForm           400     malformed_form
    ├── BadIdempotencyKey       400     bad_idempotency_key
    ├── EngineRefused           400     invalid_request
    ├── NotBackground           400     not_background
    ├── Unauthorized            401     unauthorized
    ├── InvalidKey              401     invalid_api_key
    ├── Forbidden               403     forbidden
    ├── TierForbidden           403     tier_not_allowed
    ├── ModelForbidden          403     model_not_allowed
    ├── JobNotFound             404     job_not_found
    ├── ModelNotFound           404     model_not_found
    ├── ResponseNotFound        404     response_not_found
    ├── FileMissing             404     file_not_found
    ├── BatchMissing            404     batch_not_found
    ├── JobEnded                409     job_ended               final
    ├── JobCanceled             409     job_canceled            final
    ├── JobStopping             409     job_stopping            Retry-After
    ├── NotRequeueable          409     not_requeueable         final
    ├── NoDeadLetter            409     not_dead_letter         final
    ├── BatchEnded              409     batch_ended             final
    ├── IdempotencyKeyReused    409     idempotency_key_reused  final
    ├── BodyTooLarge            413     body_too_large
    ├── NotJson                 415     not_json
    ├── NotMultipart            415     not_multipart
    ├── Invalid                 422     invalid_request
    │   ├── UnknownModel        422     invalid_request         404 model_not_found at OpenAI's
    │   └── ContextExceeded     422     context_length_exceeded
    ├── TooLate                 429     deadline_unreachable    Retry-After
    ├── QueueFull               429     queue_full              Retry-After
    ├── LimitReached            429     rate_limit_exceeded     Retry-After
    ├── OverLimit               429     request_too_large       final
    ├── TooManyStored           429     too_many_stored         final
    ├── InternalError           500     internal_error          final
    ├── JobUnreadable           500     job_unreadable          final
    ├── JobFailed               500     that of the failure     final
    ├── StreamInterrupted       500     stream_interrupted      final
    ├── TenantUnreadable        503     tenant_unreadable       Retry-After
    ├── RedisUnavailable        503     redis_unavailable       Retry-After
    ├── NotReady                503     not_ready               Retry-After
    ├── NoRoomToWait            503     no_room_to_wait         Retry-After
    ├── StillRunning            504     still_running           final
    └── JobExpired              504     expired                 final

"Final" problems carry `x-should-retry: false`, because OpenAI's SDKs repeat 409 and 5xx by
themselves. `api.problem_answers` makes responses of them.
"""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, ClassVar, TypedDict

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
    code: str
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


class MalformedForm(Problem):
    """The body is no form with one file."""

    status, code = HTTPStatus.BAD_REQUEST, "malformed_form"
    title = "The body is not a valid form"


class BadIdempotencyKey(Problem):
    """The Idempotency-Key cannot be used."""

    status, code = HTTPStatus.BAD_REQUEST, "bad_idempotency_key"
    title = "The Idempotency-Key cannot be used"


class EngineRefused(Problem):
    """The engine cannot serve the request as it is."""

    status, code = HTTPStatus.BAD_REQUEST, "invalid_request"
    title = "The model cannot serve this request"


class NotBackground(Problem):
    """The response was not made in the background."""

    status, code = HTTPStatus.BAD_REQUEST, "not_background"
    title = "The response was not created with background"


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


class ModelNotFound(Problem):
    """No worker announced a model of that name."""

    status, code = HTTPStatus.NOT_FOUND, "model_not_found"
    title = "There is no such model"


class ResponseNotFound(Problem):
    """There is no stored response of that id."""

    status, code = HTTPStatus.NOT_FOUND, "response_not_found"
    title = "There is no such response"


class FileMissing(Problem):
    """There is no file of that id."""

    status, code = HTTPStatus.NOT_FOUND, "file_not_found"
    title = "There is no such file"


class BatchMissing(Problem):
    """There is no batch of that id."""

    status, code = HTTPStatus.NOT_FOUND, "batch_not_found"
    title = "There is no such batch"


class JobEnded(Problem):
    """The job has ended, so it cannot be canceled."""

    status, code = HTTPStatus.CONFLICT, "job_ended"
    title = "The job has already ended"
    headers = _FINAL


class JobCanceled(Problem):
    """Somebody cancelled the job that was waited for."""

    status, code = HTTPStatus.CONFLICT, "job_canceled"
    title = "The job was canceled"
    headers = _FINAL


class JobStopping(Problem):
    """The job's worker was told to stop it, and has not yet."""

    status, code = HTTPStatus.CONFLICT, "job_stopping"
    title = "The job is being stopped"
    headers = _RETRY


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


class BatchEnded(Problem):
    """The batch has ended, so it cannot be cancelled."""

    status, code = HTTPStatus.CONFLICT, "batch_ended"
    title = "The batch has already ended"
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


class NotMultipart(Problem):
    """The content type is not that of a form with files."""

    status, code = HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "not_multipart"
    title = "The content type must be multipart/form-data"


class Invalid(Problem):
    """The body is JSON, and breaks the schema or the tier's limits."""

    status, code = HTTPStatus.UNPROCESSABLE_ENTITY, "invalid_request"
    title = "The request is not valid"

    def __init__(self, errors: Sequence[FieldError]) -> None:
        super().__init__("; ".join(f"{e['field']}: {e['message']}" for e in errors), errors=errors)


class UnknownModel(Invalid):
    """Nothing serves the model that is asked for."""


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


class TooManyStored(Problem):
    """The tenant keeps as many files as it may, or has as many batches in progress."""

    status, code = HTTPStatus.TOO_MANY_REQUESTS, "too_many_stored"
    title = "There are too many already"
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


class JobFailed(Problem):
    """The job failed for good; `code` is its failure's."""

    status, code = HTTPStatus.INTERNAL_SERVER_ERROR, "job_failed"
    title = "The job failed"
    headers = _FINAL

    def __init__(self, code: str, detail: str, **members: Any) -> None:
        super().__init__(detail, **members)
        self.code = code


class StreamInterrupted(Problem):
    """Another attempt at the job says something else than the client already has."""

    status, code = HTTPStatus.INTERNAL_SERVER_ERROR, "stream_interrupted"
    title = "The stream was interrupted"
    headers = _FINAL


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


class StillRunning(Problem):
    """The job did not end while its request waited; it goes on."""

    status, code = HTTPStatus.GATEWAY_TIMEOUT, "still_running"
    title = "The job has not ended yet"
    headers = _FINAL


class JobExpired(Problem):
    """The job did not make its deadline."""

    status, code = HTTPStatus.GATEWAY_TIMEOUT, "expired"
    title = "The job missed its deadline"
    headers = _FINAL
