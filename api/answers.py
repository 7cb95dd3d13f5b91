"""Answers: what a job says at OpenAI's routes: its response, or the problem that it ended with."""

from typing import Any

from rq.job import Job

from api.problems import (
    EngineRefused,
    JobCanceled,
    JobExpired,
    JobFailed,
    Problem,
    StillRunning,
)
from api.service_tier import word_of
from config.tiers import TierTable
from scheduler import jobs
from scheduler.jobs import JobView


def response_of(job: Job, tiers: TierTable, *, waited_s: float) -> dict[str, Any]:
    """Return the response of `job` as it was fetched; raises the Problem there is instead."""
    view = jobs.view(job)
    if view.status in {"queued", "running"}:
        raise still_running(job.id, f"the job is {view.status} after {waited_s:g} s")
    if view.status != "succeeded" or not isinstance(view.response, dict):
        raise problem_of(view)
    return {**view.response, "service_tier": word_of(view.tier or "", tiers)}


def problem_of(view: JobView) -> Problem:
    """Return why an ended job has no response."""
    where: dict[str, Any] = {"job_id": view.id, "status_url": status_url(view.id)}
    if view.status == "canceled":
        return JobCanceled("the job was canceled before it had an answer", **where)
    code, message = "job_failed", "the job ended without an answer"
    if view.failure:
        code, message = view.failure["code"], view.failure["message"]
    if view.status == "expired":
        return JobExpired(message, **where)
    if code == EngineRefused.code:
        return EngineRefused(message, **where)
    return JobFailed(code, message, **where)


def still_running(job_id: str, what: str) -> Problem:
    """Return the problem of a job that was not over when its client had to be answered."""
    where = status_url(job_id)
    text = f"{what}; it goes on: look at {where}, and do not send it again"
    return StillRunning(text, job_id=job_id, status_url=where)


def status_url(job_id: str) -> str:
    """Return where the job can be looked at."""
    return f"/v1/jobs/{job_id}"
