"""Open jobs: counted from the moment they are accepted until they have ended, however that is."""

from collections.abc import Callable
from datetime import UTC, datetime
from random import Random

import pytest
from redis import Redis
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from config.tiers import TierTable
from scheduler import cancel, jobs, keys
from scheduler.claim import Claims
from scheduler.dead_letters import DeadLetters
from scheduler.expiry import expire as end_late
from scheduler.finish import write
from scheduler.jobs import Request
from scheduler.limits import Charged, admit
from scheduler.maintenance import Maintenance
from scheduler.open_jobs import Sweep, settle
from scheduler.postpone import postpone
from scheduler.rescue import rescue
from scheduler.submit import Submitter
from scheduler.tenants import UNLIMITED, TierLimits
from tests.conftest import StartWorker, until
from tests.integration.customers import customer
from tests.integration.test_claim import claims_of
from tests.integration.test_finish_and_rescue import expire, success
from tests.integration.test_limits import TENANT, TIER, accept, charge, of


def finished(connection: Redis, claims: Claims) -> None:
    [claim] = claims.take(1)
    assert write(connection, "w", [success(claim, {})]) == ["written"]


def buried(connection: Redis, claims: Claims) -> None:
    [claim] = claims.take(1)
    expire(connection, claim)
    assert rescue(connection, "low", max_deliveries=1).dead


def late(connection: Redis, claims: Claims) -> None:
    connection.hset("rq:job:job", "finish_by", 1)
    connection.zadd(keys.deadlines("low"), {"job": 1})
    assert end_late(connection, "low").expired == ["job"]


def canceled(connection: Redis, claims: Claims) -> None:
    assert cancel.cancel(connection, jobs.fetch(connection, "job")) == "canceled"


def canceled_before_its_retry(connection: Redis, claims: Claims) -> None:
    [claim] = claims.take(1)
    postpone(connection, "w", claim, delay_s=60, ended_at=datetime.now(UTC))
    assert of(connection).open_jobs == 2
    canceled(connection, claims)


def failed_by_rq(connection: Redis, claims: Claims) -> None:
    claims.take(1)
    settle(connection, "job")
    assert of(connection).open_jobs == 2
    Job.fetch("job", connection=connection, serializer=JSONSerializer).set_status(JobStatus.FAILED)
    settle(connection, "job")


ENDS = [finished, buried, late, canceled, canceled_before_its_retry, failed_by_rq]


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
def test_a_job_is_open_until_it_has_ended_in_whichever_way(
    connection: Redis, submitter: Submitter, end: Callable[[Redis, Claims], None]
) -> None:
    accept(submitter, "job", 30)
    accept(submitter, "other", 4)

    end(connection, claims_of(connection))

    assert (of(connection).open_jobs, of(connection).open_tokens) == (1, 4)
    assert connection.zrange(keys.open_jobs(TENANT, TIER), 0, -1) == [b"other:4"]


def test_a_job_that_is_rescued_or_handed_back_stays_open(
    connection: Redis, submitter: Submitter
) -> None:
    accept(submitter, "job")
    claims = claims_of(connection)
    [claim] = claims.take(1)
    expire(connection, claim)
    rescue(connection, "low", max_deliveries=3)
    assert of(connection).open_jobs == 1

    claims.release(claims.take(1))

    assert (of(connection).open_jobs, of(connection).open_tokens) == (1, 10)


def test_a_replayed_dead_letter_is_open_again(
    connection: Redis, submitter: Submitter, tiers: TierTable
) -> None:
    accept(submitter, "job")
    buried(connection, claims_of(connection))
    assert of(connection).open_jobs == 0

    DeadLetters(connection, tiers).replay("job")

    assert (of(connection).open_jobs, of(connection).open_tokens) == (1, 10)


def test_a_job_that_rq_deleted_gives_its_place_back_when_the_limit_is_hit(
    connection: Redis, submitter: Submitter
) -> None:
    for name in ("deleted", "canceled", "alive"):
        accept(submitter, name)
        connection.zadd(keys.open_jobs(TENANT, TIER), {f"{name}:10": 1})
    jobs.fetch(connection, "deleted").delete()
    jobs.fetch(connection, "canceled").cancel()
    admit(connection, charge("arriving"), UNLIMITED)  # its record will come
    assert of(connection).open_jobs == 4

    outcome = admit(connection, charge("new"), TierLimits(max_open_jobs=3))

    assert isinstance(outcome, Charged)
    left = {member.decode() for member in connection.zrange(keys.open_jobs(TENANT, TIER), 0, -1)}
    assert left == {"alive:10", "arriving:10", "new:10"}
    assert of(connection).open_tokens == 30


def test_maintenance_finds_what_left_unseen_wherever_it_stands(
    connection: Redis, submitter: Submitter
) -> None:
    customer(connection, TENANT)
    gone = set(Random(1).sample(range(1200), 300))
    with connection.pipeline() as pipeline:
        for number in range(1200):
            pipeline.zadd(keys.open_jobs(TENANT, TIER), {f"job{number}:1": number})
            if number not in gone:
                pipeline.hset(f"rq:job:job{number}", "status", "queued")
        pipeline.hset(keys.open_tokens(TENANT), TIER, 1200)
        pipeline.execute()

    Maintenance(connection, ["high", "low"], 3, 30.0).upkeep()

    left = connection.zrange(keys.open_jobs(TENANT, TIER), 0, -1)
    assert [member.decode() for member in left] == [
        f"job{number}:1" for number in range(1200) if number not in gone
    ]
    assert of(connection).open_tokens == 900
    assert Sweep(connection).step() == 0


def test_the_last_open_job_leaves_nothing_behind(connection: Redis, submitter: Submitter) -> None:
    accept(submitter, "job")
    connection.hincrby(keys.open_tokens(TENANT), TIER, 99)  # whatever went wrong before

    canceled(connection, claims_of(connection))

    assert not connection.exists(keys.open_jobs(TENANT, TIER), keys.open_tokens(TENANT))


def test_jobs_that_a_real_worker_ends_leave_whatever_their_ending(
    connection: Redis, submitter: Submitter, start_worker: StartWorker
) -> None:
    body = {"prompt": "1+1=", "max_tokens": 4000}
    accept(submitter, "long", request=Request(endpoint="/v1/completions", body=body))
    accept(submitter, "bad", request=Request(endpoint="/v1/nothing", body={}))
    accept(submitter, "good")

    start_worker()
    until(lambda: of(connection).open_jobs == 1)
    until(lambda: jobs.view(jobs.fetch(connection, "long")).status == "running")
    assert cancel.cancel(connection, jobs.fetch(connection, "long")) == "stopping"

    until(lambda: of(connection).open_jobs == 0)
    statuses = [jobs.view(jobs.fetch(connection, name)).status for name in ("good", "bad", "long")]
    assert statuses == ["succeeded", "failed", "canceled"]
