"""Intake: the one way by which an order becomes a job, for every route.

The order's model is looked up, its prompt measured, its deadline weighed (`api.door`), and the job
queued. What it may expect is kept with it, because the answer to its caller says so.
"""

import logging
from dataclasses import dataclass
from uuid import uuid4

from redis import Redis
from rq.job import Job

from api.door import Door
from api.order import Order
from api.problems import Invalid, RedisUnavailable
from api.prompt_length import PromptLength
from api.schemas import Expectation
from config.connections import UNAVAILABLE
from scheduler import models
from scheduler.submit import Submitter
from scheduler.tenants import Tenant

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Accepted:
    """A job as it was queued, in the tier that took it, and what was said of it then."""

    job: Job
    tier: str
    expectation: Expectation


@dataclass(frozen=True, slots=True)
class Intake:
    """Makes jobs of orders."""

    connection: Redis
    served_model: str
    prompt_length: PromptLength
    door: Door
    submitter: Submitter

    def accept(self, order: Order, tenant: Tenant, *, job_id: str | None = None) -> Accepted:
        """Queue a job; raises the Problem that stands against it."""
        job_id = job_id or str(uuid4())
        order = self._for_a_model(order)
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
            )
        except UNAVAILABLE as error:
            text = "Redis did not answer; the job may have been accepted: look before sending again"
            raise RedisUnavailable(text, instance=f"/v1/jobs/{job_id}") from error
        extra = {"event": "job.accepted", "job_id": job.id, "tier": admitted.tier}
        logger.info("job accepted", extra={**extra, "queue": job.origin, "tenant": tenant.name})
        said = Expectation.of(admitted.outlook, at_risk=admitted.at_risk)
        return Accepted(job, admitted.tier, said)

    def _for_a_model(self, order: Order) -> Order:
        """Return the order with the model that serves it; Invalid if none does or has no room."""
        lengths = {m.name: m.max_model_len for m in models.announced(self.connection)}
        name = order.request["body"].get("model") or self.served_model
        if lengths and name not in {self.served_model, *lengths}:
            text = f"there is no such model; use one of {', '.join(lengths)}"
            raise Invalid([{"field": "model", "message": text}])
        order = order.to_model(name)
        self.prompt_length.check(order, lengths.get(name))
        return order
