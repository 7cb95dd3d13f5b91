"""Rescue: jobs whose worker or engine died go back to the front of their queue, as suspects.

A worker's death is an expired lease; an engine's is reported by its worker. Whatever was in flight
may have been the cause, so each of those jobs is claimed alone from then on: the innocent end, and
the one that kills again is a dead letter after its `max_deliveries`-th death, apart from its own
retries. Any number of processes may rescue at once: taking a job back is one atomic step.
"""

import logging
import zlib
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import cast

from redis import Redis
from rq import Queue
from rq.defaults import DEFAULT_FAILURE_TTL
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.utils import utcformat

from scheduler import keys
from scheduler.claim import Claim

logger = logging.getLogger(__name__)

MOST_PER_CALL = 500
AMONG_OTHERS = "WorkerDied: the worker died {} times while it ran this job"
ALONE = "EngineCrash: the engine or its worker died {} times while it ran this job, at last alone"
"""Texts of dead letters; `scheduler.jobs.CAUSES` knows how they begin."""


@dataclass(frozen=True, slots=True)
class Rescued:
    """Ids of the jobs taken back."""

    requeued: list[str]
    dead: list[str]


def rescue(
    connection: Redis, queue: str, *, max_deliveries: int, grace_s: int = keys.RQ_GRACE_S
) -> Rescued:
    """Take back the jobs of `queue` whose lease has expired.

    With a `grace_s` of 0 only those that RQ's own clean-up would fail by now.
    """
    return _take_back(connection, queue, max_deliveries, [], grace_s)


def report_death(
    connection: Redis, claims: Sequence[Claim], *, max_deliveries: int
) -> list[Rescued]:
    """Take back the jobs that were in flight in an engine that died; one entry per queue."""
    by_queue: dict[str, list[str]] = {}
    for claim in claims:
        by_queue.setdefault(claim.queue, []).append(f"{claim.job.id}:{claim.execution_id}")
    return [
        _take_back(connection, queue, max_deliveries, members)
        for queue, members in by_queue.items()
    ]


def _take_back(
    connection: Redis,
    queue: str,
    max_deliveries: int,
    members: Sequence[str],
    grace_s: int = keys.RQ_GRACE_S,
) -> Rescued:
    reply = keys.script(connection, "rescue")(
        keys=[keys.started(queue), keys.failed(queue)],
        args=[
            queue,
            grace_s,
            max_deliveries,
            MOST_PER_CALL,
            utcformat(datetime.now(UTC)),
            *packed(AMONG_OTHERS.format(max_deliveries)),
            *packed(ALONE.format(max_deliveries)),
            DEFAULT_FAILURE_TTL,
            *members,
        ],
    )
    requeued, dead = ([job.decode() for job in cast(list[bytes], ids)] for ids in reply)
    for job in requeued:
        extra = {"event": "job.rescued", "job_id": job}
        logger.warning("job requeued after a death under it", extra=extra)
    for job in dead:
        logger.error("job is a dead letter", extra={"event": "job.dead_letter", "job_id": job})
        enqueue_dependents(connection, queue, job)
    return Rescued(requeued, dead)


def enqueue_dependents(connection: Redis, queue: str, job_id: str) -> None:
    """Enqueue the jobs that waited for a dead letter and may run although it failed."""
    job = Job(job_id, connection=connection, serializer=JSONSerializer)
    Queue(queue, connection=connection, serializer=JSONSerializer).enqueue_dependents(job)


def packed(text: str) -> tuple[bytes, bytes]:
    """Return the text as RQ keeps it in a job, and as it keeps it in a result."""
    packed = zlib.compress(text.encode())
    return packed, b64encode(packed)
