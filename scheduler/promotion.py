"""Promotion: a waiting job that would soon be too late goes to the front of its own queue.

Its latest start is its `start_by`, or its `finish_by` less what a job of its queue takes
(`service_s` in the SLA table). A margin before that instant, MARGIN_SHARE of its span and MARGIN_S
at least, it may be promoted: it is claimed next, though never before a queue of a higher rank, and
waits inside the engine just behind the jobs of those queues. Of what a queue has in flight at most
`max_share` are promoted jobs, and one where that is less than one, so that who waited longer keeps
the rest.

A batch at a time: while a promoted job or a suspect stands in front of the queue, none is promoted.

Promoted jobs of all tenants stand in front of the queue's own list, and are claimed before any line
has its turn; each is charged to the line that it came from (`scheduler.fair_share`).
"""

import logging
from typing import cast

from redis import Redis
from rq.job import Job

from config.tiers import Promotion, Tier, TierTable
from scheduler import keys
from scheduler.deadlines import Deadlines

logger = logging.getLogger(__name__)

MARGIN_S, MARGIN_SHARE = 10.0, 0.02
MOST_PER_CALL = 100
LOOK_AGAIN_S = 5.0
"""The pause after which a job is looked at again that is due for promotion and does not wait."""


def promote_at(deadlines: Deadlines, policy: Promotion | None) -> float | None:
    """Return from when on a job may be promoted; None if it never may."""
    last = deadlines.waits_until()
    if policy is None or last is None:
        return None
    span_s = 0.0 if deadlines.since is None else last - deadlines.since
    finish_by = deadlines.finish_by
    starts = (deadlines.start_by, None if finish_by is None else finish_by - policy.service_s)
    latest_start = min(at for at in starts if at is not None)
    return latest_start - max(MARGIN_S, MARGIN_SHARE * span_s)


def priority(tier: Tier, tiers: TierTable) -> int:
    """Return the engine priority of a promoted job: just behind the queues before its own."""
    ranks = list(tiers.queues)
    before = ranks[: ranks.index(tier.queue)]
    ahead = [t.priority for t in tiers.tiers.values() if t.queue in before]
    return min(tier.priority, max(ahead) + 1) if ahead else tier.priority


def mark(job: Job, record: dict[bytes, bytes]) -> None:
    """Note on a claimed job whether its record says that it was promoted."""
    job.promoted = b"promoted" in record  # type: ignore[attr-defined]  # not RQ's field: ours


def is_promoted(job: Job) -> bool:
    """Whether a claimed job was promoted."""
    return getattr(job, "promoted", False)


def promote(connection: Redis, queue: str, policy: Promotion) -> list[str]:
    """Move the jobs of `queue` that are due, as far as their share reaches; return their ids."""
    reply = keys.script(connection, "promote")(
        keys=[keys.promotions(queue), keys.queue(queue), keys.started(queue)],
        args=[policy.max_share, MOST_PER_CALL, LOOK_AGAIN_S, queue],
    )
    promoted = [job_id.decode() for job_id in cast(list[bytes], reply)]
    for job_id in promoted:
        extra = {"event": "job.promoted", "job_id": job_id, "queue": queue}
        logger.info("job promoted", extra=extra)
    return promoted
