"""Tenants as they are served: several web processes, real sockets, one set of limits and keys."""

import http.client
import json
import os
import re
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from config.settings import ROOT
from onebox import first_run
from scheduler import api_keys, limits, workers
from tests.conftest import until
from tests.integration.customers import customer, limited
from tests.integration.test_api_processes import COMMAND, PATIENCE_S

PORT = re.compile(r"Listening at: http://[^:]+:(\d+)")


@contextmanager
def serving(
    redis_url: str, log: Path, bind: str = "127.0.0.1:0", processes: int = 1
) -> Iterator[int]:
    """Run gunicorn while the context lasts, its log in a file; yield its port."""
    environment = {"REDIS_URL": redis_url, "PYTHONPATH": str(ROOT), "SLALOM_LOG_LEVEL": "INFO"}
    options = ["--bind", bind, "--workers", str(processes)]
    with log.open("wb") as output:
        server = subprocess.Popen(
            [*COMMAND, *options, "api.app:create_app()"],
            cwd=ROOT,
            env={**os.environ, **environment},
            stderr=output,
        )
    try:
        until(lambda: PORT.search(log.read_text()) or server.poll() is not None)
        found = PORT.search(log.read_text())
        assert found, log.read_text()
        yield int(found[1])
    finally:
        server.terminate()
        server.wait()


def ask(
    port: int, method: str, path: str, headers: dict[str, str], host: str = "127.0.0.1"
) -> tuple[int, Any]:
    """Return status and JSON of an answer."""
    connection = http.client.HTTPConnection(host, port, timeout=PATIENCE_S)
    body = json.dumps({"prompt": "1+1="}) if method == "POST" else None
    try:
        connection.request(method, path, body, {"Content-Type": "application/json", **headers})
        response = connection.getresponse()
        return response.status, json.load(response)
    finally:
        connection.close()


def own_address() -> str:
    """Return an address of this machine that is not loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
            return str(probe.getsockname()[0])
        except OSError:
            return pytest.skip("this machine has no address but loopback")


def test_many_at_once_over_several_processes_let_in_exactly_the_limit(
    redis_url: str, connection: Redis, tmp_path: Path
) -> None:
    acme = customer(connection, "acme", limits=limited(max_open_jobs=50, requests_per_min=150))
    with (
        serving(redis_url, tmp_path / "log", processes=2) as port,
        ThreadPoolExecutor(16) as threads,
    ):
        asked = [threads.submit(ask, port, "POST", "/v1/jobs", acme) for _ in range(200)]
        answers = [each.result() for each in asked]

    statuses = [status for status, _ in answers]
    assert (statuses.count(202), statuses.count(429)) == (50, 150)
    assert {body["limit"] for status, body in answers if status == 429} == {"max_open_jobs"}
    assert workers.depth(connection, "low")[0] == 50
    assert limits.usage(connection, "acme", "standard").open_jobs == 50


def test_a_revoked_key_is_refused_by_every_process_at_once(
    redis_url: str, connection: Redis, tmp_path: Path
) -> None:
    acme = customer(connection, "acme")
    with serving(redis_url, tmp_path / "log", processes=2) as port:
        before = {ask(port, "GET", "/v1/models", acme)[0] for _ in range(10)}

        api_keys.revoke(connection, "acme", api_keys.visible(acme["Authorization"][7:]))

        after = {ask(port, "GET", "/v1/models", acme)[0] for _ in range(10)}
    assert (before, after) == ({200}, {401})


def test_without_tenants_only_this_machine_is_served_and_the_log_says_so(
    redis_url: str, connection: Redis, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with serving(redis_url, log, bind="0.0.0.0:0") as port:
        here = ask(port, "POST", "/v1/jobs", {})
        status, body = ask(port, "POST", "/v1/jobs", {}, host=own_address())
        probe = ask(port, "GET", "/healthz", {}, host=own_address())
        acme = customer(connection, "acme")
        let_in = ask(port, "POST", "/v1/jobs", acme, host=own_address())
        no_key = ask(port, "POST", "/v1/jobs", {})

    assert (here[0], status, probe[0], let_in[0], no_key[0]) == (202, 401, 200, 202, 401)
    assert "scheduler.tenants create" in body["detail"]
    lines = log.read_text().splitlines()
    assert sum("event=auth.development" in line for line in lines) == 1
    assert sum("event=auth.keys" in line for line in lines) == 1


def test_one_box_asks_for_no_first_jobs_where_a_key_is_needed(
    redis_url: str, connection: Redis, tmp_path: Path
) -> None:
    with serving(redis_url, tmp_path / "log") as port:
        site = first_run.Site(f"http://127.0.0.1:{port}")
        before = first_run.needs_key(site)
        customer(connection, "acme")
        after = first_run.needs_key(site)

    assert (before, after) == (False, True)
    texts = {
        with_key: first_run.where_to_go(site, "dashboard", is_simulated=False, with_key=with_key)
        for with_key in (False, True)
    }
    assert "no tenants" in texts[False]
    assert "Authorization: Bearer" not in texts[False]
    assert "no tenants" not in texts[True]
    assert "Authorization: Bearer" in texts[True]
