"""`Prefer: wait`: a request waits for its job, however the job ends and whatever Redis does."""

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient
from redis import Redis
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer
from werkzeug.test import TestResponse

from api import hub
from api.app import create_app
from api.context import Context
from config import connections, embedded_redis
from config.settings import Settings
from scheduler import cancel, finish, jobs, keys
from scheduler.claim import Claims
from tests.conftest import until

PATIENCE_S = 20


@pytest.fixture
def make_app(settings: Settings) -> Iterator[Callable[..., Flask]]:
    """Make applications with settings of their own; they are told to stop after the test."""
    apps: list[Flask] = []

    def make(**changes: object) -> Flask:
        apps.append(create_app(settings.model_copy(update=changes)))
        return apps[-1]

    yield make
    for app in apps:
        app.extensions["on_stop"]()


@pytest.fixture
def app(make_app: Callable[..., Flask]) -> Flask:
    return make_app(max_wait_s=3600)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def _never_rechecking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave announcements as the only way to learn of an end."""
    monkeypatch.setattr(hub, "RECHECK_S", 3600.0)


@contextmanager
def when_queued(connection: Redis, act: Callable[[str], None]) -> Iterator[None]:
    """Call `act` with the id of the next low job, in a thread of its own."""
    queue = keys.queue("low")

    def follow() -> None:
        until(lambda: connection.llen(queue))
        act(connection.lrange(queue, -1, -1)[0].decode())

    with ThreadPoolExecutor(1) as thread:
        done = thread.submit(follow)
        yield
        done.result(PATIENCE_S)


def run(connection: Redis, job_id: str) -> None:
    """Run a job as a worker does."""
    claims = Claims(connection, "worker", ["low"], lease_s=30)
    [claim] = claims.take(1)
    assert claim.job.id == job_id
    success = finish.Success(claim, {"choices": []}, datetime.now(UTC), result_ttl=60)
    assert finish.write(connection, "worker", [success]) == ["written"]


def post(client: FlaskClient, wait: str) -> TestResponse:
    """Submit and wait; a wake-up that never comes would leave the test waiting for an hour."""
    return client.post("/v1/jobs", json={"prompt": "1+1="}, headers={"Prefer": wait})


@pytest.mark.usefixtures("_never_rechecking")
def test_a_request_that_waits_is_answered_when_its_job_ends(
    client: FlaskClient, connection: Redis
) -> None:
    with when_queued(connection, lambda job_id: run(connection, job_id)):
        response = post(client, "wait=3600")

    assert response.status_code == 200
    assert response.headers["Preference-Applied"] == "wait=3600"
    assert response.get_json()["status"] == "succeeded"


@pytest.mark.usefixtures("_never_rechecking")
def test_a_canceled_job_wakes_its_request(client: FlaskClient, connection: Redis) -> None:
    def take_back(job_id: str) -> None:
        cancel.cancel(connection, jobs.fetch(connection, job_id))

    with when_queued(connection, take_back):
        response = post(client, "wait=3600")

    assert (response.status_code, response.get_json()["status"]) == (200, "canceled")


def test_a_job_that_ends_without_a_word_is_noticed_by_its_record(
    client: FlaskClient, connection: Redis
) -> None:
    def fail(job_id: str) -> None:
        Job.fetch(job_id, connection, JSONSerializer).set_status(JobStatus.FAILED)

    with when_queued(connection, fail):
        response = post(client, "wait=3600")

    assert (response.status_code, response.get_json()["status"]) == (200, "failed")


def test_when_the_time_is_over_the_answer_is_the_job(client: FlaskClient) -> None:
    response = post(client, "wait=1")

    assert (response.status_code, response.get_json()["status"]) == (202, "queued")
    assert response.headers["Preference-Applied"] == "wait=1"


def test_a_wait_of_nothing_is_applied_at_once(client: FlaskClient, app: Flask) -> None:
    response = post(client, "wait=0")

    assert response.status_code == 202
    assert response.headers["Preference-Applied"] == "wait=0"


def test_a_wait_longer_than_allowed_is_capped_and_said_so(make_app: Callable[..., Flask]) -> None:
    app = make_app(max_wait_s=1)

    response = post(app.test_client(), "wait=3600")

    assert response.status_code == 202
    assert response.headers["Preference-Applied"] == "wait=1"


def test_a_wait_that_cannot_be_read_submits_nothing(client: FlaskClient, connection: Redis) -> None:
    response = post(client, "wait=soon")

    assert response.status_code == 400
    assert response.get_json()["error"]["code"] == "bad_preference"
    assert connection.llen("rq:queue:low") == 0


def test_who_finds_no_room_to_wait_is_answered_at_once(make_app: Callable[..., Flask]) -> None:
    app = make_app(web_threads=2)
    context: Context = app.extensions["slalom"]

    with context.waiters.expect("the one that may"):
        response = post(app.test_client(), "wait=3600")

    assert response.status_code == 202
    assert "Preference-Applied" not in response.headers


def test_a_process_told_to_stop_answers_those_who_wait(app: Flask, connection: Redis) -> None:
    with when_queued(connection, lambda job_id: app.extensions["on_stop"]()):
        response = post(app.test_client(), "wait=3600")
    later = post(app.test_client(), "wait=3600")

    assert (response.status_code, response.get_json()["status"]) == (202, "queued")
    assert later.status_code == 202


def test_all_requests_share_one_subscription(
    make_app: Callable[..., Flask], tmp_path: Path
) -> None:
    with embedded_redis.running(tmp_path / "data") as url, connections.commands(url) as redis:
        client = make_app(redis_url=url).test_client()

        with ThreadPoolExecutor(4) as threads:
            responses = list(threads.map(lambda _: post(client, "wait=1"), range(4)))

        assert {response.status_code for response in responses} == {202}
        assert redis.pubsub_numsub(keys.ENDED) == [(keys.ENDED.encode(), 1)]


def test_a_wait_outlasts_a_restart_of_redis(make_app: Callable[..., Flask], tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data, queued = tmp_path / "data", threading.Event()

    with embedded_redis.running(data, port) as url, connections.commands(url) as first:
        app = make_app(redis_url=url)
        thread = ThreadPoolExecutor(1)
        with when_queued(first, lambda job_id: queued.set()):
            answer = thread.submit(post, app.test_client(), "wait=3600")
            assert queued.wait(PATIENCE_S)
    with embedded_redis.running(data, port) as url, connections.commands(url) as second:
        run(second, second.lindex("rq:queue:low", 0).decode())
        response = answer.result(PATIENCE_S)
    thread.shutdown()

    assert (response.status_code, response.get_json()["status"]) == (200, "succeeded")


def test_a_job_that_was_accepted_is_told_though_redis_went_away(
    make_app: Callable[..., Flask], tmp_path: Path
) -> None:
    queued = threading.Event()
    with embedded_redis.running(tmp_path / "data") as url, connections.commands(url) as redis:
        app = make_app(redis_url=url)
        thread = ThreadPoolExecutor(1)
        with when_queued(redis, lambda job_id: queued.set()):
            answer = thread.submit(post, app.test_client(), "wait=3600")
            assert queued.wait(PATIENCE_S)

    app.extensions["on_stop"]()
    response = answer.result(PATIENCE_S)
    thread.shutdown()

    assert (response.status_code, response.get_json()["status"]) == (202, "queued")
