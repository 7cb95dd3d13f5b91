"""An installation for the `slalom` command: gunicorn, a simulated worker, a real Redis."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from redis import Redis
from rq import Queue
from rq.serializers import JSONSerializer

from config import connections
from config.settings import PREFIX
from tests.conftest import worker_starter
from tests.integration.slalom_command import Done, free_port, slalom, web

ANSWER = "[simulated: 8 tokens]"
EIGHT = ("--max-tokens", "8")
UNKNOWN = "11111111-2222-3333-4444-555555555555"


@dataclass(frozen=True)
class Site:
    """An installation that runs."""

    url: str
    redis_url: str
    connection: Redis

    def __call__(self, *arguments: str, stdin: str | bytes = "", **variables: str) -> Done:
        return slalom(self.url, *arguments, stdin=stdin, **variables)

    def submitted(self, *options: str) -> str:
        done = self("submit", "1+1=", *EIGHT, *options)
        assert done.status == 0, done.err
        return done.out.strip()

    def failed(self) -> str:
        """Return a job that the engine refuses."""
        queue = Queue("low", connection=self.connection, serializer=JSONSerializer)
        job = queue.enqueue("gpu_worker.generate", {"endpoint": "/v1/none", "body": {}})
        return str(job.id)

    def pause(self) -> None:
        """Let workers take no more jobs."""
        self.connection.set("rq:suspended", 1)

    def resume(self) -> None:
        self.connection.delete("rq:suspended")


@contextmanager
def _own_settings() -> Iterator[None]:
    """Keep the developer's settings out of what is started; it lives longer than a test."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(PREFIX)]:
            patch.delenv(name)
        yield


@pytest.fixture(scope="session")
def running(_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    redis_url = _server.removesuffix("/0") + "/8"
    port = free_port()
    with (
        connections.commands(redis_url) as connection,
        _own_settings(),
        worker_starter(redis_url, tmp_path_factory.mktemp("worker")) as start,
        web(redis_url, port),
    ):
        start()
        yield Site(f"http://127.0.0.1:{port}", redis_url, connection)
        connection.flushdb()


@pytest.fixture
def site(running: Site) -> Iterator[Site]:
    yield running
    running.resume()
