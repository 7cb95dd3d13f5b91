"""A tier becomes a queue, and a waiting job that is cancelled never runs."""

import pytest
from redis import Redis
from rq import Queue
from rq.job import Job, JobStatus

from config.tiers import TierTable
from scheduler import cancel, jobs
from scheduler.submit import Submitter, UnknownTier
from tests.integration.test_claim import REQUEST, claims_of, submit


def test_a_job_is_rqs_own_with_its_tiers_terms(
    connection: Redis, submitter: Submitter, tiers: TierTable
) -> None:
    submitted = submitter.submit(REQUEST, tier="premium", tenant="acme", metadata={"k": "v"})

    job = jobs.fetch(connection, submitted.id)
    terms = tiers.tiers["premium"]
    assert job.origin == "high"
    assert job.func_name == "gpu_worker.generate"
    assert job.args == [REQUEST]
    assert job.meta == {"tier": "premium", "tenant": "acme", "metadata": {"k": "v"}}
    assert job.timeout == terms.limits.job_timeout_s
    assert job.result_ttl == terms.retention.result_ttl_s
    assert job.failure_ttl == terms.retention.failure_ttl_s
    assert job.retries_left == terms.retry.max
    assert job.retry_intervals == [0]
    assert Queue("high@acme", connection=connection).job_ids == [job.id]


def test_the_prompt_is_not_in_the_jobs_description(submitter: Submitter) -> None:
    job = submitter.submit(REQUEST, tier="batch")

    assert job.description == "batch /v1/completions"


def test_an_unknown_tier_is_refused(submitter: Submitter) -> None:
    with pytest.raises(UnknownTier):
        submitter.submit(REQUEST, tier="gold")


def test_a_cancelled_waiting_job_is_never_claimed(connection: Redis, submitter: Submitter) -> None:
    [job_id] = submit(submitter, "batch", 1)

    outcome = cancel.cancel(connection, jobs.fetch(connection, job_id))

    assert outcome == "canceled"
    assert claims_of(connection).take(1) == []
    job = jobs.fetch(connection, job_id)
    assert job.get_status() == JobStatus.CANCELED
    assert jobs.view(job).status == "canceled"
    assert connection.ttl(job.key) > 0


def test_cancelling_a_running_job_tells_its_worker(connection: Redis, submitter: Submitter) -> None:
    [job_id] = submit(submitter, "batch", 1)
    claims = claims_of(connection, "w9")
    [claim] = claims.take(1)
    listener = connection.pubsub(ignore_subscribe_messages=True)
    listener.subscribe("rq:pubsub:w9")
    listener.get_message(timeout=5)

    outcome = cancel.cancel(connection, jobs.fetch(connection, job_id))

    assert outcome == "stopping"
    message = listener.get_message(timeout=5)
    assert message is not None
    assert job_id.encode() in message["data"]
    assert claims.renew([claim]) == ["stop"]
    listener.close()


def test_a_worker_may_stop_what_it_runs_and_nothing_else(
    connection: Redis, submitter: Submitter
) -> None:
    mine, theirs, waiting = submit(submitter, "batch", 3)
    claims = claims_of(connection, "w9")
    [claim] = claims.take(1)
    [other] = claims_of(connection, "w8").take(1)

    said = [
        cancel.request_stop(connection, job_id, "w9")
        for job_id in (mine, theirs, waiting, "unknown")
    ]

    assert said == [True, False, False, False]
    assert claims.renew([claim, other]) == ["stop", "held"]
    assert not connection.exists(Job.key_for("unknown"))


def test_an_ended_job_cannot_be_cancelled_again(connection: Redis, submitter: Submitter) -> None:
    [job_id] = submit(submitter, "batch", 1)
    cancel.cancel(connection, jobs.fetch(connection, job_id))

    assert cancel.cancel(connection, jobs.fetch(connection, job_id)) == "ended"


def test_a_job_that_is_gone_is_unknown(connection: Redis, submitter: Submitter) -> None:
    job = submitter.submit(REQUEST, tier="batch")
    connection.delete(job.key)

    with pytest.raises(jobs.UnknownJob):
        cancel.cancel(connection, job)
    with pytest.raises(jobs.UnknownJob):
        jobs.fetch(connection, job.id)
