"""Rescue: an expired lease is a worker's death; its jobs go back to the front of their queue.

A death is counted apart from the job's own retries. After `max_deliveries` deaths the job is a dead
letter: RQ's failed registry, with the cause in its result. Any number of processes may rescue at
once: taking a job back is one atomic step.
"""

import logging
import zlib
from base64 import b64encode
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import cast

from redis import Redis
from rq.defaults import DEFAULT_FAILURE_TTL
from rq.utils import utcformat

from scheduler import keys
from scheduler.jobs import WORKER_DIED

logger = logging.getLogger(__name__)

MOST_PER_CALL = 500


@dataclass(frozen=True, slots=True)
class Rescued:
    """Ids of the jobs taken back."""

    requeued: list[str]
    dead: list[str]


def rescue(connection: Redis, queue: str, *, max_deliveries: int) -> Rescued:
    """Take back the jobs of `queue` whose lease has expired."""
    cause = f"{WORKER_DIED} the worker died {max_deliveries} times while it ran this job".encode()
    text = zlib.compress(cause)
    reply = keys.script(connection, "rescue")(
        keys=[keys.started(queue), keys.queue(queue), f"rq:failed:{queue}"],
        args=[
            queue,
            keys.RQ_GRACE_S,
            max_deliveries,
            MOST_PER_CALL,
            utcformat(datetime.now(UTC)),
            text,
            b64encode(text),
            DEFAULT_FAILURE_TTL,
        ],
    )
    requeued, dead = ([job.decode() for job in cast(list[bytes], ids)] for ids in reply)
    for job in requeued:
        logger.warning(
            "job requeued after its worker died", extra={"event": "job.rescued", "job_id": job}
        )
    for job in dead:
        logger.error("job is a dead letter", extra={"event": "job.dead_letter", "job_id": job})
    return Rescued(requeued, dead)
