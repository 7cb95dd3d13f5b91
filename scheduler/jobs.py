"""Jobs: what a job is, the states it passes, and what may be said of it.

A job is an OpenAI request (`endpoint` and `body`) that RQ keeps: function `gpu_worker.generate`,
one argument, the request. Its tier, tenant, and the instants RQ has no field for are in `job.meta`.
RQ's statuses are the truth; the API's words are mapped here and nowhere else:

    created, deferred, queued, scheduled -> queued        finished -> succeeded
    started                              -> running       failed   -> failed
    canceled, stopped                    -> canceled      failed past its deadline -> expired
"""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypedDict

from redis import Redis
from rq.exceptions import NoSuchJobError
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from scheduler.deadlines import DatedJob, Deadlines, of_job

FUNCTION = "gpu_worker.generate"
FIRST_TOKEN_AT = "first_token_at"
PARTIAL = "partial"
"""Field of a job that was cut off while it ran: its response as far as it came."""

EXPIRED = "expired"

Status = Literal["queued", "running", "succeeded", "failed", "canceled", "expired"]

STATUS: dict[JobStatus, Status] = {
    JobStatus.CREATED: "queued",
    JobStatus.DEFERRED: "queued",
    JobStatus.QUEUED: "queued",
    JobStatus.SCHEDULED: "queued",
    JobStatus.STARTED: "running",
    JobStatus.FINISHED: "succeeded",
    JobStatus.FAILED: "failed",
    JobStatus.STOPPED: "canceled",
    JobStatus.CANCELED: "canceled",
}
CAUSES = {"WorkerDied:": "worker_died", "EngineCrash:": "engine_crash", "Expired:": EXPIRED}
"""How the text of a dead letter begins that a script of ours wrote -> the cause's code."""

ENDED: frozenset[Status] = frozenset({"succeeded", "failed", "canceled", "expired"})


class Request(TypedDict):
    """An OpenAI request: the path of its endpoint, and the body as the endpoint defines it."""

    endpoint: str
    body: dict[str, Any]


class Failure(TypedDict):
    """Why a job failed, for its caller: a code that is for ever, and a sentence."""

    code: str
    message: str


class UnknownJob(Exception):
    """There is no such job: it never was, or it has expired."""


@dataclass(frozen=True, slots=True)
class JobView:
    """What may be said of a job; `*_at` are UTC, None where that has not happened."""

    id: str
    status: Status
    tier: str | None
    tenant: str | None
    queue: str
    created_at: datetime
    queued_at: datetime | None
    started_at: datetime | None
    first_token_at: datetime | None
    finished_at: datetime | None
    request: Request | None
    response: Any
    failure: Failure | None
    metadata: dict[str, str]
    deadlines: Deadlines


def fetch(connection: Redis, job_id: str) -> Job:
    """Return the job; UnknownJob if there is none of that id, or none that we wrote."""
    try:
        return DatedJob.fetch(job_id, connection=connection, serializer=JSONSerializer)
    except (NoSuchJobError, ValueError) as error:
        raise UnknownJob(job_id) from error


def view(job: Job) -> JobView:
    """Return what may be said of `job` as it was fetched; reads its latest result."""
    status = STATUS[job.get_status(refresh=False)]
    result = job.latest_result() if status in {"succeeded", "failed"} else None
    text = result.exc_string if result else None
    meta = job.meta or {}
    cause = failure(meta, text) if status == "failed" else None
    if cause and cause["code"] == EXPIRED:
        status = "expired"
    return JobView(
        id=job.id,
        status=status,
        tier=meta.get("tier"),
        tenant=meta.get("tenant"),
        queue=job.origin,
        created_at=job.created_at,
        queued_at=job.enqueued_at,
        started_at=job.started_at,
        first_token_at=_instant(meta.get(FIRST_TOKEN_AT)),
        finished_at=job.ended_at if status in ENDED else None,
        request=_request(job),
        response=result.return_value if result and status == "succeeded" else _partial(job, status),
        failure=cause,
        metadata=meta.get("metadata") or {},
        deadlines=of_job(job),
    )


def _instant(value: str | None) -> datetime | None:
    return datetime.fromisoformat(value) if value else None


def _partial(job: Job, status: Status) -> Any:
    """Return the response of a job that was cut off; None of any other."""
    if status not in {"canceled", "failed", "expired"}:
        return None
    stored = job.connection.hget(job.key, PARTIAL)
    try:
        return json.loads(stored) if stored else None
    except ValueError:
        return None


def _request(job: Job) -> Request | None:
    """Return the request of an inference job, None of any other callable's."""
    if job.func_name != FUNCTION or not job.args:
        return None
    request: Request = job.args[0]
    return request


def failure(meta: dict[str, Any], text: str | None) -> Failure:
    """Return the cause in `meta`, else the last line of RQ's `text`: never a traceback.

    What a script wrote comes first: what `meta` says is then of an earlier attempt.
    """
    lines = (text or "").strip().splitlines()
    if lines and (code := CAUSES.get(lines[-1].split(" ")[0])):
        return Failure(code=code, message=lines[-1])
    if recorded := meta.get("failure"):
        return Failure(code=recorded["code"], message=recorded["message"])
    last = lines[-1] if lines else "the job failed without a message"
    return Failure(code="job_failed", message=last)
