"""At most one execution ends a job, and a job of a dead worker is ended by another."""

from datetime import UTC, datetime

import pytest
from redis import Redis
from rq import Queue
from rq.job import Job, JobStatus
from rq.registry import FailedJobRegistry, FinishedJobRegistry, StartedJobRegistry
from rq.serializers import JSONSerializer

from scheduler import jobs, keys
from scheduler.claim import Claim, Claims
from scheduler.finish import Success, write
from scheduler.rescue import rescue
from scheduler.submit import Submitter
from tests.integration.test_claim import claims_of, submit


def success(claim: Claim, value: object) -> Success:
    return Success(claim, value, datetime.now(UTC), result_ttl=500)


def expire(connection: Redis, claim: Claim) -> None:
    """Let a lease expire now."""
    member = f"{claim.job.id}:{claim.execution_id}"
    connection.hset(f"rq:execution:{member}", "lease_until", 1)
    connection.zadd(keys.started(claim.queue), {member: 1 + keys.RQ_GRACE_S})


def fetch(connection: Redis, claim: Claim) -> Job:
    return Job.fetch(claim.job.id, connection=connection, serializer=JSONSerializer)


def test_results_are_what_rq_itself_would_read(connection: Redis, submitter: Submitter) -> None:
    submit(submitter, "batch", 3)
    claims = claims_of(connection)
    taken = claims.take(3)

    verdicts = write(connection, "w", [success(c, {"n": n}) for n, c in enumerate(taken)])

    assert verdicts == ["written"] * 3
    assert [fetch(connection, c).return_value() for c in taken] == [{"n": 0}, {"n": 1}, {"n": 2}]
    queue = Queue("low", connection=connection, serializer=JSONSerializer)
    assert set(FinishedJobRegistry(queue=queue).get_job_ids()) == {c.job.id for c in taken}
    assert StartedJobRegistry(queue=queue).get_job_ids() == []
    assert fetch(connection, taken[0]).get_status() == JobStatus.FINISHED


def test_a_late_result_of_a_worker_thought_dead_is_not_written(
    connection: Redis, submitter: Submitter
) -> None:
    submit(submitter, "batch", 1)
    [first] = claims_of(connection, "w1").take(1)
    expire(connection, first)
    rescue(connection, "low", max_deliveries=3)
    [second] = claims_of(connection, "w2").take(1)

    late = write(connection, "w1", [success(first, "late")])
    timely = write(connection, "w2", [success(second, "timely")])

    assert (late, timely) == (["lost"], ["written"])
    assert fetch(connection, second).return_value() == "timely"
    assert len(fetch(connection, second).results()) == 1


def test_an_expired_lease_puts_the_job_in_front_of_its_queue(
    connection: Redis, submitter: Submitter
) -> None:
    submitted = submit(submitter, "batch", 3)
    first, second = claims_of(connection).take(2)
    expire(connection, first)

    rescued = rescue(connection, "low", max_deliveries=3)

    assert rescued.requeued == [first.job.id]
    assert Queue("low", connection=connection).job_ids == [submitted[0], submitted[2]]
    assert fetch(connection, first).get_status() == JobStatus.QUEUED
    assert fetch(connection, second).get_status() == JobStatus.STARTED


def test_the_last_allowed_death_makes_a_dead_letter_with_its_cause(
    connection: Redis, submitter: Submitter
) -> None:
    submit(submitter, "batch", 1)
    for _ in range(2):
        [claim] = claims_of(connection).take(1)
        expire(connection, claim)
        rescue(connection, "low", max_deliveries=2)

    queue = Queue("low", connection=connection, serializer=JSONSerializer)
    assert FailedJobRegistry(queue=queue).get_job_ids() == [claim.job.id]
    view = jobs.view(fetch(connection, claim))
    assert view.status == "failed"
    assert view.failure is not None
    assert view.failure["code"] == "engine_crash"
    assert "died 2 times" in view.failure["message"]
    assert connection.ttl(claim.job.key) > 0
    assert queue.job_ids == []


def test_rqs_own_clean_up_does_not_fail_what_rescue_will_take(
    connection: Redis, submitter: Submitter
) -> None:
    submit(submitter, "batch", 1)
    [claim] = Claims(connection, "w", ["low"], lease_s=0.0).take(1)

    StartedJobRegistry("low", connection=connection, serializer=JSONSerializer).cleanup()
    rescued = rescue(connection, "low", max_deliveries=3)

    assert rescued.requeued == [claim.job.id]


def test_a_job_that_others_depend_on_is_left_to_rq(connection: Redis, submitter: Submitter) -> None:
    [job_id] = submit(submitter, "batch", 1)
    queue = Queue("low", connection=connection, serializer=JSONSerializer)
    queue.enqueue("tests.callables.nothing", depends_on=job_id)
    [claim] = claims_of(connection).take(1)

    verdicts = write(connection, "w", [success(claim, 1)])

    assert verdicts == ["dependents"]
    assert fetch(connection, claim).get_status() == JobStatus.STARTED


@pytest.mark.parametrize("ttl", [500, -1])
def test_a_result_is_kept_for_its_time(connection: Redis, submitter: Submitter, ttl: int) -> None:
    submit(submitter, "batch", 1)
    [claim] = claims_of(connection).take(1)

    write(connection, "w", [Success(claim, 1, datetime.now(UTC), result_ttl=ttl)])

    lifetimes = {connection.ttl(claim.job.key), connection.ttl(f"rq:results:{claim.job.id}")}
    assert all(0 < life <= 500 for life in lifetimes) if ttl > 0 else lifetimes == {-1}
