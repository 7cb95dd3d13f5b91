"""RQ's commands, and RQ's command line beside a worker that has many jobs in flight."""

import json
import signal
import subprocess
from collections.abc import Iterator
from functools import partial

import pytest
from redis import Redis
from rq import Queue, Retry
from rq.command import (
    send_command,
    send_kill_horse_command,
    send_shutdown_command,
    send_stop_job_command,
)
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer
from rq.worker import BaseWorker, Worker

from scheduler.autoscaler.local_pool import worker_command
from tests.conftest import StartWorker, latest, until
from tests.contract.conftest import MODULE, QUEUE, Service


def rq_cli(url: str, *arguments: str) -> str:
    """Return what RQ's command line says."""
    [rq, *_] = worker_command()
    command = [rq, arguments[0], "-u", url, *arguments[1:]]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout


def record(service: Service) -> BaseWorker:
    [worker] = Worker.all(connection=service.connection, serializer=JSONSerializer)
    return worker


def results(job: Job) -> str:
    return str(latest(job).exc_string)


@pytest.fixture(autouse=True)
def _nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let every job go that a test of the shared worker left behind."""
    yield
    if "service" in request.fixturenames:
        service: Service = request.getfixturevalue("service")
        service.connection.delete("rq:suspended")
        if not service.is_at_rest():
            send_kill_horse_command(service.connection, service.worker.name)
        until(service.is_at_rest)


def test_stop_job_stops_one_of_many(service: Service) -> None:
    jobs = [service.enqueue("until_told") for _ in range(5)]
    service.wait_until_started(*jobs)

    send_stop_job_command(service.connection, jobs[2].id, JSONSerializer)

    service.wait(jobs[2])
    assert jobs[2].get_status() == JobStatus.STOPPED
    assert "stopped by user" in results(jobs[2])
    assert jobs[2].id in service.queue.failed_job_registry
    rest = [job for job in jobs if job is not jobs[2]]
    assert {job.get_status() for job in rest} == {JobStatus.STARTED}
    service.go(*rest)
    service.wait(*rest)
    assert {job.return_value(refresh=True) for job in rest} == {"told"}


def test_stop_job_meets_a_job_whose_claim_is_still_on_its_way(service: Service) -> None:
    for _ in range(50):
        job = service.enqueue("until_told")
        stop = json.dumps({"command": "stop-job", "job_id": job.id})
        until(partial(service.connection.hget, job.key, "worker_name"), pause_s=0)

        service.connection.publish(f"rq:pubsub:{service.worker.name}", stop)

        service.wait(job)
        assert job.get_status() == JobStatus.STOPPED


def test_a_stopped_job_is_not_retried(service: Service) -> None:
    job = service.enqueue("until_told", retry=Retry(max=3))
    service.wait_until_started(job)

    send_stop_job_command(service.connection, job.id, JSONSerializer)

    service.wait(job)
    assert job.get_status() == JobStatus.STOPPED


def test_what_a_worker_cannot_stop_it_ignores(service: Service) -> None:
    job = service.enqueue("until_told")
    service.wait_until_started(job)

    send_command(service.connection, service.worker.name, "stop-job", job_id="unknown")
    send_command(service.connection, service.worker.name, "no-such-command")

    service.go(job)
    service.wait(job)
    assert job.get_status() == JobStatus.FINISHED


def test_kill_horse_fails_what_is_in_flight_and_the_worker_goes_on(service: Service) -> None:
    jobs = [service.enqueue("until_told") for _ in range(3)]
    thread = service.enqueue("tests.callables.loop_for_ever")
    again = service.enqueue("until_told", retry=Retry(max=1, interval=60))
    service.wait_until_started(*jobs, thread, again)

    send_kill_horse_command(service.connection, service.worker.name)

    service.wait(*jobs, thread, again)
    assert {job.get_status() for job in (*jobs, thread)} == {JobStatus.FAILED}
    assert "kill-horse" in results(jobs[0])
    assert again.get_status() == JobStatus.SCHEDULED
    last = service.enqueue("tests.callables.nothing")
    service.wait(last)
    assert last.get_status() == JobStatus.FINISHED


def test_a_job_cancelled_while_it_runs_is_aborted_and_stays_cancelled(service: Service) -> None:
    job = service.enqueue("until_told")
    service.wait_until_started(job)

    job.cancel()

    until(lambda: f"lease lost event=lease.lost job_id={job.id}" in service.worker.log)
    service.go(job)
    until(lambda: record(service).get_state() == "idle")
    assert job.get_status() == JobStatus.CANCELED
    assert job.latest_result() is None


def test_the_record_says_what_the_worker_does(service: Service) -> None:
    before = record(service)
    jobs = [service.enqueue("until_told") for _ in range(2)]
    failing = service.enqueue("tests.callables.fail", "x")
    service.wait_until_started(*jobs)

    until(lambda: failing.get_status() == JobStatus.FAILED)
    until(lambda: record(service).get_current_job_id() == jobs[1].id)
    assert record(service).get_state() == "busy"
    service.go(*jobs)
    service.wait(*jobs, failing)

    until(lambda: record(service).get_state() == "idle")
    after = record(service)
    assert after.get_current_job_id() is None
    assert after.successful_job_count - before.successful_job_count == 2
    assert after.failed_job_count - before.failed_job_count == 1
    assert after.total_working_time > before.total_working_time


def test_suspend_lets_the_running_end_and_resume_starts_the_waiting(service: Service) -> None:
    running = service.enqueue("until_told")
    service.wait_until_started(running)

    rq_cli(service.url, "suspend")
    waiting = service.enqueue("tests.callables.nothing")
    service.go(running)
    service.wait(running)

    assert running.get_status() == JobStatus.FINISHED
    until(lambda: record(service).get_state() == "suspended")
    assert "suspended" in rq_cli(service.url, "info")
    assert waiting.get_status() == JobStatus.QUEUED

    rq_cli(service.url, "resume")

    service.wait(waiting)
    assert waiting.get_status() == JobStatus.FINISHED
    until(lambda: record(service).get_state() == "idle")


def test_rq_info_counts_what_is_in_flight(service: Service) -> None:
    jobs = [service.enqueue("until_told") for _ in range(3)]
    service.wait_until_started(*jobs)

    said = rq_cli(service.url, "info", "--raw")

    assert f"queue {QUEUE} 0, 3 executing" in said
    assert f"worker {service.worker.name} " in said
    assert f"busy {QUEUE}. jobs: " in said


def test_rq_requeue_runs_a_failed_job_again(service: Service) -> None:
    service.connection.delete(service.queue.failed_job_registry.key)
    job = service.enqueue("until_told", job_timeout=1, meta={"tier": "batch"})
    service.wait(job)
    assert job.get_status() == JobStatus.FAILED

    service.go(job)
    rq_cli(service.url, "requeue", "-S", "json", "--queue", QUEUE, "--all")

    until(lambda: job.get_status() == JobStatus.FINISHED)
    assert job.get_meta()["tier"] == "batch"


def test_rq_requeue_with_pickle_costs_the_meta_and_not_the_job(service: Service) -> None:
    job = service.enqueue("tests.callables.fail", "x", meta={"tier": "batch"})
    service.wait(job)

    rq_cli(service.url, "requeue", "--queue", QUEUE, job.id)

    until(lambda: len(job.results()) == 2)
    service.wait(job)
    assert job.get_status() == JobStatus.FAILED
    assert job.get_meta()["failure"]["code"] == "job_failed"


def test_rq_empty_removes_what_waits_and_leaves_what_runs(service: Service) -> None:
    running = service.enqueue("until_told")
    service.wait_until_started(running)
    rq_cli(service.url, "suspend")
    waiting = [service.enqueue("tests.callables.nothing") for _ in range(3)]

    said = rq_cli(service.url, "empty", QUEUE)
    rq_cli(service.url, "resume")

    assert "3 jobs removed" in said
    assert not any(service.connection.exists(job.key) for job in waiting)
    service.go(running)
    service.wait(running)
    assert running.get_status() == JobStatus.FINISHED


def test_shutdown_drains_and_says_so_in_the_record(
    connection: Redis, start_worker: StartWorker
) -> None:
    job = Queue("low", connection=connection, serializer=JSONSerializer).enqueue(
        f"{MODULE}.until_told"
    )
    worker = start_worker("low")
    until(lambda: job.get_status() == JobStatus.STARTED)

    send_shutdown_command(connection, worker.name)

    until(lambda: connection.hexists(f"rq:worker:{worker.name}", "shutdown_requested_date"))
    connection.set(f"go:{job.id}", 1)
    assert worker.wait() == 0
    assert job.get_status() == JobStatus.FINISHED


def test_a_dead_worker_vanishes_from_rq_info(
    connection: Redis, redis_url: str, start_worker: StartWorker
) -> None:
    worker = start_worker("low", SLALOM_LEASE_S="1")
    assert worker.name in rq_cli(redis_url, "info", "-W")

    worker.signal(signal.SIGKILL)
    worker.wait()

    until(lambda: worker.name not in rq_cli(redis_url, "info", "-W"))
