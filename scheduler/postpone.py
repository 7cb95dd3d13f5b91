"""Postpone: a job that failed and runs again later goes to RQ's scheduled registry, in one step.

RQ itself takes several steps, the registry first and the record last: a job that falls due in
between is queued, then marked `scheduled`, and no claim takes it any more. And it cuts the due
instant to the second, by which short pauses vanish; here the fraction stays in the score. RQ's
scheduler looks at whole seconds, so it takes a job up to a second late and never early.
"""

from datetime import datetime
from typing import Literal, cast

from redis import Redis
from rq.utils import utcformat

from scheduler import keys
from scheduler.claim import Claim

Postponed = Literal["written", "lost", "stop"]


def postpone(
    connection: Redis, worker: str, claim: Claim, *, delay_s: float, ended_at: datetime
) -> Postponed:
    """Schedule the job and charge it a retry; 'lost', 'stop' (cancelled): nothing was written."""
    job = claim.job
    verdict = keys.script(connection, "postpone")(
        keys=[
            job.key,
            keys.started(claim.queue),
            keys.scheduled(claim.queue),
            keys.queue(claim.queue),
            keys.worker(worker),
        ],
        args=[
            job.id,
            claim.execution_id,
            delay_s,
            utcformat(ended_at),
            (ended_at - claim.claimed_at).total_seconds(),
        ],
    )
    return cast(Postponed, verdict.decode())
