"""Who would soon be too late goes to the front of its own queue, and no further, within a share."""

import threading
import time

from redis import Redis
from rq import Queue
from rq.serializers import JSONSerializer

from config.tiers import Promotion, TierTable
from gpu_worker import inference
from scheduler import cancel, jobs, keys, promotion
from scheduler.claim import Claims
from scheduler.deadlines import Deadlines
from scheduler.finish import write
from scheduler.promotion import promote
from scheduler.submit import Submitter
from tests.conftest import StartWorker, until
from tests.integration.test_claim import REQUEST, claims_of, ids, submit
from tests.integration.test_finish_and_rescue import success

POLICY = Promotion(service_s=30, max_share=0.2)


def submit_urgent(submitter: Submitter, count: int, within_s: float = 35.0) -> list[str]:
    """Submit jobs whose latest start is near, each a little later than the one before."""
    now = time.time()
    deadlines = [Deadlines(None, now + within_s + n / 1000, now) for n in range(count)]
    return [submitter.submit(REQUEST, tier="batch", deadlines=d).id for d in deadlines]


def waiting(connection: Redis, queue: str = "low") -> list[str]:
    return Queue(queue, connection=connection, serializer=JSONSerializer).job_ids


def low_claims(connection: Redis) -> Claims:
    return Claims(connection, "w", ["low"], lease_s=30)


def test_an_urgent_job_is_claimed_before_those_that_came_earlier(
    connection: Redis, submitter: Submitter, tiers: TierTable
) -> None:
    early = submit(submitter, "batch", 3)
    [urgent] = submit_urgent(submitter, 1)

    assert promote(connection, "low", POLICY) == [urgent]

    assert waiting(connection) == [urgent, *early]
    taken = low_claims(connection).take(2)
    assert ids(taken) == [urgent, early[0]]
    assert [inference._priority(claim.job, tiers) for claim in taken] == [1, 200]


def test_a_promoted_job_never_passes_a_high_one(connection: Redis, submitter: Submitter) -> None:
    submit_urgent(submitter, 2)
    high = submit(submitter, "premium", 2)
    promote(connection, "low", POLICY)

    assert ids(claims_of(connection).take(2)) == high


def test_promoted_jobs_are_at_most_their_share_of_what_is_in_flight(
    connection: Redis, submitter: Submitter
) -> None:
    submit(submitter, "batch", 15)
    running = low_claims(connection).take(15)
    urgent = submit_urgent(submitter, 10)

    assert promote(connection, "low", POLICY) == urgent[:3]
    assert promote(connection, "low", POLICY) == []
    assert waiting(connection) == urgent

    taken = low_claims(connection).take(3)
    assert ids(taken) == urgent[:3]
    assert promote(connection, "low", POLICY) == []
    write(connection, "w", [success(claim, "") for claim in taken[:2]])
    assert promote(connection, "low", POLICY) == urgent[3:5]
    assert len(running) == 15


def test_where_nothing_is_in_flight_one_is_promoted(
    connection: Redis, submitter: Submitter
) -> None:
    urgent = submit_urgent(submitter, 3)

    assert promote(connection, "low", POLICY) == urgent[:1]


def test_who_has_time_is_not_promoted(connection: Redis, submitter: Submitter) -> None:
    submit(submitter, "batch", 3)

    assert promote(connection, "low", POLICY) == []
    assert connection.zcard(keys.promotions("low")) == 3


def test_nobody_passes_a_suspect_in_front(connection: Redis, submitter: Submitter) -> None:
    [suspect] = submit(submitter, "batch", 1)
    connection.hset(f"rq:job:{suspect}", "suspect", 1)
    submit_urgent(submitter, 1)

    assert promote(connection, "low", POLICY) == []


def test_who_ended_frees_its_share_however_it_ended(
    connection: Redis, submitter: Submitter
) -> None:
    first, second, third = submit_urgent(submitter, 3)
    promote(connection, "low", POLICY)
    cancel.cancel(connection, jobs.fetch(connection, first))
    assert promote(connection, "low", POLICY) == [second]
    low_claims(connection).take(1)
    connection.hset(f"rq:job:{second}", "status", "failed")

    assert promote(connection, "low", POLICY) == [third]


def test_a_job_is_promoted_once_by_many_at_once(connection: Redis, submitter: Submitter) -> None:
    submit(submitter, "batch", 100)
    low_claims(connection).take(100)
    urgent = submit_urgent(submitter, 40)
    promoted: list[str] = []

    threads = [
        threading.Thread(target=lambda: promoted.extend(promote(connection, "low", POLICY)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert promoted == urgent[:20]
    assert sorted(waiting(connection)) == sorted(urgent)


def test_a_job_is_found_wherever_it_stands(connection: Redis, submitter: Submitter) -> None:
    key, others = keys.queue("low"), [f"other-{n}" for n in range(10_001)]
    connection.rpush(key, *others)
    [in_the_middle] = submit_urgent(submitter, 1)
    connection.rpush(key, *others)
    [at_the_end] = submit_urgent(submitter, 1, within_s=36)

    for urgent in (in_the_middle, at_the_end):
        assert promote(connection, "low", POLICY) == [urgent]
        assert connection.lpop(key) == urgent.encode()
        connection.hset(f"rq:job:{urgent}", "status", "finished")

    assert connection.llen(key) == 2 * len(others)


def test_a_queue_without_a_policy_promotes_nobody(connection: Redis, submitter: Submitter) -> None:
    submit(submitter, "premium", 1)

    assert connection.exists(keys.promotions("high")) == 0


def test_the_shipped_table_promotes_just_behind_premium(tiers: TierTable) -> None:
    own = {name: promotion.priority(tier, tiers) for name, tier in tiers.tiers.items()}

    assert own == {"premium": 0, "standard": 1, "batch": 1}


def test_a_promoted_job_runs_and_is_forgotten(
    connection: Redis, submitter: Submitter, start_worker: StartWorker
) -> None:
    [urgent] = submit_urgent(submitter, 1, within_s=39.0)
    promote(connection, "low", POLICY)

    start_worker("--burst", "low")

    until(lambda: jobs.view(jobs.fetch(connection, urgent)).status in jobs.ENDED)
    assert jobs.view(jobs.fetch(connection, urgent)).status == "succeeded"
    assert connection.hget(f"rq:job:{urgent}", "promoted") is None
    assert connection.exists(keys.promotions("low")) == 0
