"""The door: what a job may expect, said when it comes and whenever it is looked at.

Who comes with a deadline that will most likely be missed, or to a queue that is full, is turned
away, or, where the request names one, let into its `fallback_tier` under that tier's own
objectives.
"""

import logging
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from rq.job import Job, JobStatus

from api.order import Order
from api.problems import QueueFull, TooLate
from api.schemas import Expectation
from config.tiers import TierTable
from scheduler.admission import Admitted, Decision, Full, Refused, at_risk, decide, full
from scheduler.deadlines import of_job
from scheduler.estimator import Estimator
from scheduler.line import Line
from scheduler.tenants import ANYBODY, Tenant

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Lines:
    """What stands before jobs that a tenant sends together: each stands before those behind it."""

    estimator: Estimator
    tenant: Tenant = ANYBODY
    _seen: dict[str, Line] = field(default_factory=dict, init=False)
    _joined: list[tuple[str, int]] = field(default_factory=list, init=False)

    def of(self, queue: str) -> Line:
        """Return what stands before the next of them, if it comes to `queue`."""
        if queue not in self._seen:
            line = self.estimator.look(queue, self.tenant)
            for other, work in self._joined:
                line = line.joined(other, work)
            self._seen[queue] = line
        return self._seen[queue]

    def join(self, queue: str, work: int) -> None:
        """Note that one of them will come to `queue`, with so much work."""
        self._joined.append((queue, work))
        self._seen = {name: line.joined(queue, work) for name, line in self._seen.items()}


@dataclass(frozen=True, slots=True)
class Door:
    """Admits jobs, and says of those that wait what is in store for them."""

    tiers: TierTable
    estimator: Estimator

    def lines(self, tenant: Tenant) -> Lines:
        """Return the lines before jobs of `tenant`."""
        return Lines(self.estimator, tenant)

    def admit(self, order: Order, lines: Lines) -> Admitted:
        """Return how the job may come; TooLate if it would be in vain, QueueFull without room."""
        decision = self._decide(order.tier, order, lines)
        if not isinstance(decision, Admitted) and order.fallback_tier:
            decision = self._decide(order.fallback_tier, order, lines)
        if isinstance(decision, Refused):
            extra = {"event": "job.refused", "tier": order.tier, "earliest_s": decision.earliest_s}
            logger.info("job refused", extra=extra)
            raise _too_late(decision)
        if isinstance(decision, Full):
            extra = {"event": "queue.full", "tier": order.tier, "queue": decision.queue}
            logger.warning("job refused, queue full", extra={**extra, "limit": decision.limit})
            raise _no_room(decision)
        return decision

    def expectation(self, job: Job) -> Expectation:
        """Return what may be said of `job` as it was fetched; nothing, unless it waits."""
        if job.get_status(refresh=False) != JobStatus.QUEUED:
            return Expectation()
        outlook = self.estimator.of(job)
        if outlook is None:
            return Expectation()
        return Expectation.of(outlook, at_risk=at_risk(of_job(job), outlook))

    def _decide(self, tier: str, order: Order, lines: Lines) -> Decision:
        line = lines.of(self.tiers.tiers[tier].queue)
        outlook = self.estimator.before(order.request, tier, line)
        if no_room := full(tier, self.tiers.tiers[tier].limits, outlook):
            return no_room
        return decide(tier, order.deadlines(self.tiers, outlook.at, tier), outlook)


def _too_late(refused: Refused) -> TooLate:
    outlook = refused.outlook
    text = (
        f"{refused.deadline} would most likely be missed in tier {refused.tier}; ask for "
        f"{refused.earliest_s} s or more, or come back in {refused.retry_after_s} s"
    )
    earliest_at = datetime.fromtimestamp(outlook.at + refused.earliest_s, UTC)
    members: dict[str, Any] = {
        "tier": refused.tier,
        "deadline": refused.deadline,
        "earliest_feasible_deadline": {
            "within_s": refused.earliest_s,
            "at": earliest_at.isoformat(timespec="seconds"),
        },
        "work_ahead_tokens": round(outlook.work_ahead or 0),
        "rate_tokens_per_s": round(outlook.rate or 0, 1),
        **Expectation.of(outlook).model_dump(mode="json", exclude={"at_risk"}),
    }
    return TooLate(text, retry_after_s=refused.retry_after_s, **members)


def _no_room(full: Full) -> QueueFull:
    text = (
        f"queue {full.queue} is full for jobs of tier {full.tier}: {full.queued_jobs} jobs with "
        f"about {full.queued_tokens} tokens wait in it, and {full.limit} is {full.most}; come back "
        f"in {full.retry_after_s} s"
    )
    members: dict[str, Any] = {
        "tier": full.tier,
        "queue": full.queue,
        "limit": full.limit,
        "limit_value": full.most,
        "queued_jobs": full.queued_jobs,
        "queued_tokens": full.queued_tokens,
    }
    return QueueFull(text, retry_after_s=full.retry_after_s, **members)
