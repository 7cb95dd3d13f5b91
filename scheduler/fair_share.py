"""Fair share: the tenants of one queue take turns, by weight, in work.

A tenant's jobs wait in a list of their own, its line `{queue}@{tenant}`; those of `default` and of
plain RQ producers in the queue's own list, which is a line like the others, of weight 1. All else
of a job stays that of its queue: its origin, its registries, its rank. A claim takes from the line
whose turn is the smallest, and moves that turn by the job's work over the line's weight (start-time
fair queueing): while two lines have jobs, neither falls behind its share by more than a job of
each. A line that comes begins at the smallest turn: idling earns nothing. One that is empty keeps
its turn until that is the smallest: nor does leaving and coming again.

Work is what was expected of a job (`scheduler.work`); of one that nobody estimated, the queue's
mean. What comes back from a worker stands in front of its line, and is charged again when it is
claimed. A promoted job is claimed before any line has its turn, and charged to its own line.
Workers hold few jobs that have not begun (`gpu_worker.admission`): fair claims are fair starts.

    slalom:turns:{queue}     zset   line -> its turn       written by join, claim, and what requeues
    slalom:weights:{queue}   hash   line -> weight         the same
    slalom:bell:{queue}      list   one entry while jobs wait in lines, for the doorbell

A queue without tenants' jobs has none of these keys, and is served as if there were no lines.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from redis import Redis
from redis.client import Pipeline
from rq import Queue
from rq.utils import utcformat

from scheduler import keys
from scheduler.tenants import ANYBODY

DUE_STEP = 500
"""Retries that one script call looks at."""


def line_of(queue: str, tenant: str) -> str:
    """Return the line in which a tenant's jobs wait, '' for the queue's own list."""
    return "" if tenant == ANYBODY.name else f"{queue}@{tenant}"


class LineQueue(Queue):
    """RQ's queue, that lets the jobs which it enqueues wait in one of its lines."""

    line: str
    weight: float

    def in_line(self, line: str, weight: float) -> "LineQueue":
        """Return the queue, pushing to `line` from now on; ValueError if it could have no share."""
        if not 0 < weight < math.inf:
            raise ValueError(f"the weight of {line} is {weight}: it must be above 0, and finite")
        self.line, self.weight = line, weight
        return self

    def push_job_id(
        self, job_id: str, pipeline: Pipeline | None = None, at_front: bool = False
    ) -> None:
        """Let a job wait at the end of the line."""
        client: Any = self.connection if pipeline is None else pipeline
        source = keys.source("join").decode()
        client.eval(source, 1, f"rq:job:{job_id}", self.name, job_id, self.weight, self.line)


def requeue_due(connection: Redis, queue: str) -> None:
    """Let the jobs of `queue` whose retry is due wait in their lines; others are left for RQ."""
    num_left, looked_at = 0, DUE_STEP
    while looked_at == DUE_STEP:
        now = utcformat(datetime.now(UTC))
        looked_at, left = keys.script(connection, "due")(
            keys=[keys.scheduled(queue)], args=[queue, now, DUE_STEP, num_left]
        )
        num_left += left


@dataclass(frozen=True, slots=True)
class Rival:
    """Another line of the queue, with jobs in it; `mean_work` of one of them, None: not known."""

    waiting: int
    weight: float
    turn: float
    mean_work: float | None = None


def passed_by(rivals: Iterable[Rival], until: float, mean_work: float) -> tuple[int, float]:
    """Return how many jobs, and how much work, `rivals` get before the turn `until` comes.

    A rival gets a job whenever its turn is below that; each moves its turn.
    """
    jobs, work = 0, 0.0
    for rival in rivals:
        mean = rival.mean_work or mean_work
        due = math.ceil(max(0.0, until - rival.turn) * rival.weight / mean)
        jobs += min(rival.waiting, due)
        work += min(rival.waiting, due) * mean
    return jobs, work
