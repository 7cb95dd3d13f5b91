"""High and low jobs have room of their own in a worker; this one has 64 seats and no gate."""

import pytest
from redis import Redis

from scheduler import jobs, keys
from scheduler.jobs import Request
from scheduler.submit import Submitter
from tests.conftest import StartWorker, until

SHORT = Request(endpoint="/v1/completions", body={"prompt": "1+1=", "max_tokens": 2})
LONG = Request(endpoint="/v1/completions", body={"prompt": "1+1=", "max_tokens": 4000})


@pytest.mark.parametrize(
    ("environment", "most_low"),
    [
        ({}, 56),
        ({"SLALOM_RESERVE_SEATS": "20"}, 44),
        ({"SLALOM_RESERVE_SEATS": "64"}, 1),
        ({"SLALOM_MAX_INFLIGHT": "10"}, 10),
    ],
    ids=["an eighth", "reserve", "all", "the operator's limit"],
)
def test_a_worker_with_as_many_low_jobs_as_it_may_hold_takes_high_ones_at_once_and_no_low_one(
    connection: Redis,
    submitter: Submitter,
    start_worker: StartWorker,
    environment: dict[str, str],
    most_low: int,
) -> None:
    low = [submitter.submit(LONG, tier="batch").id for _ in range(100)]
    start_worker("high", "low", **environment)
    until(lambda: connection.zcard(keys.started("low")) == most_low)

    high = [submitter.submit(SHORT, tier="premium").id for _ in range(40)]

    until(lambda: all(status_of(connection, job_id) == "succeeded" for job_id in high))
    statuses = [status_of(connection, job_id) for job_id in low]
    assert statuses == ["running"] * most_low + ["queued"] * (100 - most_low)


def status_of(connection: Redis, job_id: str) -> str:
    return jobs.view(jobs.fetch(connection, job_id)).status
