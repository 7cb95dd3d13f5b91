"""Jobs: submit one, look at it, cancel it.

    POST   /v1/jobs        202 with the job and its Location; 200 if it ended in `Prefer: wait=N`;
                           429 if it would most likely be late
    GET    /v1/jobs/{id}   200
    DELETE /v1/jobs/{id}   200 canceled; 202 its worker was told to stop it; 409 it had ended

A client learns of the job that was accepted whatever happens next: when Redis goes away during a
wait, the answer is the job as it was submitted. A request that is repeated with its Idempotency-Key
is answered with the job that it made, as that is by now.
"""

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from http import HTTPStatus
from threading import Event
from uuid import uuid4

from flask import Blueprint, Response, request
from redis import Redis
from redis.exceptions import ResponseError
from rq.exceptions import DeserializationError
from rq.job import Job
from werkzeug.exceptions import RequestEntityTooLarge

from api import auth, idempotency, prefer
from api.context import Context
from api.order import Order
from api.problems import (
    BadIdempotencyKey,
    BadPreference,
    BodyTooLarge,
    BrokenBody,
    IdempotencyKeyReused,
    Invalid,
    JobEnded,
    JobNotFound,
    JobUnreadable,
    LimitReached,
    MalformedJson,
    ModelForbidden,
    NotJson,
    OverLimit,
    QueueFull,
    TierForbidden,
    TooLate,
)
from api.route import Answer, Header, Route
from api.schemas import Expectation, JobBody, JobRequest
from config.connections import UNAVAILABLE
from scheduler import cancel, jobs
from scheduler.jobs import ENDED, UnknownJob
from scheduler.once import AlreadyMade, Once

logger = logging.getLogger(__name__)

NOTHING = Expectation()
_CORRUPT = (DeserializationError, ResponseError, ValueError, TypeError, AttributeError, LookupError)
"""What reading a record raises that Slalom did not write: a pickle, another type of key."""

LOCATION = Header("Location", "where the job is", is_required=True)
_APPLIED = Header("Preference-Applied", "`wait=N`: the seconds that were granted for waiting")
_REPLAYED = Header(
    idempotency.REPLAYED, "`true`: an earlier request with this key made the job", {"const": "true"}
)
_SUBMITTED = (LOCATION, _APPLIED, _REPLAYED)

ROUTES = (
    Route(
        "POST",
        "/v1/jobs",
        "submit_job",
        "Jobs",
        "Submit a job",
        {
            200: Answer("the job, which has ended", JobBody, _SUBMITTED),
            202: Answer("the job, which was accepted", JobBody, _SUBMITTED),
        },
        takes=JobRequest,
        headers=(prefer.HEADER, idempotency.PARAMETER),
        problems=(
            BadPreference,
            BadIdempotencyKey,
            MalformedJson,
            BrokenBody,
            IdempotencyKeyReused,
            BodyTooLarge,
            NotJson,
            Invalid,
            TierForbidden,
            ModelForbidden,
            OverLimit,
            LimitReached,
            QueueFull,
            TooLate,
        ),
    ),
    Route(
        "GET",
        "/v1/jobs/{job_id}",
        "show_job",
        "Jobs",
        "Show a job",
        {200: Answer("the job", JobBody)},
        problems=(JobNotFound, JobUnreadable),
    ),
    Route(
        "DELETE",
        "/v1/jobs/{job_id}",
        "cancel_job",
        "Jobs",
        "Cancel a job: a waiting one never runs, a running one is stopped",
        {
            200: Answer("the job, which is canceled, with its output as far as it came", JobBody),
            202: Answer("the job, whose worker was told to stop it", JobBody),
        },
        problems=(JobNotFound, JobEnded, JobUnreadable),
    ),
)


@dataclass(frozen=True, slots=True)
class Jobs:
    """The routes of jobs."""

    context: Context

    def blueprint(self) -> Blueprint:
        """Return the routes."""
        routes = Blueprint("jobs", __name__, url_prefix="/v1/jobs")
        routes.add_url_rule("", "submit", self.submit, methods=["POST"])
        routes.add_url_rule("/<job_id>", "show", self.show, methods=["GET"])
        routes.add_url_rule("/<job_id>", "cancel", self.cancel, methods=["DELETE"])
        return routes

    def submit(self) -> Response:
        """Accept a job, and wait for its end if that is preferred."""
        settings = self.context.settings
        wait_s = prefer.wait_s(request.headers.get("Prefer"), most_s=settings.max_wait_s)
        tiers = auth.caller().view(self.context.tiers)
        wanted = JobRequest.parse(json_body(settings.max_body_bytes), tiers)
        asked = wanted.model_dump(mode="json", exclude_none=True)
        once = idempotency.of_request(auth.caller(), asked, kept_s=settings.idempotency_s)
        order = wanted.order(tiers)
        del wanted, asked
        try:
            return self._make(order, wait_s, once)
        except AlreadyMade as made:
            return self._again(made.job_id, wait_s)

    def show(self, job_id: str) -> Response:
        """Show a job."""
        return _answer(self._body(self._fetch(job_id)))

    def cancel(self, job_id: str) -> Response:
        """Cancel a job: a waiting one never runs, a running one is stopped by its worker."""
        outcome = cancel.cancel(self.context.connection, self._fetch(job_id))
        body = self._body(self._fetch(job_id))
        if outcome == "ended":
            raise JobEnded(f"the job is {body.status}: there is nothing left to cancel")
        extra = {"event": "job.cancel", "job_id": job_id, "outcome": outcome}
        logger.info("job cancel", extra=extra)
        if outcome == "stopping" and body.status not in ENDED:
            return _answer(body.model_copy(update={"stopping": True}), HTTPStatus.ACCEPTED)
        return _answer(body)

    def _make(self, order: Order, wait_s: int | None, once: Once | None) -> Response:
        """Queue a job, and wait for its end if `wait_s` says so."""
        job_id = str(uuid4())
        with self._expecting(job_id, wait_s) as ended:
            accepted = self.context.intake.accept(order, auth.caller(), job_id=job_id, once=once)
            queued = job_body(accepted.job, accepted.expectation)
            del order, accepted  # prompts may be long, and those who wait many
            if ended:
                self._wait(ended, wait_s)
        if not wait_s:
            return _accepted(queued, applied=wait_s)
        return _accepted(self._latest(queued), applied=wait_s if ended else None)

    def _again(self, job_id: str, wait_s: int | None) -> Response:
        """Answer a repeated request with its job, and wait for that as the first one would."""
        with self._expecting(job_id, wait_s) as ended:
            body = self._body(self._fetch(job_id))
            if ended and body.status not in ENDED:
                self._wait(ended, wait_s)
                body = self._body(self._fetch(job_id))
        answer = _accepted(body, applied=wait_s if ended or not wait_s else None)
        answer.headers[idempotency.REPLAYED] = "true"
        return answer

    def _expecting(self, job_id: str, wait_s: int | None) -> AbstractContextManager[Event | None]:
        return self.context.waiters.expect(job_id) if wait_s else nullcontext()

    def _wait(self, ended: Event, wait_s: int | None) -> None:
        """Wait for a job's end, or until its client has gone."""
        with self.context.hangups.watch(request.environ, ended.set):
            ended.wait(wait_s)

    def _latest(self, queued: JobBody) -> JobBody:
        """Return what is known of an accepted job by now; as it was queued while Redis is away."""
        try:
            return self._body(self._fetch(queued.id))
        except UNAVAILABLE:
            return queued

    def _body(self, job: Job) -> JobBody:
        with readable(job.id):
            expectation = self.context.door.expectation(job)
        return job_body(job, expectation)

    def _fetch(self, job_id: str) -> Job:
        return fetch(self.context.connection, job_id)


def fetch(connection: Redis, job_id: str) -> Job:
    """Return a job that the caller may see; UnknownJob if there is none, or it is another's.

    Every route that is given the id of a job finds it here.
    """
    try:
        with readable(job_id):
            job = jobs.fetch(connection, job_id)
            if auth.is_own(job):
                return job
    except JobUnreadable:
        if auth.caller().operator:
            raise
    raise UnknownJob(job_id)


def json_body(max_bytes: int) -> bytes:
    """Return the body of the request, if it is JSON and not too large."""
    if not request.is_json:
        raise NotJson("send the body as `Content-Type: application/json`")
    request.max_content_length = max_bytes + 1  # Flask cuts a chunked body there, without a word
    try:
        body = request.get_data(cache=False)
    except RequestEntityTooLarge:
        raise _too_large(max_bytes) from None
    if len(body) > max_bytes:
        raise _too_large(max_bytes)
    return body


def _too_large(max_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body may have {max_bytes} bytes at most")


def job_body(job: Job, expectation: Expectation = NOTHING) -> JobBody:
    """Return `job` as it was fetched, with its latest result."""
    with readable(job.id):
        return JobBody.of(jobs.view(job), expectation, status_url=_url(job.id))


@contextmanager
def readable(job_id: str) -> Iterator[None]:
    """Turn what reading a foreign or damaged record raises into JobUnreadable."""
    try:
        yield
    except _CORRUPT as error:
        raise _unreadable(job_id, error) from error


def _unreadable(job_id: str, error: Exception) -> JobUnreadable:
    extra = {"event": "job.unreadable", "job_id": job_id, "error": type(error).__name__}
    logger.error("job unreadable", extra=extra)
    return JobUnreadable("its record in Redis is damaged, or not written with RQ's JSON serializer")


def _accepted(body: JobBody, *, applied: int | None) -> Response:
    """Answer a submission; `applied` are the seconds that were granted for waiting."""
    answer = _answer(body, HTTPStatus.OK if body.status in ENDED else HTTPStatus.ACCEPTED)
    answer.headers["Location"] = body.status_url
    if applied is not None:
        answer.headers["Preference-Applied"] = f"wait={applied}"
    return answer


def _answer(body: JobBody, status: HTTPStatus = HTTPStatus.OK) -> Response:
    return Response(body.model_dump_json(), status, mimetype="application/json")


def _url(job_id: str) -> str:
    return f"/v1/jobs/{job_id}"
