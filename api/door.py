"""The door: what a job may expect, said when it comes and whenever it is looked at.

Who comes with a deadline that will most likely be missed is turned away, or, where the request
names one, let into its `fallback_tier` under that tier's own objectives.
"""

import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rq.job import Job, JobStatus

from api.order import Order
from api.problems import TooLate
from api.schemas import Expectation
from config.tiers import TierTable
from scheduler.admission import Admitted, Decision, Refused, at_risk, decide
from scheduler.deadlines import of_job
from scheduler.estimator import Estimator
from scheduler.line import Line

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Door:
    """Admits jobs, and says of those that wait what is in store for them."""

    tiers: TierTable
    estimator: Estimator

    def admit(self, order: Order, line: Line | None = None) -> Admitted:
        """Return how the job may come, now or behind `line`; TooLate if it would be in vain."""
        decision = self._decide(order.tier, order, line)
        if isinstance(decision, Refused) and order.fallback_tier:
            decision = self._decide(order.fallback_tier, order, line)
        if isinstance(decision, Refused):
            extra = {"event": "job.refused", "tier": order.tier, "earliest_s": decision.earliest_s}
            logger.info("job refused", extra=extra)
            raise _too_late(decision)
        return decision

    def expectation(self, job: Job) -> Expectation:
        """Return what may be said of `job` as it was fetched; nothing, unless it waits."""
        if job.get_status(refresh=False) != JobStatus.QUEUED:
            return Expectation()
        outlook = self.estimator.of(job)
        if outlook is None:
            return Expectation()
        return Expectation.of(outlook, at_risk=at_risk(of_job(job), outlook))

    def line(self) -> Line:
        """Return the line as it is now, to admit several jobs one behind the other."""
        return self.estimator.look(next(iter(self.tiers.queues)))

    def _decide(self, tier: str, order: Order, line: Line | None) -> Decision:
        outlook = self.estimator.before(order.request, tier, line)
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
