"""RQ's command line: every option of `rq worker` has its effect, or is refused in one line."""

import os
import signal
import subprocess
from datetime import timedelta
from pathlib import Path
from typing import cast

import psutil
import pytest
from redis import Redis
from rq import Queue
from rq.job import Dependency, JobStatus
from rq.serializers import JSONSerializer

from scheduler.autoscaler.local_pool import worker_command
from scheduler.rescue import rescue
from tests.conftest import RunningWorker, StartWorker, latest, until
from tests.contract.conftest import MODULE

ADD, FAIL = "tests.callables.add", "tests.callables.fail"


@pytest.fixture
def queue(connection: Redis) -> Queue:
    return Queue("low", connection=connection, serializer=JSONSerializer)


def record(connection: Redis, worker: RunningWorker) -> dict[bytes, bytes]:
    return cast("dict[bytes, bytes]", connection.hgetall(f"rq:worker:{worker.name}"))


def test_burst_name_results_ttl_path_pid_and_quiet(
    connection: Redis, queue: Queue, start_worker: StartWorker, tmp_path: Path
) -> None:
    (tmp_path / "only_on_that_path.py").write_text("def call():\n    return 'found'\n")
    pid, path = tmp_path / "pid", tmp_path
    job = queue.enqueue("only_on_that_path.call")
    own_terms = queue.enqueue(ADD, 1, 2, result_ttl=10_000)

    worker = start_worker(
        *("--burst", "--quiet", "--name", "mine", "--results-ttl", "77"),
        *("--path", str(path), "--pid", str(pid), "low"),
    )

    assert worker.wait() == 0
    assert pid.read_text() == str(worker.process.pid)
    assert latest(job).worker_name == "mine"
    assert job.return_value() == "found"
    assert 0 < connection.ttl(job.key) <= 77
    assert connection.ttl(own_terms.key) > 77
    assert " INFO " not in worker.log


def test_verbose_shows_descriptions_unless_they_are_disabled(
    queue: Queue, start_worker: StartWorker
) -> None:
    logs = {}
    for options in ((), ("--disable-job-desc-logging",)):
        job = queue.enqueue(ADD, 1, 2, description="secret words")
        worker = start_worker("--burst", "--verbose", *options, "low")
        worker.wait()
        assert f"job_id={job.id}" in worker.log
        logs[options] = worker.log

    shown, hidden = logs.values()
    assert "secret words" in shown
    assert "secret words" not in hidden


@pytest.mark.parametrize(
    ("options", "shown", "hidden"),
    [
        (("--logging_level", "warning"), "", "worker ready"),
        (("--log-format", "!%(levelname)s! %(message)s"), "!INFO! worker ready", "gpu_worker"),
        (("--date-format", "at %H"), "at ", "Z"),
    ],
)
def test_the_log_is_as_asked(
    start_worker: StartWorker, options: tuple[str, ...], shown: str, hidden: str
) -> None:
    worker = start_worker("--burst", *options, "low")

    assert worker.wait() == 0
    [line] = [x for x in worker.log.splitlines() if "worker ready" in x] or [worker.log]
    assert shown in line
    assert hidden not in line.partition(" event=")[0]


def test_logging_that_the_config_file_sets_up_stays(
    redis_url: str, start_worker: StartWorker, tmp_path: Path
) -> None:
    (tmp_path / "own_config.py").write_text(
        f"""
REDIS_URL = {redis_url!r}
DICT_CONFIG = {{
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {{"own": {{"format": "own: %(message)s"}}}},
    "handlers": {{"own": {{"class": "logging.StreamHandler", "formatter": "own"}}}},
    "root": {{"handlers": ["own"], "level": "INFO"}},
}}
"""
    )

    worker = start_worker("--burst", "-c", "own_config", "low", PYTHONPATH=str(tmp_path))

    assert worker.wait() == 0
    assert "own: worker ready" in worker.log
    assert worker.log.count("worker ready") == 1


def test_max_idle_time_ends_an_idle_worker_and_no_suspended_one(
    connection: Redis, queue: Queue, start_worker: StartWorker
) -> None:
    job = queue.enqueue(f"{MODULE}.until_told")
    worker = start_worker("--max-idle-time", "1", "low")
    until(lambda: job.get_status() == JobStatus.STARTED)
    connection.set("rq:suspended", 1)
    last = queue.enqueue(ADD, 1, 2)
    connection.set(f"go:{job.id}", 1)
    until(lambda: record(connection, worker).get(b"state") == b"suspended")

    connection.delete("rq:suspended")

    assert worker.wait() == 0
    assert last.get_status() == JobStatus.FINISHED


def test_a_burst_leaves_when_suspended(
    connection: Redis, queue: Queue, start_worker: StartWorker
) -> None:
    job = queue.enqueue(f"{MODULE}.until_told")
    worker = start_worker("--burst", "low")
    until(lambda: job.get_status() == JobStatus.STARTED)

    connection.set("rq:suspended", 1)
    waiting = queue.enqueue(ADD, 1, 2)
    connection.set(f"go:{job.id}", 1)

    assert worker.wait() == 0
    assert waiting.get_status() == JobStatus.QUEUED


def test_with_scheduler_runs_what_is_due_without_a_process_for_it(
    connection: Redis, queue: Queue, start_worker: StartWorker
) -> None:
    worker = start_worker("--with-scheduler", "low")
    lock = "rq:scheduler-lock:low"
    until(lambda: connection.exists(lock))

    job = queue.enqueue_in(timedelta(seconds=1), ADD, 1, 2)

    until(lambda: job.get_status() == JobStatus.FINISHED)
    assert psutil.Process(worker.process.pid).children() == []
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    assert not connection.exists(lock)


def test_a_burst_with_scheduler_runs_what_is_due(queue: Queue, start_worker: StartWorker) -> None:
    job = queue.enqueue_in(timedelta(seconds=-1), ADD, 1, 2)

    assert start_worker("--burst", "--with-scheduler", "low").wait() == 0

    assert job.get_status() == JobStatus.FINISHED


def test_worker_ttl_and_the_two_intervals(
    connection: Redis, queue: Queue, start_worker: StartWorker
) -> None:
    worker = start_worker(
        *("--worker-ttl", "200", "--job-monitoring-interval", "1", "--maintenance-interval", "1"),
        "low",
        SLALOM_LEASE_S="3000",
    )
    before = record(connection, worker)

    until(lambda: record(connection, worker)[b"last_heartbeat"] > before[b"last_heartbeat"])
    assert 200 < connection.ttl(f"rq:worker:{worker.name}") <= 260
    connection.sadd("rq:workers:low", "rq:worker:long-dead")
    until(lambda: not connection.sismember("rq:workers:low", "rq:worker:long-dead"))


def test_maintenance_takes_back_what_no_worker_holds_any_more(
    connection: Redis, queue: Queue, start_worker: StartWorker
) -> None:
    job = queue.enqueue(ADD, 1, 2)
    queue.remove(job)
    job.set_status(JobStatus.STARTED)
    connection.zadd("rq:wip:low", {f"{job.id}:gone": 1})

    assert start_worker("--burst", "low").wait() == 0

    assert job.get_status() == JobStatus.FINISHED


def test_a_dead_letter_of_dead_workers_frees_those_who_may_do_without(
    connection: Redis, queue: Queue
) -> None:
    parent = queue.enqueue(ADD, 1, 2)
    parts = {True: "free", False: "bound"}
    children = {
        name: queue.enqueue(ADD, 3, 4, depends_on=Dependency([parent], allow_failure=may))
        for may, name in parts.items()
    }
    queue.remove(parent)
    connection.hset(parent.key, mapping={"status": "started", "worker_deaths": 2})
    connection.zadd("rq:wip:low", {f"{parent.id}:gone": 1})

    rescue(connection, "low", max_deliveries=3)

    assert parent.get_status() == JobStatus.FAILED
    assert children["free"].get_status() == JobStatus.QUEUED
    assert children["bound"].get_status() == JobStatus.DEFERRED


def test_exception_handlers_run_in_order_until_one_returns_false(
    connection: Redis, queue: Queue, start_worker: StartWorker
) -> None:
    handlers = ("handle", "broken_callback", "handle_and_end", "handle_too_late")
    options = [part for h in handlers for part in ("--exception-handler", f"{MODULE}.{h}")]
    job = queue.enqueue(FAIL, "x")

    assert start_worker("--burst", *options, "low").wait() == 0

    assert connection.lrange("handled", 0, -1) == [b"first RuntimeError True", b"second"]
    assert job.get_status() == JobStatus.FAILED


def test_disabling_the_default_handler_leaves_the_failure_to_the_others(
    connection: Redis, queue: Queue, start_worker: StartWorker
) -> None:
    job = queue.enqueue(FAIL, "x")

    assert start_worker("--burst", "--disable-default-exception-handler", "low").wait() == 0

    assert job.get_status() == JobStatus.FAILED
    assert job.id not in queue.failed_job_registry
    assert job.latest_result() is None
    assert not connection.exists("rq:wip:low")


def test_jobs_are_of_the_class_asked_for(queue: Queue, start_worker: StartWorker) -> None:
    job = queue.enqueue(f"{MODULE}.class_of_job")

    assert start_worker("--burst", "--job-class", f"{MODULE}.OwnJob", "low").wait() == 0

    assert job.return_value(refresh=True) == "OwnJob"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--dequeue-strategy", "random"), "tiers are served in rank order only"),
        (("--dequeue-strategy", "round_robin"), "tiers are served in rank order only"),
        (("--serializer", "pickle"), "use json"),
        (("--name", "taken"), "a worker of this name is registered"),
    ],
)
def test_what_is_refused_is_refused_in_one_line(
    connection: Redis, start_worker: StartWorker, options: tuple[str, ...], said: str
) -> None:
    connection.hset("rq:worker:taken", "birth", "2026-01-01T00:00:00.000000Z")

    worker = start_worker("--burst", *options, "low")

    assert worker.wait() == 1
    assert said in worker.log
    assert "Traceback" not in worker.log
    assert connection.hgetall("rq:worker:taken") == {b"birth": b"2026-01-01T00:00:00.000000Z"}


def test_a_worker_pool_of_gpu_workers(redis_url: str, queue: Queue) -> None:
    [rq, *_] = worker_command()
    jobs = [queue.enqueue(ADD, n, n) for n in range(10)]
    command = [rq, "worker-pool", "-u", redis_url, "-w", "gpu_worker.GPUWorker"]

    subprocess.run(
        [*command, "-n", "2", "--burst", "-q", "low"],
        env={**os.environ, "REDIS_URL": redis_url, "SLALOM_ENGINE": "sim"},
        check=True,
    )

    assert {job.get_status() for job in jobs} == {JobStatus.FINISHED}
