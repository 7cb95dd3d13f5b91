"""A Redis that is full refuses new jobs and loses none of the accepted ones."""

from collections.abc import Iterator

import pytest
from redis import Redis
from redis.exceptions import OutOfMemoryError

from api.app import create_app
from config.settings import Settings
from scheduler import jobs
from scheduler.submit import Submitter
from tests.conftest import StartWorker, until
from tests.integration.test_worker import LONG, SHORT, all_ended, num_inflight


@pytest.fixture
def _room(connection: Redis) -> Iterator[None]:
    """Give the server its memory back after the test."""
    yield
    connection.config_set("maxmemory", 0)


def fill(connection: Redis) -> None:
    """Allow less memory than is used already."""
    connection.config_set("maxmemory", "1mb")
    until(lambda: refuses(connection))


def refuses(connection: Redis) -> bool:
    try:
        connection.set("probe", "x")
    except OutOfMemoryError:
        return True
    return False


@pytest.mark.usefixtures("_room")
def test_a_new_job_is_refused_with_503_and_when_to_come_again(
    connection: Redis, settings: Settings
) -> None:
    client = create_app(settings).test_client()
    fill(connection)

    reply = client.post("/v1/jobs", json={"prompt": "1+1="})

    assert reply.status_code == 503
    assert "Retry-After" in reply.headers


@pytest.mark.usefixtures("_room")
def test_results_wait_until_there_is_room(
    connection: Redis, submitter: Submitter, start_worker: StartWorker
) -> None:
    ids = [submitter.submit(SHORT, tier="batch").id for _ in range(20)]
    long = submitter.submit({**LONG, "body": {**LONG["body"], "max_tokens": 1000}}, tier="batch").id
    worker = start_worker("low", SLALOM_LEASE_S="5")
    until(lambda: num_inflight(connection) == 1)  # the short ones have ended

    fill(connection)
    until(lambda: "results wait for Redis" in worker.log)
    connection.config_set("maxmemory", 0)

    until(lambda: all_ended(connection, [*ids, long]))
    views = [jobs.view(jobs.fetch(connection, job_id)) for job_id in [*ids, long]]
    assert {view.status for view in views} == {"succeeded"}
