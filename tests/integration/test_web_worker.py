"""The web process as gunicorn runs it: clients that dawdle, machines at their limits."""

import json
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack

import psutil
import pytest

from config.settings import ROOT
from tests.conftest import until
from tests.integration.test_api_processes import PATIENCE_S, ask, serving

DAWDLERS = 6


def dawdler(port: int) -> socket.socket:
    """Return a client that has asked for its connection to be closed, and leaves its end open."""
    client = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
    client.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    return client


def num_lingering(server: subprocess.Popen[str]) -> int:
    """Return how many connections the web process has closed and its clients have not."""
    [process] = psutil.Process(server.pid).children()
    states = [found.status for found in process.net_connections("tcp")]
    return states.count(psutil.CONN_FIN_WAIT2)


def test_clients_that_leave_their_end_open_are_waited_for_side_by_side(redis_url: str) -> None:
    with serving(redis_url) as (server, port), ExitStack() as stack:
        ask(port, "GET", "/healthz")

        clients = [stack.enter_context(dawdler(port)) for _ in range(DAWDLERS)]

        until(lambda: num_lingering(server) > DAWDLERS // 2)
        answers = [client.recv(65536) for client in clients]
        assert all(answer.startswith(b"HTTP/1.1 200") for answer in answers)


@pytest.fixture
def few_files() -> Iterator[int]:
    """Start processes with a low limit of open files; yield how many they may ask for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_low_limit_of_open_files_is_raised_as_far_as_is_permitted(
    redis_url: str, few_files: int
) -> None:
    with serving(redis_url, SLALOM_WEB_THREADS="4096") as (server, port):
        ask(port, "GET", "/healthz")
        [process] = psutil.Process(server.pid).children()
        soft, _ = process.rlimit(psutil.RLIMIT_NOFILE)

    assert soft > 4096 or soft == few_files


def test_where_no_more_threads_start_those_there_are_go_on_serving() -> None:
    program = """
import json, resource, sys, threading
import psutil
from config.web_worker import _Threads

gib = 1 << 30
threading.stack_size(gib)
now = psutil.Process().memory_info().vms
resource.setrlimit(resource.RLIMIT_AS, (now + 5 * gib // 2, resource.RLIM_INFINITY))
gate = threading.Event()
threads = _Threads(8)
work = [threads.submit(lambda number=n: gate.wait() and number) for n in range(8)]
gate.set()
print(json.dumps({"done": [w.result() for w in work], "threads": threads._max_workers}))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )

    told = json.loads(done.stdout)
    assert told["done"] == list(range(8))
    assert 1 <= told["threads"] < 8
    assert "set SLALOM_WEB_THREADS to fewer" in done.stderr
