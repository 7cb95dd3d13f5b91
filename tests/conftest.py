"""Fixtures: a real server for every test that needs Redis, with an empty database each."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import pytest
from redis import Redis
from rq.job import Job
from rq.results import Result
from xdist.scheduler import LoadFileScheduling

from config import connections, embedded_redis
from config.settings import PREFIX, Settings
from config.tiers import TierTable
from scheduler.autoscaler.local_pool import worker_command
from scheduler.submit import Submitter


@pytest.fixture(scope="session")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One server for the whole run; tests get a database of it."""
    with embedded_redis.running(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture
def redis_url(_server: str) -> Iterator[str]:
    """URL of an empty database, never number 0."""
    url = _server.removesuffix("/0") + "/7"
    with Redis.from_url(url) as client:
        client.flushdb()
        yield url
        client.flushdb()


@pytest.fixture
def connection(redis_url: str) -> Iterator[Redis]:
    with connections.commands(redis_url) as client:
        yield client


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the developer's own settings out of the tests."""
    for name in list(os.environ):
        if name.startswith(PREFIX) or name in {"REDIS_URL", "PORT"}:
            monkeypatch.delenv(name)


@pytest.fixture
def settings(redis_url: str, tmp_path: Path) -> Settings:
    return Settings(redis_url=redis_url, engine="sim", data_dir=tmp_path)


@pytest.fixture
def tiers(settings: Settings) -> TierTable:
    return settings.tiers()


@pytest.fixture
def submitter(connection: Redis, tiers: TierTable) -> Submitter:
    return Submitter(connection, tiers)


class ByFile(LoadFileScheduling):
    """Runs the tests of a file, or of the directory that shares one product, in one process."""

    def _split_scope(self, nodeid: str) -> str:
        path = Path(super()._split_scope(nodeid))
        return str(path.parent if path.parent.name == "product" else path)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    return ByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each test a name of its own; skip what this machine lacks (a failure in CI)."""
    for item in items:
        if item.parent and not item.nodeid.endswith(item.name):
            # schemathesis names all operations alike, and pytest-xdist would run one of them.
            item._id = item.parent.id.child(item.name)
    assert len({item.nodeid for item in items}) == len(items), "tests of one name"
    if os.environ.get("CI") == "true" or find_spec("vllm"):
        return
    for item in items:
        if item.get_closest_marker("vllm"):
            item.add_marker(pytest.mark.skip(reason="vLLM is not installed"))


class RunningWorker:
    """A GPUWorker process, started as the Procfile does."""

    def __init__(self, process: subprocess.Popen[bytes], name: str, log: Path) -> None:
        self.process = process
        self.name = name
        self._log = log

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def signal(self, signum: int) -> None:
        self.process.send_signal(signum)

    def wait(self) -> int:
        """Return the exit status once the process has ended."""
        return self.process.wait(timeout=60)


class StartWorker(Protocol):
    """Starts a worker and returns once it takes jobs (or, for burst ones, at once)."""

    def __call__(self, *arguments: str, **environment: str) -> RunningWorker: ...


@contextmanager
def worker_starter(redis_url: str, directory: Path) -> Iterator[StartWorker]:
    """Yield what starts workers; all of them are gone afterwards."""
    started: list[RunningWorker] = []

    def start(*arguments: str, **environment: str) -> RunningWorker:
        name = f"w{len(started)}"
        log = directory / f"{name}.log"
        command = [*worker_command(), "--name", name, *(arguments or ("high", "low"))]
        variables = {"REDIS_URL": redis_url, "SLALOM_ENGINE": "sim", **environment}
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, stdout=output, stderr=output, env={**os.environ, **variables}
            )
        worker = RunningWorker(process, name, log)
        started.append(worker)
        if "--burst" not in arguments:
            until(lambda: "worker ready" in worker.log or process.poll() is not None)
        return worker

    yield start
    for worker in started:
        worker.process.kill()
        worker.process.wait()


@pytest.fixture
def start_worker(redis_url: str, tmp_path: Path) -> Iterator[StartWorker]:
    with worker_starter(redis_url, tmp_path) as start:
        yield start


def latest(job: Job) -> Result:
    """Return the job's latest result, which it must have."""
    result = job.latest_result()
    assert result is not None
    return result


def until(condition: Callable[[], object], give_up_s: float = 60.0, pause_s: float = 0.02) -> None:
    """Return when `condition` holds; the limit only ends a test that would hang."""
    deadline = time.monotonic() + give_up_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError("the condition never came true")
        time.sleep(pause_s)
