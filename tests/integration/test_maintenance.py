"""Maintenance does what is due, and its failure in one duty is no failure in another."""

import threading
import time
from datetime import timedelta

import pytest
from redis import Redis
from redis.exceptions import RedisError
from rq import Queue
from rq.serializers import JSONSerializer

from config.tiers import Promotion
from scheduler import cancel, jobs
from scheduler.deadlines import Deadlines
from scheduler.maintenance import Maintenance
from scheduler.submit import Submitter
from tests.conftest import until
from tests.integration.test_claim import REQUEST, claims_of, submit
from tests.integration.test_finish_and_rescue import expire


def test_a_dead_workers_jobs_and_due_retries_are_queued_again(
    connection: Redis, submitter: Submitter
) -> None:
    [job_id] = submit(submitter, "batch", 1)
    [claim] = claims_of(connection).take(1)
    expire(connection, claim)
    low = Queue("low", connection=connection, serializer=JSONSerializer)
    due = low.enqueue_in(timedelta(seconds=-5), "tests.callables.nothing")
    maintenance = Maintenance(connection, ["high", "low"], max_deliveries=3, lease_s=30)

    until(lambda: (maintenance.upkeep(), len(low.job_ids) == 2)[1])

    assert set(low.job_ids) == {job_id, due.id}
    maintenance.close()


def test_a_second_one_at_the_same_time_is_harmless(connection: Redis, submitter: Submitter) -> None:
    submit(submitter, "batch", 5)
    for claim in claims_of(connection).take(5):
        expire(connection, claim)
    first, second = (
        Maintenance(connection, ["low"], max_deliveries=3, lease_s=30) for _ in range(2)
    )

    first.upkeep()
    second.upkeep()

    low = Queue("low", connection=connection)
    assert len(low.job_ids) == len(set(low.job_ids)) == 5


def submit_due(submitter: Submitter, finish_by: float) -> str:
    deadlines = Deadlines(finish_by=finish_by)
    return submitter.submit(REQUEST, tier="batch", deadlines=deadlines).id


def test_late_jobs_end_once_and_urgent_ones_go_first_under_two_at_once(
    connection: Redis, submitter: Submitter
) -> None:
    now = time.time()
    late, urgent = (
        [submit_due(submitter, now + at + n / 1000) for n in range(50)] for at in (-1, 20)
    )
    easy = submit(submitter, "batch", 10)
    policies = {"low": Promotion(service_s=30)}

    def keep_up() -> None:
        maintenance = Maintenance(connection, ["low"], 3, 30, policies)
        for _ in range(5):
            maintenance.upkeep()

    threads = [threading.Thread(target=keep_up) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    low = Queue("low", connection=connection, serializer=JSONSerializer)
    assert sorted(low.failed_job_registry.get_job_ids()) == sorted(late)
    assert {connection.xlen(f"rq:results:{job_id}") for job_id in late} == {1}
    assert low.job_ids == [*urgent, *easy]
    assert [connection.hexists(f"rq:job:{job_id}", "promoted") for job_id in urgent[:2]] == [1, 0]


def test_ids_of_canceled_jobs_go_when_their_records_have_gone(
    connection: Redis, submitter: Submitter
) -> None:
    kept, gone = submit(submitter, "batch", 2)
    for job_id in (kept, gone):
        cancel.cancel(connection, jobs.fetch(connection, job_id))
    connection.delete(f"rq:job:{gone}")

    Maintenance(connection, ["low"], max_deliveries=3, lease_s=30).upkeep()

    assert connection.zrange("rq:canceled:low", 0, -1) == [kept.encode()]


def test_a_duty_that_fails_does_not_stop_the_others(
    connection: Redis, submitter: Submitter, monkeypatch: pytest.MonkeyPatch
) -> None:
    [gone] = submit(submitter, "batch", 1)
    cancel.cancel(connection, jobs.fetch(connection, gone))
    connection.delete(f"rq:job:{gone}")

    def unreachable(*_: object, **__: object) -> None:
        raise RedisError("away")

    monkeypatch.setattr("scheduler.maintenance.rescue", unreachable)
    Maintenance(connection, ["low"], max_deliveries=3, lease_s=30).upkeep()

    assert connection.zcard("rq:canceled:low") == 0


def test_after_redis_was_away_workers_can_renew_before_their_jobs_are_taken_back(
    connection: Redis, submitter: Submitter, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit(submitter, "batch", 1)
    [claim] = claims_of(connection).take(1)
    maintenance = Maintenance(connection, ["low"], max_deliveries=3, lease_s=1.0)

    def unreachable(*_: object, **__: object) -> None:
        raise RedisError("away")

    with monkeypatch.context() as away:
        away.setattr("scheduler.maintenance.rescue", unreachable)
        maintenance.upkeep()
    expire(connection, claim)
    maintenance.upkeep()

    assert claims_of(connection).renew([claim]) == ["held"]
    expire(connection, claim)
    maintenance.upkeep()
    assert claims_of(connection).renew([claim]) == ["lost"]
