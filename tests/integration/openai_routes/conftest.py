"""Fixtures: a server and a simulated worker for each module, and OpenAI's SDK to ask them."""

from collections.abc import Iterator

import pytest
from redis import Redis

from config import connections
from tests.conftest import worker_starter
from tests.integration.test_api_processes import serving
from tests.openai_sdk import Sdk, sdk


@pytest.fixture(scope="module")
def url(_server: str) -> str:
    """A database for the module, which the tests share."""
    return _server.removesuffix("/0") + "/9"


@pytest.fixture(scope="module")
def redis(url: str) -> Iterator[Redis]:
    with connections.commands(url) as client:
        client.flushdb()
        yield client
        client.flushdb()


@pytest.fixture(scope="module")
def port(url: str, redis: Redis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a server with a worker behind it."""
    with worker_starter(url, tmp_path_factory.mktemp("openai")) as start, serving(url) as (_, port):
        start()
        yield port


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest, port: int) -> Iterator[Sdk]:
    with sdk(request.param, port) as made:
        yield made


@pytest.fixture
def idle(redis_url: str) -> Iterator[int]:
    """The port of a server without a worker, where a request waits a second at most."""
    with serving(redis_url, SLALOM_MAX_WAIT_S="1") as (_, port):
        yield port
