"""Submission: a tier becomes a queue, and the request a job of RQ's, in one transaction.

`Queue.enqueue_call` writes the job and puts it into the queue, a tenant's into the tenant's line
there; its deadlines, its promise and its places, in the line and in the list of its tenant's jobs,
are written with it: a job is accepted whole or not at all. Many jobs may share one transaction; one
with a key of its own is made once only (`scheduler.once`).
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from redis import Redis
from redis.client import Pipeline
from rq import Queue, Retry
from rq.serializers import JSONSerializer

from config.tiers import RetryPolicy, Tier, TierTable
from scheduler import keys
from scheduler.deadlines import DatedJob, Deadlines
from scheduler.estimate import Outlook
from scheduler.fair_share import LineQueue, line_of
from scheduler.job_pages import enlist
from scheduler.jobs import FUNCTION, Request
from scheduler.line import enter
from scheduler.once import Once
from scheduler.promotion import promote_at
from scheduler.work import size


class UnknownTier(Exception):
    """No tier of that name is in the SLA table."""


@dataclass(frozen=True, slots=True)
class Submission:
    """A request to be queued in `tier`; the rest is as in `Submitter.submit`."""

    request: Request
    tier: str
    tenant: str = "default"
    metadata: dict[str, str] | None = None
    job_id: str | None = None
    deadlines: Deadlines | None = None
    outlook: Outlook | None = None
    stream: bool = False
    account: str | None = None
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Submitter:
    """Routes requests to the queues of their tiers."""

    connection: Redis
    tiers: TierTable
    _queues: dict[str, Queue] = field(default_factory=dict, init=False)

    def submit(
        self,
        request: Request,
        *,
        tier: str,
        tenant: str = "default",
        weight: float = 1.0,
        metadata: dict[str, str] | None = None,
        job_id: str | None = None,
        deadlines: Deadlines | None = None,
        outlook: Outlook | None = None,
        stream: bool = False,
        account: str | None = None,
    ) -> DatedJob:
        """Return the queued job; UnknownTier, or RedisError if it was not accepted.

        Without `deadlines` the tier's objectives give them. The job keeps the promise of `outlook`.
        With `stream` its tokens are kept as they come. `account` is that of its `limits.Charge`.
        `weight` is the tenant's share of the queue beside other tenants that have jobs there.
        """
        submission = Submission(
            request, tier, tenant, metadata, job_id, deadlines, outlook, stream, account, weight
        )
        return self.make(submission)

    def make(self, submission: Submission, once: Once | None = None) -> DatedJob:
        """Return the queued job; with `once` it raises what `Once.make` does."""
        if once:
            return once.make(self.connection, lambda pipeline: self.add(pipeline, submission))
        [job] = self.submit_many([submission])
        return job

    def submit_many(self, submissions: Sequence[Submission]) -> list[DatedJob]:
        """Return the queued jobs, all of one transaction: either every one is accepted or none."""
        with self.connection.pipeline() as pipeline:
            queued = [self.add(pipeline, submission) for submission in submissions]
            pipeline.execute()
        return queued

    def add(self, pipeline: Pipeline, submission: Submission) -> DatedJob:
        """Return the job that the transaction will queue, as `submit` would."""
        tier, request, outlook = submission.tier, submission.request, submission.outlook
        policy = self._policy(tier)
        deadlines = submission.deadlines or Deadlines.of(policy.objectives, time.time())
        line = line_of(policy.queue, submission.tenant)
        queue = self._queue(policy.queue, line, submission.weight)
        job = queue.enqueue_call(
            FUNCTION,
            args=(request,),
            timeout=policy.limits.job_timeout_s,
            result_ttl=policy.retention.result_ttl_s,
            failure_ttl=policy.retention.failure_ttl_s,
            description=f"{tier} {request['endpoint']}",
            job_id=submission.job_id,
            meta={
                "tier": tier,
                "tenant": submission.tenant,
                "metadata": submission.metadata or {},
            },
            retry=_retry(policy.retry),
            pipeline=pipeline,
        )
        assert isinstance(job, DatedJob)
        job.deadlines = deadlines
        fields = self._watch(job, pipeline)
        if outlook and outlook.promise:
            fields["promise"] = outlook.promise.text()
        if submission.stream:
            fields["stream"] = "1"
        if submission.account:
            fields["account"] = submission.account
        if fields:
            pipeline.hset(job.key, mapping=fields)
        expected = outlook.size if outlook else size(request)
        enter(pipeline, job.key, policy.queue, expected.work, line)
        enlist(pipeline, job, submission.tenant)
        return job

    def _queue(self, name: str, line: str, weight: float) -> Queue:
        """Return the queue, or one that enqueues into `line`."""
        if not line and name in self._queues:
            return self._queues[name]
        options: dict[str, Any] = {
            "connection": self.connection,
            "serializer": JSONSerializer,
            "job_class": DatedJob,
        }
        if line:
            return LineQueue(name, **options).in_line(line, weight)
        return self._queues.setdefault(name, Queue(name, **options))

    def _watch(self, job: DatedJob, pipeline: Pipeline) -> dict[Any, str]:
        """Add the job to those that are looked after; return its deadlines' fields."""
        until = job.deadlines.waits_until()
        if until is None:
            return {}
        fields = job.deadlines.fields()
        pipeline.zadd(keys.deadlines(job.origin), {job.id: until})
        at = promote_at(job.deadlines, self.tiers.queues[job.origin].promotion)
        if at is not None:
            fields["promote_at"] = f"{at:.3f}"
            pipeline.zadd(keys.promotions(job.origin), {job.id: at})
        return fields

    def _policy(self, tier: str) -> Tier:
        try:
            return self.tiers.tiers[tier]
        except KeyError:
            raise UnknownTier(tier) from None


def _retry(policy: RetryPolicy) -> Retry | None:
    """Return how often, for all to see; `scheduler.retry` knows when."""
    return Retry(max=policy.max) if policy.max else None
