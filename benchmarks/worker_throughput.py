"""How many jobs a second each worker does, and how soon an idle one picks a job up.

No-op jobs on the same Redis with the same serializer, in RQ's forking Worker, RQ's SimpleWorker and
GPUWorker with 1, 64 and 256 in flight, each a process started from the command line (`--burst`).
Rates run from the first start to the last end by the jobs' own instants, so that start-up does not
count. Pick-up is the time on an idle worker, one job after another, from the instant at which the
job is in its queue, by Redis's clock, until its start as RQ records it (`started_at`); `first_line`
is the stricter one, until the first line of the job's function; `sent` counts from when the
producer begins to send the job. `bare_blpop` is a process that only waits for the job's id in
Redis's own BLPOP: no worker can learn of a job sooner.
"""

import argparse
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from redis import Redis
from rq import Queue
from rq.job import Job
from rq.serializers import JSONSerializer

from benchmarks import report
from config import connections, embedded_redis
from scheduler.workers import alive

NAME = "worker_throughput"
QUEUE = "low"
JOB = "benchmarks.noop.nothing"
CLOCK = "benchmarks.noop.now"
PICKUPS = 200
JSON = "rq.serializers.JSONSerializer"


@dataclass(frozen=True, slots=True)
class Contender:
    """A worker class, and how many jobs it is given."""

    label: str
    worker: str
    jobs: int
    inflight: int = 1


CONTENDERS = (
    Contender("worker", "rq.Worker", 200),
    Contender("simple_worker", "rq.SimpleWorker", 2000),
    Contender("gpu_worker_1", "gpu_worker.GPUWorker", 4000, 1),
    Contender("gpu_worker_64", "gpu_worker.GPUWorker", 10000, 64),
    Contender("gpu_worker_256", "gpu_worker.GPUWorker", 10000, 256),
)


@dataclass(frozen=True, slots=True)
class Run:
    """What one contender did."""

    jobs_per_s: float
    cpu_ms_per_job: float
    commands_per_job: float


def start(contender: Contender, url: str, *flags: str) -> subprocess.Popen[bytes]:
    """Start a worker from the command line."""
    rq = str(Path(sys.executable).with_name("rq"))
    command = [rq, "worker", "-u", url, "-w", contender.worker, "-S", JSON, "-q", *flags, QUEUE]
    environment = {
        **os.environ,
        "REDIS_URL": url,
        "SLALOM_ENGINE": "sim",
        "SLALOM_MAX_INFLIGHT": str(contender.inflight),
        "SLALOM_LOG_LEVEL": "WARNING",
    }
    return subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)


def burst(contender: Contender, connection: Redis, url: str, jobs: int) -> Run:
    """Let a worker do `jobs` jobs and leave."""
    connection.flushdb()
    queue = Queue(QUEUE, connection=connection, serializer=JSONSerializer)
    data = [Queue.prepare_data(JOB, result_ttl=600) for _ in range(jobs)]
    queued = queue.enqueue_many(data) if data else []
    commands = _commands(connection)
    cpu = _cpu_s()
    start(contender, url, "--burst").wait()
    cpu, commands = _cpu_s() - cpu, _commands(connection) - commands
    if not queued:
        return Run(0.0, cpu, commands)
    ended = Job.fetch_many([j.id for j in queued], connection, serializer=JSONSerializer)
    spans = [
        (job.started_at, job.ended_at)
        for job in ended
        if job and job.get_status(refresh=False) == "finished" and job.started_at and job.ended_at
    ]
    assert len(spans) == jobs, f"{contender.label} ended {len(spans)} of {jobs} jobs"
    took_s = (max(e for _, e in spans) - min(s for s, _ in spans)).total_seconds()
    return Run(jobs / took_s, cpu / jobs * 1e3, commands / jobs)


def throughput(contender: Contender, connection: Redis, url: str) -> Run:
    """Return the rate, and CPU and commands per job beyond those of a worker that finds none."""
    idle = burst(contender, connection, url, 0)
    busy = burst(contender, connection, url, contender.jobs)
    return Run(
        busy.jobs_per_s,
        busy.cpu_ms_per_job - idle.cpu_ms_per_job / contender.jobs * 1e3,
        busy.commands_per_job - idle.commands_per_job / contender.jobs,
    )


@dataclass(frozen=True, slots=True)
class Pickup:
    """How long one job waited (s)."""

    pickup: float
    first_line: float
    sent: float


def pickup(contender: Contender, connection: Redis, url: str, jobs: int) -> list[Pickup]:
    """Return how long each of `jobs` jobs waited for an idle worker."""
    connection.flushdb()
    worker = start(contender, url)
    while not alive(connection, QUEUE):
        time.sleep(0.05)
    queue = Queue(QUEUE, connection=connection, serializer=JSONSerializer)
    waits = []
    try:
        for _ in range(jobs):
            time.sleep(0.02)  # idle again
            job, sent, queued = _enqueue(queue)
            while job.get_status() != "finished":
                time.sleep(0.001)
            job.refresh()
            assert job.started_at
            began, first_line = job.started_at.timestamp(), float(job.return_value() or 0.0)
            waits.append(Pickup(began - queued, first_line - queued, began - sent))
    finally:
        worker.terminate()
        worker.wait()
    return waits


def _enqueue(queue: Queue) -> tuple[Job, float, float]:
    """Enqueue a job; return it, when it was sent, and when it was in the queue (epoch s)."""
    with queue.connection.pipeline() as pipeline:
        job = queue.enqueue(CLOCK, pipeline=pipeline)
        pipeline.time()  # in the same transaction, right after the push
        sent = time.time()
        seconds, microseconds = pipeline.execute()[-1]
    return job, sent, seconds + microseconds / 1e6


def bare_blpop(connection: Redis, url: str, jobs: int) -> list[Pickup]:
    """Return how long each of `jobs` jobs took until a bare BLPOP had its id."""
    connection.flushdb()
    process = multiprocessing.get_context("spawn").Process(target=_pop, args=(url, jobs))
    process.start()
    waits = []
    queue = Queue(QUEUE, connection=connection, serializer=JSONSerializer)
    while not connection.exists("popping"):
        time.sleep(0.05)
    for _ in range(jobs):
        time.sleep(0.02)
        _, sent, queued = _enqueue(queue)
        while not (woken := connection.blpop("woken")):
            pass
        popped = float(woken[1])
        waits.append(Pickup(popped - queued, popped - queued, popped - sent))
    process.join()
    return waits


def _pop(url: str, jobs: int) -> None:
    """Pop `jobs` ids and report when."""
    connection = connections.listener_like(connections.commands(url))
    connection.set("popping", 1)
    for _ in range(jobs):
        connection.blpop(f"rq:queue:{QUEUE}")
        connection.rpush("woken", time.time())


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _commands(connection: Redis) -> int:
    return int(connection.info("stats")["total_commands_processed"])


def measure(url: str) -> dict[str, float]:
    """Return all figures."""
    connection = connections.commands(url)
    figures: dict[str, float] = {}
    for contender in CONTENDERS:
        run = throughput(contender, connection, url)
        figures[f"{contender.label}_jobs_per_s"] = run.jobs_per_s
        figures[f"{contender.label}_cpu_ms_per_job"] = run.cpu_ms_per_job
        figures[f"{contender.label}_commands_per_job"] = run.commands_per_job
        print(f"{contender.label:16} {run.jobs_per_s:8.0f} jobs/s", file=sys.stderr)
    best = max(figures[f"gpu_worker_{n}_jobs_per_s"] for n in (64, 256))
    figures["vs_simple_worker"] = best / figures["simple_worker_jobs_per_s"]
    figures["vs_worker"] = best / figures["worker_jobs_per_s"]
    _add_pickup(figures, connection, url)
    return figures


def _add_pickup(figures: dict[str, float], connection: Redis, url: str) -> None:
    theirs, ours = CONTENDERS[1], CONTENDERS[3]
    waits = {
        contender.label: pickup(contender, connection, url, PICKUPS) for contender in (theirs, ours)
    }
    waits["bare_blpop"] = bare_blpop(connection, url, PICKUPS)
    for label, found in waits.items():
        for name in ("pickup", "first_line", "sent"):
            values = sorted(getattr(wait, name) for wait in found)
            figures[f"{label}_{name}_p50_ms"] = statistics.median(values) * 1e3
            figures[f"{label}_{name}_p99_ms"] = values[int(len(values) * 0.99)] * 1e3
    for name in ("pickup", "first_line", "sent"):
        figures[f"{name}_p50_vs_simple_worker"] = (
            figures[f"{ours.label}_{name}_p50_ms"] / figures[f"{theirs.label}_{name}_p50_ms"]
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="slalom-benchmark-") as directory,
        embedded_redis.running(Path(directory)) as url,
    ):
        figures = measure(url)
    report.emit(NAME, figures, as_json=args.json)


if __name__ == "__main__":
    main()
