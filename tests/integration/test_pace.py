"""What a worker measures reaches those who estimate, and what it promised is scored."""

import pytest
from redis import Redis

from config.tiers import TierTable
from scheduler import keys, rates
from scheduler.estimate import Promise
from scheduler.estimator import Estimator
from scheduler.jobs import Request
from scheduler.submit import Submitter
from tests.conftest import StartWorker, until

REQUEST = Request(
    endpoint="/v1/completions", body={"prompt": "1+1=", "max_tokens": 40, "simulate": 10}
)


def test_what_is_measured_becomes_an_estimate(
    connection: Redis, submitter: Submitter, tiers: TierTable, start_worker: StartWorker
) -> None:
    slow = Request(endpoint="/v1/completions", body={"prompt": "1", "max_tokens": 150})
    for _ in range(400):
        submitter.submit(slow, tier="batch")

    start_worker(SLALOM_LEASE_S="3")
    until(lambda: Estimator(connection, tiers).before(REQUEST, "batch").forecast)
    outlook = Estimator(connection, tiers).before(REQUEST, "batch")
    submitter.submit(REQUEST, tier="batch", outlook=outlook)

    [worker] = rates.published(connection)
    assert set(worker.most) == {"high", "low"}
    assert worker.tiers["batch"].output.mean == pytest.approx(150)
    assert worker.tiers["batch"].share.mean == pytest.approx(1.0)
    assert worker.surprise.mean == pytest.approx(1.0, abs=0.01)
    p50, p90, finish_p50 = outlook.start_s(0.5), outlook.start_s(0.9), outlook.finish_s(0.5)
    assert p50 is not None
    assert p90 is not None
    assert finish_p50 is not None
    assert 0 < p50 < p90
    assert p50 < finish_p50
    until(lambda: connection.llen(keys.scores("low")))
    start, finish = map(float, connection.lindex(keys.scores("low"), 0).split())
    assert abs(start) < 1000
    assert abs(finish) < 1000


def test_a_tier_is_learnt_from_the_answers(
    connection: Redis, submitter: Submitter, start_worker: StartWorker
) -> None:
    for _ in range(30):
        submitter.submit(REQUEST, tier="standard")

    start_worker(SLALOM_LEASE_S="1")
    until(lambda: [w for w in rates.published(connection) if "standard" in w.tiers])
    until(lambda: rates.published(connection)[0].tiers["standard"].output.total > 250)

    [worker] = rates.published(connection)
    tier = worker.tiers["standard"]
    assert tier.output.mean == pytest.approx(10)
    assert tier.share.mean == pytest.approx(0.25)
    assert (tier.token_s.mean or 0) > 0


def test_a_worker_that_has_left_is_not_counted(
    connection: Redis, start_worker: StartWorker
) -> None:
    worker = start_worker(SLALOM_LEASE_S="1")
    until(lambda: rates.published(connection))

    worker.signal(15)
    worker.wait()

    assert rates.published(connection) == []


def test_a_job_without_a_promise_is_not_scored(connection: Redis, submitter: Submitter) -> None:
    job = submitter.submit(REQUEST, tier="batch")

    assert Promise.read(connection.hget(job.key, "promise")) is None
    assert connection.hget(job.key, "place") == b"1 0 40 low"
