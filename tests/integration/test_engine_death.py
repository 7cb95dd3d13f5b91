"""An engine that dies or hangs is replaced; of what was inside, only the culprit is charged."""

import signal
from pathlib import Path

import psutil
import pytest
from redis import Redis
from rq import Queue
from rq.registry import FailedJobRegistry, StartedJobRegistry
from rq.serializers import JSONSerializer
from rq.suspension import resume, suspend

from scheduler import jobs, keys
from scheduler.jobs import JobView, Request
from scheduler.rescue import rescue
from scheduler.submit import Submitter
from tests.conftest import StartWorker, until

NUM_INNOCENT = 64


def request(max_tokens: int = 8, **more: object) -> Request:
    return Request(
        endpoint="/v1/completions", body={"prompt": "1+1=", "max_tokens": max_tokens, **more}
    )


def view_of(connection: Redis, job_id: str) -> JobView:
    return jobs.view(jobs.fetch(connection, job_id))


def submit_with_culprit(submitter: Submitter, culprit: Request) -> tuple[list[str], str]:
    """Return the ids of 64 innocents and of the one among them that kills."""
    half = NUM_INNOCENT // 2
    tiers = ["premium", "batch"] * half
    before = [submitter.submit(request(), tier=tier).id for tier in tiers[:half]]
    poison = submitter.submit(culprit, tier="batch").id
    after = [submitter.submit(request(), tier=tier).id for tier in tiers[half:]]
    return before + after, poison


def assert_only_culprit_charged(connection: Redis, innocents: list[str], poison: str) -> None:
    assert {view_of(connection, job_id).status for job_id in innocents} == {"succeeded"}
    for job_id in innocents:
        assert connection.hmget(f"rq:job:{job_id}", "worker_deaths", "suspect") == [None, None]
        assert len(jobs.fetch(connection, job_id).results()) == 1
    failure = view_of(connection, poison).failure
    assert failure is not None
    assert failure["code"] == "engine_crash"
    assert (
        connection.hget(f"rq:job:{poison}", "worker_deaths") == b"3"
    )  # among others, alone, alone
    low = Queue("low", connection=connection, serializer=JSONSerializer)
    assert FailedJobRegistry(queue=low).get_job_ids() == [poison]
    assert StartedJobRegistry(queue=low).get_job_ids() == []


@pytest.mark.parametrize("fault", ["crash", "hang"])
def test_of_64_innocents_and_one_that_kills_the_engine_only_that_one_is_a_dead_letter(
    connection: Redis, submitter: Submitter, start_worker: StartWorker, fault: str
) -> None:
    innocents, poison = submit_with_culprit(submitter, request(simulate=fault))

    worker = start_worker("--burst", "high", "low", SLALOM_STEP_TIMEOUT_S="1")

    assert worker.wait() == 0, worker.log
    assert_only_culprit_charged(connection, innocents, poison)


def test_of_64_innocents_and_one_that_kills_the_worker_only_that_one_is_a_dead_letter(
    connection: Redis, submitter: Submitter, start_worker: StartWorker
) -> None:
    innocents, poison = submit_with_culprit(submitter, request())
    low = Queue("low", connection=connection, serializer=JSONSerializer)
    jobs.fetch(connection, poison).delete()
    low.enqueue("tests.callables.die", job_id=poison, at_front=True)

    deaths = 0
    while start_worker("--burst", "high", "low", SLALOM_LEASE_S="1").wait() == -signal.SIGKILL:
        deaths += 1
        until(lambda: not rescue_all(connection))

    assert deaths == 3
    assert_only_culprit_charged(connection, innocents, poison)


def rescue_all(connection: Redis) -> int:
    """Rescue what has expired; return how many jobs are still in flight."""
    for queue in ("high", "low"):
        rescue(connection, queue, max_deliveries=3)
    return sum(connection.zcard(keys.started(queue)) for queue in ("high", "low"))


def test_a_suspect_waits_for_its_turn_and_lets_higher_queues_pass(
    connection: Redis, submitter: Submitter, start_worker: StartWorker
) -> None:
    long = submitter.submit(request(400), tier="batch").id
    start_worker()
    until(lambda: view_of(connection, long).status == "running")
    suspend(connection)
    suspect = submitter.submit(request(), tier="batch")
    connection.hset(suspect.key, "suspect", 1)
    resume(connection)
    behind = submitter.submit(request(), tier="batch").id
    high = submitter.submit(request(), tier="premium").id

    until(lambda: view_of(connection, behind).status == "succeeded")

    views = [view_of(connection, job_id) for job_id in (high, long, suspect.id, behind)]
    started = [view.started_at for view in views if view.started_at]
    ended = [view.finished_at for view in views if view.finished_at]
    assert len(started) == len(ended) == 4
    assert ended == sorted(ended)
    assert ended[1] <= started[2]
    assert ended[2] <= started[3]


def test_a_callable_in_flight_lives_through_the_death_of_the_engine(
    connection: Redis, submitter: Submitter, start_worker: StartWorker, tmp_path: Path
) -> None:
    low = Queue("low", connection=connection, serializer=JSONSerializer)
    goal = tmp_path / "goal"
    waiting = low.enqueue("tests.callables.wait_for", str(goal))
    worker = start_worker()
    until(lambda: view_of(connection, waiting.id).status == "running")

    submitter.submit(request(simulate="crash"), tier="premium")
    until(lambda: "engine replaced" in worker.log)
    goal.touch()

    until(lambda: view_of(connection, waiting.id).status == "succeeded")
    assert connection.hget(waiting.key, "worker_deaths") is None


def test_a_worker_told_to_stop_while_its_engine_is_replaced_leaves_at_once(
    connection: Redis, submitter: Submitter, start_worker: StartWorker
) -> None:
    poison = submitter.submit(request(simulate="crash"), tier="batch").id
    worker = start_worker()
    until(lambda: "engine died" in worker.log)

    worker.signal(signal.SIGTERM)

    assert worker.wait() == 0
    assert view_of(connection, poison).status in {"queued", "failed"}
    assert not psutil.pid_exists(worker.process.pid)
