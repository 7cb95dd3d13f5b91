"""`GET /v1/jobs/{id}/events`: a job is followed over HTTP, from any point on, till its end."""

import http.client
import json
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from redis import Redis

from scheduler import jobs, keys
from scheduler.jobs import Request
from scheduler.submit import Submitter
from tests.conftest import StartWorker, until
from tests.integration.test_api_processes import ask, serving

PATIENCE_S = 30
REQUEST = Request(endpoint="/v1/completions", body={"prompt": "1+1=", "max_tokens": 6})


@dataclass(frozen=True)
class Frame:
    """A server-sent event; a comment has no kind."""

    kind: str | None
    id: str | None
    data: Any


def frames(text: str) -> list[Frame]:
    """Return the events in `text`, comments left out."""
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if ": " in line)
        if "event" in fields:
            found.append(Frame(fields["event"], fields["id"], json.loads(fields["data"])))
    return found


@pytest.fixture
def ended(submitter: Submitter, start_worker: StartWorker) -> str:
    """Id of a streamed job that has ended."""
    job = submitter.submit(REQUEST, tier="batch", stream=True)
    assert start_worker("--burst", "low").wait() == 0
    return job.id


def test_a_job_that_was_submitted_as_a_stream_is_told_whole(
    client: FlaskClient, connection: Redis, start_worker: StartWorker
) -> None:
    body = {"prompt": "1+1=", "max_tokens": 6, "stream": True}
    job_id = client.post("/v1/jobs", json=body).get_json()["id"]
    start_worker("--burst", "low").wait()

    response = client.get(f"/v1/jobs/{job_id}/events")

    assert response.status_code == 200
    assert response.mimetype == "text/event-stream"
    assert response.headers["X-Accel-Buffering"] == "no"
    assert response.headers["Cache-Control"] == "no-store"
    told = frames(response.text)
    assert [(f.id, f.data["status"]) for f in told if f.kind == "status"] == [
        ("0-0", "queued"),
        ("1-0", "running"),
        ("1-end", "succeeded"),
    ]
    chunks = [f.data for f in told if f.kind == "chunk"]
    assert "".join(c["text"] for chunk in chunks for c in chunk["choices"]) == (
        "[simulated: 6 tokens]"
    )
    assert chunks[-1]["usage"]["completion_tokens"] == 6


@pytest.mark.parametrize("how", ["header", "query", "both"])
def test_who_comes_back_names_the_last_event_he_saw(
    client: FlaskClient, ended: str, how: str
) -> None:
    whole = frames(client.get(f"/v1/jobs/{ended}/events").text)
    headers = {"Last-Event-ID": "1-3"} if how != "query" else {}
    query = {"header": "", "query": "?after=1-3", "both": "?after=1-1"}[how]

    again = frames(client.get(f"/v1/jobs/{ended}/events{query}", headers=headers).text)

    assert again == whole[[f.id for f in whole].index("1-3") + 1 :]


def test_who_has_seen_the_end_is_told_not_to_come_back(client: FlaskClient, ended: str) -> None:
    response = client.get(f"/v1/jobs/{ended}/events", headers={"Last-Event-ID": "1-end"})

    assert (response.status_code, response.data) == (204, b"")


@pytest.mark.parametrize("cursor", ["x", "1", "1-x", "-1-0", "99999999999999999999-1"])
def test_a_cursor_that_is_none_is_a_problem(client: FlaskClient, ended: str, cursor: str) -> None:
    response = client.get(f"/v1/jobs/{ended}/events", headers={"Last-Event-ID": cursor})

    assert response.status_code == 400
    assert response.get_json()["error"]["code"] == "bad_cursor"
    assert "1-end" in response.get_json()["detail"]


def test_a_job_that_never_was_is_a_problem(client: FlaskClient) -> None:
    response = client.get("/v1/jobs/nobody/events")

    assert (response.status_code, response.get_json()["error"]["code"]) == (404, "job_not_found")


def test_an_answer_to_head_lets_the_job_go(app: Flask, ended: str) -> None:
    client = app.test_client()
    for _ in range(200):  # more than may follow at once
        response = client.head(f"/v1/jobs/{ended}/events")
        response.close()
        assert response.status_code == 200


class Reader:
    """A client that reads a stream from a real server."""

    def __init__(self, port: int, job_id: str, after: str | None = None) -> None:
        headers = {"Last-Event-ID": after} if after else {}
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
        self.connection.request("GET", f"/v1/jobs/{job_id}/events", headers=headers)
        self.response = self.connection.getresponse()

    def until(self, kind: str) -> Frame:
        """Return the next event of a kind."""
        while True:
            block = b""
            while not block.endswith(b"\n\n"):
                line = self.response.readline()
                assert line, "the stream ended"
                block += line
            for frame in frames(block.decode()):
                if frame.kind == kind:
                    return frame

    def rest(self) -> list[Frame]:
        return frames(self.response.read().decode())

    def close(self) -> None:
        self.response.close()
        self.connection.close()


def test_tokens_are_seen_while_the_job_runs_and_a_broken_connection_is_taken_up_again(
    redis_url: str, submitter: Submitter, start_worker: StartWorker
) -> None:
    request = Request(endpoint="/v1/completions", body={"prompt": "1+1=", "max_tokens": 1000})
    job = submitter.submit(request, tier="batch", stream=True)
    with serving(redis_url) as (_, port):
        reader = Reader(port, job.id)
        assert reader.until("status").data["status"] == "queued"
        start_worker("low")
        seen = [reader.until("chunk") for _ in range(5)]
        _, shown = ask(port, "GET", f"/v1/jobs/{job.id}")
        reader.close()

        again = Reader(port, job.id, seen[-1].id)
        rest = again.rest()
        again.close()

    assert shown["status"] == "running"
    assert rest[0].id == "1-6"
    assert (rest[-1].id, rest[-1].data["status"]) == ("1-end", "succeeded")
    assert [f.id for f in rest[:-1]] == [f"1-{n}" for n in range(6, 1002)]


def test_a_server_told_to_stop_ends_its_streams_cleanly(
    redis_url: str, submitter: Submitter
) -> None:
    job = submitter.submit(REQUEST, tier="batch", stream=True)
    with serving(redis_url) as (server, port):
        reader = Reader(port, job.id)
        reader.until("status")

        server.send_signal(signal.SIGTERM)

        assert reader.rest() == []
        reader.close()
        assert server.wait(PATIENCE_S) == 0


def test_a_reader_who_hangs_up_makes_room_for_the_next(
    redis_url: str, submitter: Submitter
) -> None:
    job = submitter.submit(REQUEST, tier="batch", stream=True)
    with serving(redis_url, SLALOM_WEB_THREADS="2") as (_, port):
        first = Reader(port, job.id)
        first.until("status")
        status, problem = ask(port, "GET", f"/v1/jobs/{job.id}/events")
        assert (status, problem["error"]["code"]) == (503, "no_room_to_wait")

        first.close()

        def is_free() -> bool:
            reader = Reader(port, job.id)
            found = reader.response.status == 200
            reader.close()
            return found

        until(is_free)


def test_a_client_that_hangs_up_while_it_waits_gives_its_place_back_and_keeps_its_job(
    redis_url: str, connection: Redis
) -> None:
    body = json.dumps({"prompt": "1+1="}).encode()
    head = (
        "POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Prefer: wait=30\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with (
        serving(redis_url, SLALOM_WEB_THREADS="2") as (_, port),
        ThreadPoolExecutor(1) as thread,
    ):
        with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as client:
            client.sendall(head.encode() + body)
            until(lambda: connection.llen(keys.queue("low")) == 1)

        def may_wait() -> bool:
            http_connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
            headers = {"Content-Type": "application/json", "Prefer": "wait=1"}
            http_connection.request("POST", "/v1/jobs", body, headers)
            applied = http_connection.getresponse().headers.get("Preference-Applied")
            http_connection.close()
            return applied == "wait=1"

        thread.submit(until, may_wait).result(PATIENCE_S)
        first = connection.lindex(keys.queue("low"), 0)
        assert first is not None
        assert jobs.view(jobs.fetch(connection, first.decode())).status == "queued"
