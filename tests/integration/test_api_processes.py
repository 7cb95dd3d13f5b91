"""The API as it is served: gunicorn with our configuration, real sockets, real signals."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from redis import Redis

from config.settings import ROOT
from scheduler import keys
from tests.conftest import until

PATIENCE_S = 20
COMMAND = [sys.executable, "-m", "gunicorn", "-c", str(ROOT / "config" / "gunicorn.py")]


@contextmanager
def serving(
    redis_url: str, *, log: list[str] | None = None, **environment: str
) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run gunicorn while the context lasts; yield its process and port; lines go into `log`."""
    log = [] if log is None else log
    server = subprocess.Popen(
        [*COMMAND, "--bind", "127.0.0.1:0", "api.app:create_app()"],
        cwd=ROOT,
        env={**os.environ, "REDIS_URL": redis_url, "PYTHONPATH": str(ROOT), **environment},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert server.stderr
    with server, ThreadPoolExecutor(1) as drain:
        found = (re.search(r"Listening at: http://[^:]+:(\d+)", line) for line in server.stderr)
        port = next((int(match[1]) for match in found if match), None)
        assert port, "gunicorn did not start"
        drain.submit(log.extend, server.stderr)
        try:
            yield server, port
        finally:
            server.kill()


def ask(port: int, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    """Return status and JSON of an answer; a body without length goes in chunks."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json", **headers})
        response = connection.getresponse()
        return response.status, json.load(response)
    finally:
        connection.close()


def test_bodies_over_the_limit_are_refused_also_when_they_come_in_chunks(redis_url: str) -> None:
    body = json.dumps({"prompt": "1+1="}).encode()
    with serving(redis_url, SLALOM_MAX_BODY_BYTES="2048") as (_, port):
        fitting = ask(port, "POST", "/v1/jobs", iter([body, b" " * 1000]))
        long = ask(port, "POST", "/v1/jobs", body.ljust(2049))
        chunks = ask(port, "POST", "/v1/jobs", iter([body, b" " * 1000, b" " * 1100]))

    assert fitting[0] == 202
    assert (long[0], chunks[0]) == (413, 413)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_server_told_to_stop_answers_those_who_wait(
    redis_url: str, connection: Redis, signum: int
) -> None:
    with serving(redis_url) as (server, port), ThreadPoolExecutor(1) as thread:
        body = json.dumps({"prompt": "1+1="})
        answer = thread.submit(ask, port, "POST", "/v1/jobs", body, Prefer="wait=30")
        until(lambda: connection.llen(keys.queue("low")))

        server.send_signal(signum)

        status, job = answer.result(PATIENCE_S)
        assert (status, job["status"]) == (202, "queued")
        assert server.wait(PATIENCE_S) == 0


def test_the_web_process_never_imports_an_engine() -> None:
    engines = "{'torch', 'transformers', 'vllm'}"
    program = f"import sys, api.app, api.dashboard; print({engines} & {{*sys.modules}})"

    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert done.stdout == "set()\n"
