"""Forget: an ended job goes at once, with its request, its results and its tokens."""

from redis import Redis
from rq.job import Job
from rq.results import Result

from scheduler import keys


def forget(connection: Redis, job: Job) -> None:
    """Delete all that is kept of `job`, which must have ended: it is looked for in no queue."""
    with connection.pipeline() as pipeline:
        job.delete(pipeline=pipeline, remove_from_queue=False)
        pipeline.delete(Result.get_key(job.id), keys.events(job.id))
        pipeline.execute()
