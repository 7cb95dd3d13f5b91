"""Whatever a record holds and whatever a function does, the job fails alone."""

import pytest
from redis import Redis
from rq import Queue
from rq.serializers import JSONSerializer

from scheduler import jobs
from scheduler.submit import Submitter
from tests.conftest import StartWorker
from tests.integration.test_worker import SHORT, num_inflight


def test_a_record_that_cannot_be_read_fails_its_job_alone(
    connection: Redis, submitter: Submitter, start_worker: StartWorker
) -> None:
    damages = {
        "meta": b"[1]",
        "data": b"\x00",
        "enqueued_at": b"yesterday",
        "retries_left": b"some",
        "timeout": b"soon",
        "result_ttl": b"long",
    }
    damaged = [submitter.submit(SHORT, tier="batch") for _ in damages]
    sound = submitter.submit(SHORT, tier="batch")
    for job, (field, value) in zip(damaged, damages.items(), strict=True):
        connection.hset(job.key, field, value)

    worker = start_worker("--burst", "high", "low")

    assert worker.wait() == 0, worker.log
    statuses = [connection.hget(job.key, "status") for job in (*damaged, sound)]
    assert statuses == [b"failed"] * len(damages) + [b"finished"]
    assert num_inflight(connection) == 0


@pytest.mark.parametrize("function", ["no_json", "leave", "leave_later"])
def test_a_function_that_misbehaves_fails_its_job_alone(
    connection: Redis, submitter: Submitter, start_worker: StartWorker, function: str
) -> None:
    low = Queue("low", connection=connection, serializer=JSONSerializer)
    bad = low.enqueue(f"tests.callables.{function}")
    sound = submitter.submit(SHORT, tier="batch")

    worker = start_worker("--burst", "high", "low")

    assert worker.wait() == 0, worker.log
    assert jobs.view(jobs.fetch(connection, bad.id)).status == "failed"
    assert jobs.view(jobs.fetch(connection, sound.id)).status == "succeeded"
    assert num_inflight(connection) == 0
