"""Submission: a tier becomes a queue, and the request a job of RQ's, in one transaction.

`Queue.enqueue_call` writes the job and its place in the queue in one transaction: a job is accepted
whole or not at all.
"""

import time
from dataclasses import dataclass

from redis import Redis
from rq import Queue, Retry
from rq.job import Job
from rq.serializers import JSONSerializer

from config.tiers import RetryPolicy, Tier, TierTable
from scheduler.deadlines import Deadlines
from scheduler.jobs import FUNCTION, Request


class UnknownTier(Exception):
    """No tier of that name is in the SLA table."""


@dataclass(frozen=True, slots=True)
class Submitter:
    """Routes requests to the queues of their tiers."""

    connection: Redis
    tiers: TierTable

    def submit(
        self,
        request: Request,
        *,
        tier: str,
        tenant: str = "default",
        metadata: dict[str, str] | None = None,
        job_id: str | None = None,
        deadlines: Deadlines | None = None,
    ) -> Job:
        """Return the queued job; UnknownTier, or RedisError if it was not accepted.

        Without `deadlines` the tier's objectives give them.
        """
        policy = self._policy(tier)
        deadlines = deadlines or Deadlines.of(policy.objectives, time.time())
        queue = Queue(policy.queue, connection=self.connection, serializer=JSONSerializer)
        with self.connection.pipeline() as pipeline:
            job = queue.enqueue_call(
                FUNCTION,
                args=(request,),
                timeout=policy.limits.job_timeout_s,
                result_ttl=policy.retention.result_ttl_s,
                failure_ttl=policy.retention.failure_ttl_s,
                description=f"{tier} {request['endpoint']}",
                job_id=job_id,
                meta={"tier": tier, "tenant": tenant, "metadata": metadata or {}},
                retry=_retry(policy.retry),
                pipeline=pipeline,
            )
            if fields := deadlines.fields():
                pipeline.hset(job.key, mapping=fields)
            pipeline.execute()
        return job

    def _policy(self, tier: str) -> Tier:
        try:
            return self.tiers.tiers[tier]
        except KeyError:
            raise UnknownTier(tier) from None


def _retry(policy: RetryPolicy) -> Retry | None:
    """Return how often, for all to see; `scheduler.retry` knows when."""
    return Retry(max=policy.max) if policy.max else None
