"""Cancel: a waiting job never runs; a running one is aborted in the engine.

A waiting job leaves its queue and becomes `canceled` in one step, so no worker can take it in
between. For a running one the stop is recorded in the job and sent to its worker as RQ's stop-job
command; should that message be lost, the worker reads the record at its next heartbeat.
"""

from datetime import UTC, datetime
from typing import Literal

from redis import Redis
from rq.command import send_command
from rq.exceptions import InvalidJobOperation
from rq.job import Job
from rq.utils import utcformat

from scheduler import keys
from scheduler.jobs import UnknownJob
from scheduler.open_jobs import settle

Outcome = Literal["canceled", "stopping", "ended"]


def cancel(connection: Redis, job: Job) -> Outcome:
    """Cancel `job`; 'stopping': its worker was told; 'ended': there was nothing to cancel."""
    status = keys.script(connection, "cancel")(
        keys=[
            job.key,
            f"rq:canceled:{job.origin}",
            keys.deadlines(job.origin),
            keys.promotions(job.origin),
        ],
        args=[job.id, utcformat(datetime.now(UTC)), _kept_s(job), job.origin],
    )
    match status:
        case None:
            raise UnknownJob(job.id)
        case b"queued":
            return "canceled"
        case b"started":
            _tell_worker(connection, job)
            return "stopping"
        case b"scheduled" | b"deferred" | b"created":
            return _cancel_parked(connection, job)
    return "ended"


def request_stop(connection: Redis, job_id: str, worker: str) -> bool:
    """Record the stop of a job that `worker` runs, for its next heartbeat; False if it does not."""
    stop = keys.script(connection, "stop")
    return bool(stop(keys=[Job.key_for(job_id)], args=[worker]))


def _kept_s(job: Job) -> int:
    """Return for how long a cancelled job stays readable."""
    return job.result_ttl or job.failure_ttl or 86_400


def _tell_worker(connection: Redis, job: Job) -> None:
    job.refresh()
    if job.worker_name:
        send_command(connection, job.worker_name, "stop-job", job_id=job.id)


def _cancel_parked(connection: Redis, job: Job) -> Outcome:
    """Cancel a job that waits for a retry or for another job, by RQ's own means."""
    try:
        job.cancel()
    except InvalidJobOperation:
        return "ended"
    with connection.pipeline() as pipeline:
        pipeline.hset(job.key, "ended_at", utcformat(datetime.now(UTC)))
        pipeline.expire(job.key, _kept_s(job))
        pipeline.publish(keys.ENDED, job.id)
        pipeline.execute()
    settle(connection, job.id)
    return "canceled"
