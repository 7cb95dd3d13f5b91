"""Idempotency-Key: a request makes one job, however often it is sent, whatever dies meanwhile."""

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
from flask import Flask
from flask.testing import FlaskClient
from redis import Redis
from rq.job import Job
from werkzeug.test import TestResponse

from api.app import create_app
from config.settings import Settings
from scheduler import finish, keys
from scheduler.claim import Claims
from scheduler.once import AlreadyMade, Once, OtherRequest
from scheduler.submit import Submission, Submitter
from tests.conftest import until
from tests.integration.test_api_processes import serving

BODY = {"prompt": "1+1=", "max_tokens": 4, "metadata": {"a": "1", "b": "2"}}
RESPONSE = {"choices": [{"index": 0, "text": "2", "finish_reason": "stop"}]}
REQUEST: Any = {"endpoint": "/v1/completions", "body": {"model": "adder", "prompt": "1"}}


@pytest.fixture
def app(settings: Settings) -> Iterator[Flask]:
    app = create_app(settings.model_copy(update={"idempotency_s": 600}))
    yield app
    app.extensions["on_stop"]()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


def send(client: FlaskClient, key: str, body: Any = BODY, **headers: str) -> TestResponse:
    return client.post("/v1/jobs", json=body, headers={"Idempotency-Key": key, **headers})


def test_the_same_request_is_answered_with_its_job(client: FlaskClient, connection: Redis) -> None:
    first = send(client, "k")
    again = send(client, "k")

    assert (first.status_code, again.status_code) == (202, 202)
    assert again.get_json()["id"] == first.get_json()["id"]
    assert again.headers["Location"] == first.headers["Location"]
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"
    assert connection.llen(keys.queue("low")) == 1


def test_order_and_spacing_of_a_body_and_its_nulls_make_no_other_request(
    client: FlaskClient,
) -> None:
    body = (
        '{ "metadata": {"b": "2", "a": "1"}, "max_tokens":4, "prompt": "1\\u002b1=", "tier": null}'
    )
    headers = {"Idempotency-Key": "k", "Content-Type": "application/json"}

    first = send(client, "k")
    again = client.post("/v1/jobs", data=body, headers=headers)

    assert again.get_json()["id"] == first.get_json()["id"]


def test_the_same_key_with_another_body_is_a_conflict(
    client: FlaskClient, connection: Redis
) -> None:
    send(client, "k")

    response = send(client, "k", {**BODY, "max_tokens": 5})

    problem = response.get_json()
    assert (response.status_code, problem["error"]["code"]) == (409, "idempotency_key_reused")
    assert response.headers["x-should-retry"] == "false"
    assert connection.llen(keys.queue("low")) == 1


def test_fifty_requests_at_once_make_one_job(app: Flask, connection: Redis) -> None:
    barrier = threading.Barrier(50)

    def act(_: int) -> tuple[int, str, bool]:
        client = app.test_client()
        barrier.wait()
        response = send(client, "k")
        replayed = response.headers.get("Idempotent-Replayed") == "true"
        return response.status_code, response.get_json()["id"], replayed

    with ThreadPoolExecutor(50) as threads:
        answers = list(threads.map(act, range(50)))

    assert {status for status, _, _ in answers} == {202}
    assert len({job_id for _, job_id, _ in answers}) == 1
    assert sorted(replayed for _, _, replayed in answers) == [False] + [True] * 49
    assert connection.llen(keys.queue("low")) == 1
    assert connection.zcard(keys.jobs("default")) == 1
    assert connection.hget(keys.line("low"), "jobs") == b"1"


def test_all_who_wait_for_one_job_are_woken(app: Flask, connection: Redis) -> None:
    def wait(_: int) -> TestResponse:
        return send(app.test_client(), "k", Prefer="wait=30")

    def looks() -> int:
        """How often a key was looked at: each request does so just before it waits."""
        return int(connection.info("commandstats").get("cmdstat_get", {"calls": 0})["calls"])

    before = looks()
    with ThreadPoolExecutor(5) as threads:
        answers = [threads.submit(wait, n) for n in range(5)]
        until(lambda: looks() >= before + 5 and connection.llen(keys.queue("low")))
        claims = Claims(connection, "worker", ["low"], lease_s=30)
        [claim] = claims.take(1)
        success = finish.Success(claim, RESPONSE, datetime.now(UTC), result_ttl=60)
        assert finish.write(connection, "worker", [success]) == ["written"]
        found = [answer.result() for answer in answers]

    assert {response.status_code for response in found} == {200}
    assert {response.get_json()["output"]["text"] for response in found} == {"2"}
    assert {response.headers["Preference-Applied"] for response in found} == {"wait=30"}


def test_a_request_that_is_repeated_after_the_end_gets_the_answer(
    client: FlaskClient, connection: Redis
) -> None:
    send(client, "k")
    claims = Claims(connection, "worker", ["low"], lease_s=30)
    success = finish.Success(claims.take(1)[0], RESPONSE, datetime.now(UTC), result_ttl=60)
    finish.write(connection, "worker", [success])

    again = send(client, "k", Prefer="wait=30")

    assert (again.status_code, again.get_json()["status"]) == (200, "succeeded")
    assert again.headers["Idempotent-Replayed"] == "true"


def test_a_refused_request_leaves_its_key_free(client: FlaskClient) -> None:
    refused = send(client, "k", {"prompt": "1", "tier": "gold"})
    malformed = client.post(
        "/v1/jobs", data="{", headers={"Idempotency-Key": "k", "Content-Type": "application/json"}
    )

    response = send(client, "k")

    assert (refused.status_code, malformed.status_code) == (422, 400)
    assert response.status_code == 202
    assert "Idempotent-Replayed" not in response.headers


def test_a_full_redis_leaves_the_key_free(client: FlaskClient, connection: Redis) -> None:
    connection.config_set("maxmemory", "1")
    try:
        refused = send(client, "k")
    finally:
        connection.config_set("maxmemory", "0")

    response = send(client, "k")

    assert (refused.status_code, response.status_code) == (503, 202)
    assert "Idempotent-Replayed" not in response.headers
    assert connection.llen(keys.queue("low")) == 1


def test_a_key_is_kept_as_long_as_the_setting_says(client: FlaskClient, connection: Redis) -> None:
    send(client, "k")

    [name] = connection.scan_iter("slalom:once:*")

    assert 590 <= connection.ttl(name) <= 600
    connection.delete(name)
    assert "Idempotent-Replayed" not in send(client, "k").headers


def test_a_job_that_is_gone_is_not_made_again(client: FlaskClient, connection: Redis) -> None:
    job_id = send(client, "k").get_json()["id"]
    connection.delete(f"rq:job:{job_id}")

    response = send(client, "k")

    assert (response.status_code, response.get_json()["error"]["code"]) == (404, "job_not_found")


def test_a_key_belongs_to_its_tenant(submitter: Submitter) -> None:
    def make(tenant: str, wanted: str) -> Job:
        return submitter.make(
            Submission(REQUEST, "standard", tenant), Once(tenant, "k", wanted, 600)
        )

    one, other = make("one", "f"), make("other", "g")

    with pytest.raises(AlreadyMade) as made:
        make("one", "f")
    with pytest.raises(OtherRequest):
        make("other", "f")
    assert made.value.job_id == one.id != other.id


@pytest.mark.parametrize("key", ["", "two words", "tab\t", "ümlaut", "x" * 256, "\x7f"])
def test_a_key_that_cannot_be_kept_is_refused(client: FlaskClient, key: str) -> None:
    response = send(client, key.encode().decode("latin-1"))

    assert (response.status_code, response.get_json()["error"]["code"]) == (
        400,
        "bad_idempotency_key",
    )


def test_a_reply_that_was_lost_is_no_second_job(
    settings: Settings, connection: Redis, redis_url: str
) -> None:
    server = urlsplit(redis_url)
    with cutting_relay(server.port or 0) as (port, cut):
        url = f"redis://127.0.0.1:{port}{server.path}"
        app = create_app(settings.model_copy(update={"redis_url": url}))
        client = app.test_client()
        send(client, "another")
        cut.set()

        response = send(client, "k")

        app.extensions["slalom"].connection.close()

    assert not cut.is_set()
    assert response.status_code == 202
    assert "Idempotent-Replayed" not in response.headers
    waiting = [job_id.decode() for job_id in connection.lrange(keys.queue("low"), 0, -1)]
    assert waiting[1:] == [response.get_json()["id"]]


def hang_up(*sockets: socket.socket) -> None:
    """Shut down what may be open still at its other end."""
    for each in sockets:
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


@contextmanager
def cutting_relay(server: int) -> Iterator[tuple[int, threading.Event]]:
    """Yield a port that leads to Redis; once the event is set, the reply to an EXEC is lost."""
    cut = threading.Event()
    threads: list[threading.Thread] = []
    clients: list[socket.socket] = []

    def start(*call: Any) -> None:
        threads.append(threading.Thread(target=call[0], args=call[1:]))
        threads[-1].start()

    def accept() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                redis = sockets.enter_context(socket.create_connection(("127.0.0.1", server)))
                clients.append(sockets.enter_context(client))
                start(forward, client, redis)
                start(forward, redis, client)

    def forward(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
                if cut.is_set() and b"EXEC" in data:
                    cut.clear()
                    source.shutdown(socket.SHUT_RDWR)
        hang_up(target)

    with ExitStack() as sockets:
        listener = sockets.enter_context(socket.create_server(("127.0.0.1", 0)))
        start(accept)
        try:
            yield listener.getsockname()[1], cut
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            threads[0].join()
            hang_up(*clients)
            for thread in threads:  # closing their sockets, which comes next, would wake none
                thread.join()


@pytest.mark.slow
def test_a_server_that_is_killed_makes_each_job_once(redis_url: str, connection: Redis) -> None:
    """Send with keys, kill the server in the midst, and send all of it again to another one."""
    bodies = {f"key-{n}": json.dumps({"prompt": f"{n}+1="}) for n in range(200)}

    with serving(redis_url) as (server, port):
        with ThreadPoolExecutor(8) as threads:
            first = [threads.submit(answered, port, key, body) for key, body in bodies.items()]
            until(lambda: connection.llen(keys.queue("low")) >= 60)
            for process in [*psutil.Process(server.pid).children(recursive=True), server]:
                process.kill()
        before = {key: answer.result() for key, answer in zip(bodies, first, strict=True)}
    queued = connection.llen(keys.queue("low"))
    with serving(redis_url) as (_, port), ThreadPoolExecutor(8) as threads:
        again = [threads.submit(answered, port, key, body) for key, body in bodies.items()]
        after = {key: answer.result() for key, answer in zip(bodies, again, strict=True)}

    assert 60 <= queued < 200
    assert None in before.values()
    assert None not in after.values()
    assert all(after[key] == job_id for key, job_id in before.items() if job_id)
    waiting = [job_id.decode() for job_id in connection.lrange(keys.queue("low"), 0, -1)]
    assert sorted(waiting) == sorted(str(job_id) for job_id in after.values())
    assert len(waiting) == len(set(waiting)) == 200


def answered(port: int, key: str, body: str) -> str | None:
    """Return the id of the job; None where no answer came."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    headers = {"Content-Type": "application/json", "Idempotency-Key": key}
    try:
        connection.request("POST", "/v1/jobs", body, headers)
        response = connection.getresponse()
        assert response.status == 202
        job_id: str = json.load(response)["id"]
        return job_id
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
