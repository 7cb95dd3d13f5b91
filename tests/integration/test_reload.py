"""A reload, or a web process that is told to stop, drops nobody: real gunicorn, 200 who wait."""

import json
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest
from redis import Redis

from config.settings import ROOT
from scheduler import finish, keys
from scheduler.claim import Claims
from tests.conftest import until
from tests.integration.test_api_processes import PATIENCE_S, ask, serving

CLIENTS = 200
ENDED = 20
BODY = json.dumps({"prompt": "1+1="})

Answers = list[Future[tuple[int, Any]]]


@contextmanager
def clients_that_wait(port: int, connection: Redis) -> Iterator[Answers]:
    """Yield what will be the answers of clients whose jobs are all queued."""
    with ThreadPoolExecutor(CLIENTS) as threads:
        clients: Answers = [
            threads.submit(ask, port, "POST", "/v1/jobs", BODY, Prefer="wait=30")
            for _ in range(CLIENTS)
        ]
        until(lambda: connection.llen(keys.queue("low")) == CLIENTS)
        yield clients


def web_processes(server: subprocess.Popen[str]) -> list[psutil.Process]:
    """Return gunicorn's processes beside its master."""
    return psutil.Process(server.pid).children()


def run(connection: Redis, count: int) -> set[str]:
    """End so many jobs as a worker does; return their ids."""
    claims = Claims(connection, "worker", ["low"], lease_s=30).take(count)
    now = datetime.now(UTC)
    successes = [finish.Success(claim, {"choices": []}, now, result_ttl=60) for claim in claims]
    assert set(finish.write(connection, "worker", successes)) == {"written"}
    return {claim.job.id for claim in claims}


def submitted_until(done: Answers, port: int) -> list[int]:
    """Submit one job after another until all of `done` are answered; return the statuses."""
    statuses = [ask(port, "POST", "/v1/jobs", BODY)[0]]
    while not all(client.done() for client in done):
        statuses.append(ask(port, "POST", "/v1/jobs", BODY)[0])
    return statuses


def assert_each_has_its_own(clients: Answers, queued: set[str], ended: set[str]) -> None:
    """Hold that every client has its job as a whole: those that ended, and those that wait."""
    answers = [client.result(PATIENCE_S) for client in clients]
    assert {job["id"] for _, job in answers} == queued
    for status, job in answers:
        expected = (200, "succeeded") if job["id"] in ended else (202, "queued")
        assert (status, job["status"]) == expected


def test_a_reload_answers_everybody_and_goes_on_serving(redis_url: str, connection: Redis) -> None:
    with serving(redis_url) as (server, port):
        with clients_that_wait(port, connection) as clients:
            [old] = web_processes(server)
            queued = {job.decode() for job in connection.lrange(keys.queue("low"), 0, -1)}
            ended = run(connection, ENDED)

            server.send_signal(signal.SIGHUP)

            statuses = submitted_until(clients, port)
            assert_each_has_its_own(clients, queued, ended)
        until(lambda: not old.is_running())
        assert set(statuses) == {202}
        assert ask(port, "POST", "/v1/jobs", BODY)[0] == 202
        assert server.poll() is None


def test_a_web_process_told_to_stop_answers_everybody_and_is_replaced(
    redis_url: str, connection: Redis
) -> None:
    with serving(redis_url) as (server, port):
        with clients_that_wait(port, connection) as clients:
            [old] = web_processes(server)
            queued = {job.decode() for job in connection.lrange(keys.queue("low"), 0, -1)}

            old.send_signal(signal.SIGTERM)

            assert_each_has_its_own(clients, queued, set())
        until(lambda: not old.is_running())
        assert ask(port, "POST", "/v1/jobs", BODY)[0] == 202
        [new] = web_processes(server)
        assert new.pid != old.pid


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Return an SLA table that a test may change."""
    path = tmp_path / "tiers.yaml"
    path.write_text((ROOT / "config" / "tiers.yaml").read_text())
    return path


def tier_of_a_new_job(port: int) -> str | None:
    """Return the tier of a job that asks for none."""
    tier: str | None = ask(port, "POST", "/v1/jobs", BODY)[1]["tier"]
    return tier


def test_a_reload_takes_the_new_table(redis_url: str, table: Path) -> None:
    with serving(redis_url, SLALOM_TIERS_FILE=str(table)) as (server, port):
        before = tier_of_a_new_job(port)
        table.write_text(table.read_text().replace("default_tier: standard", "default_tier: batch"))

        server.send_signal(signal.SIGHUP)

        until(lambda: tier_of_a_new_job(port) == "batch")
        assert before == "standard"


def test_a_reload_with_a_broken_table_changes_nothing_and_says_why(
    redis_url: str, table: Path
) -> None:
    log: list[str] = []
    with serving(redis_url, log=log, SLALOM_TIERS_FILE=str(table)) as (server, port):
        before = tier_of_a_new_job(port), web_processes(server)
        table.write_text("queues: {}\n")

        server.send_signal(signal.SIGHUP)

        until(lambda: any("not reloaded" in line for line in log))
        assert (tier_of_a_new_job(port), web_processes(server)) == before
    assert not any("Traceback" in line for line in log)
