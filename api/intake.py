"""Intake: the one way by which an order becomes a job, for every route.

The order's model is looked up, its prompt measured, its deadline weighed (`api.door`), and the job
queued. What it may expect is kept with it, because the answer to its caller says so. Many orders
are weighed one behind the other, and queued TOGETHER at a time.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import uuid4

from redis import Redis
from rq.job import Job

from api import idempotency
from api.door import Door
from api.order import Order
from api.problems import Invalid, Problem, RedisUnavailable
from api.prompt_length import PromptLength
from api.schemas import Expectation
from config.connections import UNAVAILABLE
from scheduler import models
from scheduler.admission import Admitted
from scheduler.once import Once
from scheduler.submit import Submission, Submitter
from scheduler.tenants import Tenant

logger = logging.getLogger(__name__)

TOGETHER = 50
"""Jobs of one transaction; Redis serves nobody else meanwhile."""

Lengths = dict[str, int]
"""Models that are announced -> tokens of their context."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """A job as it was queued, in the tier that took it, and what was said of it then."""

    job: Job
    tier: str
    expectation: Expectation


@dataclass(frozen=True, slots=True)
class _Weighed:
    """A job that may come, and how."""

    submission: Submission
    admitted: Admitted


@dataclass(frozen=True, slots=True)
class Intake:
    """Makes jobs of orders."""

    connection: Redis
    served_model: str
    prompt_length: PromptLength
    door: Door
    submitter: Submitter

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
            order = self._for_a_model(order, self._lengths())
            admitted = self.door.admit(order)
            try:
                job = self.submitter.submit(
                    order.request,
                    tier=admitted.tier,
                    tenant=tenant.name,
                    metadata=order.metadata,
                    job_id=job_id,
                    deadlines=admitted.deadlines,
                    outlook=admitted.outlook,
                    stream=order.stream,
                    once=once,
                )
            except UNAVAILABLE as error:
                raise _in_doubt(job_id) from error
        return _accepted(job, admitted, tenant)

    def accept_many(self, orders: Sequence[Order], tenant: Tenant) -> list[Accepted | Problem]:
        """Queue jobs in the order given; in place of one that may not come, what is against it.

        Once Redis is away nothing more is tried; raises RedisError if it was away from the start.
        """
        lengths, outcomes = self._lengths(), list[Accepted | Problem]()
        for start in range(0, len(orders), TOGETHER):
            try:
                outcomes += self._accept_together(orders[start : start + TOGETHER], tenant, lengths)
            except UNAVAILABLE:
                if not outcomes:
                    raise
                text = "Redis did not answer; this job was not accepted: send it again"
                return [*outcomes, *[RedisUnavailable(text)] * (len(orders) - start)]
        return outcomes

    def _accept_together(
        self, orders: Sequence[Order], tenant: Tenant, lengths: Lengths
    ) -> list[Accepted | Problem]:
        """Queue in one transaction those that may come."""
        weighed = self._weigh(orders, tenant, lengths)
        passed = [entry for entry in weighed if isinstance(entry, _Weighed)]
        try:
            jobs = self.submitter.submit_many([entry.submission for entry in passed])
        except UNAVAILABLE:
            return [
                _in_doubt(entry.submission.job_id) if isinstance(entry, _Weighed) else entry
                for entry in weighed
            ]
        queued = iter(jobs)
        return [
            _accepted(next(queued), entry.admitted, tenant)
            if isinstance(entry, _Weighed)
            else entry
            for entry in weighed
        ]

    def _weigh(
        self, orders: Sequence[Order], tenant: Tenant, lengths: Lengths
    ) -> list[_Weighed | Problem]:
        """Return how each order may come behind those before it."""
        line, weighed = self.door.line(), list[_Weighed | Problem]()
        for order in orders:
            try:
                served = self._for_a_model(order, lengths)
                admitted = self.door.admit(served, line)
            except Problem as problem:
                weighed.append(problem)
                continue
            weighed.append(_Weighed(_submission(served, admitted, tenant), admitted))
            queue = self.submitter.tiers.tiers[admitted.tier].queue
            line = line.to(queue).joined(admitted.outlook.size.work)
        return weighed

    def _lengths(self) -> Lengths:
        return {m.name: m.max_model_len for m in models.announced(self.connection)}

    def _for_a_model(self, order: Order, lengths: Lengths) -> Order:
        """Return the order with the model that serves it; Invalid if none does or has no room."""
        name = order.request["body"].get("model") or self.served_model
        if lengths and name not in {self.served_model, *lengths}:
            text = f"there is no such model; use one of {', '.join(lengths)}"
            raise Invalid([{"field": "model", "message": text}])
        order = order.to_model(name)
        self.prompt_length.check(order, lengths.get(name))
        return order


def _submission(order: Order, admitted: Admitted, tenant: Tenant) -> Submission:
    return Submission(
        order.request,
        admitted.tier,
        tenant.name,
        order.metadata,
        str(uuid4()),
        admitted.deadlines,
        admitted.outlook,
        order.stream,
    )


def _accepted(job: Job, admitted: Admitted, tenant: Tenant) -> Accepted:
    extra = {"event": "job.accepted", "job_id": job.id, "tier": admitted.tier}
    logger.info("job accepted", extra={**extra, "queue": job.origin, "tenant": tenant.name})
    said = Expectation.of(admitted.outlook, at_risk=admitted.at_risk)
    return Accepted(job, admitted.tier, said)


def _in_doubt(job_id: str | None) -> RedisUnavailable:
    text = "Redis did not answer; the job may have been accepted: look before sending again"
    return RedisUnavailable(text, instance=f"/v1/jobs/{job_id}")
