"""Fixtures for a whole module: an engine of each kind; a GPUWorker, in a database of its own."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import psutil
import pytest
from redis import Redis
from rq import Queue
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from config import connections
from config.settings import Settings
from gpu_worker.engine import Engine
from gpu_worker.start import start_engine
from tests.conftest import RunningWorker, until, worker_starter

QUEUE = "ours"
OPTIONS = ("--job-monitoring-interval", "1")
MODULE = "tests.rq_callables"
OVER = {JobStatus.FINISHED, JobStatus.FAILED, JobStatus.STOPPED, JobStatus.SCHEDULED}


@dataclass(frozen=True)
class Service:
    """A worker, and where to find it."""

    url: str
    connection: Redis
    worker: RunningWorker
    queue: Queue

    def enqueue(self, function: str, *args: Any, **options: Any) -> Job:
        """Enqueue a function of tests.rq_callables, or of another module by its whole name."""
        return self.queue.enqueue(whole_name(function), *args, **options)

    def wait(self, *jobs: Job) -> None:
        """Return when the jobs are over and the worker has let go of them."""
        until(lambda: all(self._is_over(job) for job in jobs))

    def wait_until_started(self, *jobs: Job) -> None:
        until(lambda: all(job.get_status() == JobStatus.STARTED for job in jobs))

    def is_at_rest(self) -> bool:
        """Whether nothing waits or runs."""
        return self.queue.is_empty() and not self.connection.zcard(f"rq:wip:{self.queue.name}")

    def go(self, *jobs: Job) -> None:
        """Let `until_told` or `callback_that_waits` end."""
        for job in jobs:
            self.connection.set(f"go:{job.id}", 1)

    def _is_over(self, job: Job) -> bool:
        is_held = job.id in self.queue.started_job_registry.get_job_ids(cleanup=False)
        return not is_held and job.get_status() in OVER


def whole_name(function: str) -> str:
    return function if "." in function else f"{MODULE}.{function}"


@pytest.fixture(scope="module")
def service(_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    url = _server.removesuffix("/0") + "/8"
    with (
        connections.commands(url) as connection,
        worker_starter(url, tmp_path_factory.mktemp("service")) as start,
    ):
        connection.flushdb()
        queue = Queue(QUEUE, connection=connection, serializer=JSONSerializer)
        yield Service(url, connection, start(*OPTIONS, QUEUE), queue)
        connection.flushdb()


FLAGS = "--max-num-seqs 4"

Run = Callable[[Callable[[Engine], Awaitable[None]]], None]


@pytest.fixture(scope="module", params=["sim", pytest.param("vllm", marks=pytest.mark.vllm)])
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    """Run a coroutine with the engine, on the engine's own loop."""
    with asyncio.Runner() as runner:
        settings = Settings(engine=request.param, vllm_args=FLAGS)
        engine = runner.run(start_engine(settings))
        if request.param == "sim":
            engine.seats = 4

        async def with_engine(test: Callable[[Engine], Awaitable[None]]) -> None:
            await test(engine)

        yield lambda test: runner.run(with_engine(test))
        runner.run(engine.stop())
        _assert_no_process_left()


def _assert_no_process_left() -> None:
    """EngineCore is gone; Python's own resource tracker may stay."""
    names = [_command(p) for p in psutil.Process(os.getpid()).children(recursive=True)]
    assert [name for name in names if "Engine" in name or "multiprocessing.spawn" in name] == []


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it has just ended
        return ""
