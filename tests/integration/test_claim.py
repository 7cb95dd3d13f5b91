"""A claim is one step: high first, each job once, in a list at every instant."""

import threading
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from rq import Queue
from rq.job import Job, JobStatus
from rq.registry import StartedJobRegistry
from rq.serializers import JSONSerializer

from scheduler import keys
from scheduler.claim import Claim, Claims
from scheduler.jobs import Request
from scheduler.submit import Submitter

REQUEST = Request(endpoint="/v1/completions", body={"prompt": "1+1="})


def claims_of(connection: Redis, worker: str = "w", lease_s: float = 30.0) -> Claims:
    return Claims(connection, worker, ["high", "low"], lease_s)


def submit(submitter: Submitter, tier: str, count: int) -> list[str]:
    return [submitter.submit(REQUEST, tier=tier).id for _ in range(count)]


def ids(claims: list[Claim]) -> list[str]:
    return [claim.job.id for claim in claims]


def test_high_is_claimed_before_low_however_late_it_came(
    connection: Redis, submitter: Submitter
) -> None:
    low = submit(submitter, "batch", 5)
    high = submit(submitter, "premium", 2)

    taken = claims_of(connection).take(4)

    assert ids(taken) == high + low[:2]


SUBMIT = st.tuples(st.sampled_from(["premium", "batch"]), st.integers(1, 6))
TAKE = st.tuples(st.integers(0, 8), st.integers(0, 5), st.integers(0, 5))


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(SUBMIT | SUBMIT | TAKE, max_size=20))
def test_no_low_job_is_claimed_while_a_high_one_waits_whatever_each_queue_may_give(
    connection: Redis, submitter: Submitter, life: list[tuple[Any, ...]]
) -> None:
    connection.flushdb()
    claims = claims_of(connection)
    waiting: dict[str, list[str]] = {"high": [], "low": []}

    for event in life:
        if len(event) == 2:
            tier, count = event
            waiting["high" if tier == "premium" else "low"] += submit(submitter, tier, count)
            continue
        count, most_high, most_low = event
        high = waiting["high"][: min(count, most_high)]
        del waiting["high"][: len(high)]
        low = [] if waiting["high"] else waiting["low"][: min(count - len(high), most_low)]
        del waiting["low"][: len(low)]

        assert ids(claims.take(count, most=[most_high, most_low])) == high + low


def test_a_claimed_job_is_started_in_rqs_own_records(
    connection: Redis, submitter: Submitter
) -> None:
    [job_id] = submit(submitter, "premium", 1)

    [claim] = claims_of(connection, worker="w1").take(8)

    job = Job.fetch(job_id, connection=connection, serializer=JSONSerializer)
    queue = Queue("high", connection=connection, serializer=JSONSerializer)
    assert job.get_status() == JobStatus.STARTED
    assert job.worker_name == "w1"
    assert job.started_at is not None
    assert queue.job_ids == []
    registry = StartedJobRegistry(queue=queue)
    assert registry.get_job_and_execution_ids() == [(job_id, claim.execution_id)]
    [execution] = job.get_executions()
    assert execution.worker_name == "w1"
    assert claim.job.args[0] == REQUEST


def test_every_job_is_claimed_once_by_many_workers_at_once(
    connection: Redis, submitter: Submitter
) -> None:
    submitted = submit(submitter, "batch", 300)
    taken: list[str] = []

    def claim_all(worker: str) -> None:
        claims = claims_of(connection, worker)
        while batch := claims.take(7):
            taken.extend(ids(batch))

    threads = [threading.Thread(target=claim_all, args=(f"w{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert Counter(taken) == Counter(submitted)
    assert connection.zcard(keys.started("low")) == 300


def test_what_was_cancelled_or_has_vanished_is_dropped(
    connection: Redis, submitter: Submitter
) -> None:
    canceled, vanished, kept = submit(submitter, "batch", 3)
    connection.hset(f"rq:job:{canceled}", "status", "canceled")
    connection.delete(f"rq:job:{vanished}")

    taken = claims_of(connection).take(2)

    assert ids(taken) == [kept]
    assert connection.llen(keys.queue("low")) == 0


def test_nothing_is_claimed_while_rq_is_suspended(connection: Redis, submitter: Submitter) -> None:
    submit(submitter, "premium", 1)
    connection.set("rq:suspended", 1)

    assert claims_of(connection).take(1) == []

    connection.delete("rq:suspended")
    assert len(claims_of(connection).take(1)) == 1


def test_a_lease_is_renewed_lost_or_told_to_stop(connection: Redis, submitter: Submitter) -> None:
    submit(submitter, "batch", 3)
    claims = claims_of(connection)
    held, lost, stopped = claims.take(3)
    before = connection.zscore(keys.started("low"), f"{held.job.id}:{held.execution_id}")
    connection.zrem(keys.started("low"), f"{lost.job.id}:{lost.execution_id}")
    connection.hset(stopped.job.key, "stop_requested", 1)

    verdicts = claims.renew([held, lost, stopped])

    assert verdicts == ["held", "lost", "stop"]
    after = connection.zscore(keys.started("low"), f"{held.job.id}:{held.execution_id}")
    assert after is not None
    assert before is not None
    assert after > before
    assert connection.zscore(keys.started("low"), f"{lost.job.id}:{lost.execution_id}") is None


def test_released_jobs_go_to_the_front_in_their_order_uncharged(
    connection: Redis, submitter: Submitter
) -> None:
    submitted = submit(submitter, "batch", 4)
    claims = claims_of(connection)
    taken = claims.take(2)

    assert claims.release(taken) == 2

    assert Queue("low", connection=connection).job_ids == submitted
    job = Job.fetch(submitted[0], connection=connection, serializer=JSONSerializer)
    assert job.get_status() == JobStatus.QUEUED
    assert connection.hget(job.key, "worker_deaths") is None
    assert connection.zcard(keys.started("low")) == 0
    assert claims.release(taken) == 0


def test_an_id_that_stands_in_the_queue_twice_is_run_once(
    connection: Redis, submitter: Submitter
) -> None:
    [job_id] = submit(submitter, "batch", 1)
    connection.rpush(keys.queue("low"), job_id)

    taken = claims_of(connection).take(8)

    assert ids(taken) == [job_id]
    assert connection.zcard(keys.started("low")) == 1


def test_what_a_claim_took_whose_reply_was_lost_is_put_back_in_order_uncharged(
    connection: Redis, submitter: Submitter, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted = submit(submitter, "batch", 5)
    claims = claims_of(connection)
    evalsha = Redis.evalsha

    def without_reply(self: Redis, *args: Any) -> None:
        evalsha(self, *args)
        raise RedisConnectionError("the reply was lost")

    with monkeypatch.context() as broken:
        broken.setattr(Redis, "evalsha", without_reply)
        keys.script(connection, "claim")  # its first use loads it
        with pytest.raises(RedisConnectionError):
            claims.take(3)
    assert connection.zcard(keys.started("low")) == 3

    taken = claims.take(5)

    assert ids(taken) == submitted
    assert connection.zcard(keys.started("low")) == 5
    assert connection.hget(taken[0].job.key, "worker_deaths") is None
