"""Intake: the one way by which an order becomes a job, for every route.

What its tenant may ask for is checked (`api.tenancy`), its model looked up, its prompt measured,
its deadline weighed (`api.door`), its tenant charged, and the job queued. What it may expect is
kept with it, because the answer to its caller says so. Many orders are weighed one behind the
other, and queued TOGETHER at a time.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import uuid4

from redis import Redis
from rq.job import Job

from api import idempotency
from api.door import Door, Lines
from api.order import Order
from api.problems import Problem, RedisUnavailable, UnknownModel
from api.prompt_length import PromptLength
from api.schemas import Expectation
from api.tenancy import Tenancy
from config.connections import UNAVAILABLE
from scheduler.admission import Admitted
from scheduler.limits import Charge
from scheduler.models import Lengths
from scheduler.once import Once
from scheduler.submit import Submission, Submitter
from scheduler.tenants import Tenant

logger = logging.getLogger(__name__)

TOGETHER = 50
"""Jobs of one transaction; Redis serves nobody else meanwhile."""

"""Models that are announced -> tokens of their context."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """A job as it was queued, in the tier that took it, and what was said of it then."""

    job: Job
    tier: str
    expectation: Expectation


@dataclass(frozen=True, slots=True)
class _Weighed:
    """A job that may come, how, and what its tenant was charged for it."""

    submission: Submission
    admitted: Admitted
    charge: Charge | None


@dataclass(frozen=True, slots=True)
class Intake:
    """Makes jobs of orders."""

    connection: Redis
    served_model: str
    prompt_length: PromptLength
    door: Door
    submitter: Submitter
    tenancy: Tenancy
    lengths: Lengths

    def accept(
        self, order: Order, tenant: Tenant, *, job_id: str | None = None, once: Once | None = None
    ) -> Accepted:
        """Queue a job; raises the Problem that stands against it.

        AlreadyMade if a request with the key of `once` made its job before.
        """
        job_id = job_id or str(uuid4())
        with idempotency.conflicts():
            if once:
                once.check(self.connection)
            weighed = self._weigh(order, tenant, job_id=job_id, lines=self.door.lines(tenant))
            try:
                job = self.submitter.make(weighed.submission, once)
            except UNAVAILABLE as error:
                self.tenancy.give_back(weighed.charge)
                raise _in_doubt(job_id) from error
            except Exception:
                self.tenancy.give_back(weighed.charge)
                raise
        return _accepted(job, weighed.admitted, tenant)

    def accept_many(self, orders: Sequence[Order], tenant: Tenant) -> list[Accepted | Problem]:
        """Queue jobs in the order given; in place of one that may not come, what is against it.

        Once Redis is away nothing more is tried; raises RedisError if it was away from the start.
        """
        outcomes = list[Accepted | Problem]()
        for start in range(0, len(orders), TOGETHER):
            try:
                outcomes += self._accept_together(orders[start : start + TOGETHER], tenant)
            except UNAVAILABLE:
                if not outcomes:
                    raise
                text = "Redis did not answer; this job was not accepted: send it again"
                return [*outcomes, *[RedisUnavailable(text)] * (len(orders) - start)]
        return outcomes

    def _accept_together(self, orders: Sequence[Order], tenant: Tenant) -> list[Accepted | Problem]:
        """Queue in one transaction those that may come."""
        weighed = self._weigh_all(orders, tenant)
        passed = [entry for entry in weighed if isinstance(entry, _Weighed)]
        try:
            jobs = self.submitter.submit_many([entry.submission for entry in passed])
        except UNAVAILABLE:
            return [
                self._undone(entry) if isinstance(entry, _Weighed) else entry for entry in weighed
            ]
        queued = iter(jobs)
        return [
            _accepted(next(queued), entry.admitted, tenant)
            if isinstance(entry, _Weighed)
            else entry
            for entry in weighed
        ]

    def _undone(self, weighed: _Weighed) -> Problem:
        self.tenancy.give_back(weighed.charge)
        return _in_doubt(weighed.submission.job_id)

    def _weigh_all(self, orders: Sequence[Order], tenant: Tenant) -> list[_Weighed | Problem]:
        """Return how each order may come behind those before it."""
        lines, weighed = self.door.lines(tenant), list[_Weighed | Problem]()
        for order in orders:
            try:
                entry = self._weigh(order, tenant, job_id=str(uuid4()), lines=lines)
            except Problem as problem:
                weighed.append(problem)
                continue
            weighed.append(entry)
            queue = self.submitter.tiers.tiers[entry.admitted.tier].queue
            lines.join(queue, entry.admitted.outlook.size.work)
        return weighed

    def _weigh(
        self,
        order: Order,
        tenant: Tenant,
        *,
        job_id: str,
        lines: Lines,
    ) -> _Weighed:
        """Return how an order may come; its tenant is charged for it."""
        self.tenancy.permit(order, tenant)
        order, prompt_tokens = self._for_a_model(order, tenant)
        admitted = self.door.admit(order, lines)
        charge = self.tenancy.charge(
            order, tenant, admitted, job_id=job_id, prompt_tokens=prompt_tokens
        )
        submission = Submission(
            order.request,
            admitted.tier,
            tenant.name,
            order.metadata,
            job_id,
            admitted.deadlines,
            admitted.outlook,
            order.stream,
            charge.account if charge else None,
            tenant.weight,
        )
        return _Weighed(submission, admitted, charge)

    def _for_a_model(self, order: Order, tenant: Tenant) -> tuple[Order, int | None]:
        """Return the order with the model that serves it, and the tokens of its prompt.

        Invalid if no model does or has room; None for tokens that were not counted.
        """
        name = order.request["body"].get("model") or self.served_model
        self.tenancy.permit_model(name, tenant)
        lengths = self.lengths.of(name)
        if lengths and name not in {self.served_model, *lengths}:
            known = ", ".join(model for model in lengths if tenant.may_ask(model))
            text = f"there is no such model; use one of {known}"
            raise UnknownModel([{"field": "model", "message": text}])
        order = order.to_model(name)
        return order, self.prompt_length.check(order, lengths.get(name))


def _accepted(job: Job, admitted: Admitted, tenant: Tenant) -> Accepted:
    extra = {"event": "job.accepted", "job_id": job.id, "tier": admitted.tier}
    logger.info("job accepted", extra={**extra, "queue": job.origin, "tenant": tenant.name})
    said = Expectation.of(admitted.outlook, at_risk=admitted.at_risk)
    return Accepted(job, admitted.tier, said)


def _in_doubt(job_id: str | None) -> RedisUnavailable:
    text = "Redis did not answer; the job may have been accepted: look before sending again"
    return RedisUnavailable(text, instance=f"/v1/jobs/{job_id}")
