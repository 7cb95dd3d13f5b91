"""What does not end well, or not in time: its status, its code, and what becomes of the job."""

import http.client
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest
from redis import Redis

from config.settings import ROOT
from scheduler import rates
from scheduler.expiry import expire
from scheduler.rates import Moments, TierRates, WorkerRates
from tests.conftest import StartWorker, until
from tests.integration.test_api_processes import serving
from tests.openai_sdk import CHAT, PATIENCE_S, job, only_job, post, sdk, send

LONG = 4000
"""Tokens that take the simulated engine about 16 s."""


def tiers_file(directory: Path, old: str, new: str) -> str:
    """Return the path of an SLA table that is ours but for one setting."""
    text = (ROOT / "config" / "tiers.yaml").read_text()
    assert old in text
    path = directory / "tiers.yaml"
    path.write_text(text.replace(old, new))
    return str(path)


def a_job_a_second(connection: Redis) -> None:
    """Let there be a worker that does a job of 100 tokens a second, is full, and was measured."""
    one = Moments(20, 20, 20)
    tier = TierRates(Moments(20, 2000, 200_000), one, one, Moments(20, 0.2, 0.002))
    tiers = {"premium": tier, "standard": tier, "batch": tier}
    worker = WorkerRates({"high": 0, "low": 0}, 1, 60.0, 60.0, 6000.0, {}, one, tiers)
    connection.sadd("rq:workers", "rq:worker:w")
    rates.publish(connection, "w", worker, ttl_s=60)


def test_what_takes_too_long_is_a_504_and_goes_on(idle: int, connection: Redis) -> None:
    with sdk("sync", idle) as ask, pytest.raises(openai.APIStatusError) as error:
        ask(lambda c: c.chat.completions.create(**CHAT))

    body = error.value.body
    job_id = only_job(connection)
    assert isinstance(body, dict)
    assert (error.value.status_code, error.value.code) == (504, "still_running")
    assert (body["job_id"], body["status_url"]) == (job_id, f"/v1/jobs/{job_id}")
    assert error.value.response.headers["x-should-retry"] == "false"
    assert error.value.response.headers["x-slalom-job-id"] == job_id
    assert job(connection, job_id)["status"] == "queued"


def test_a_job_that_somebody_cancels_is_a_conflict(redis_url: str, connection: Redis) -> None:
    with serving(redis_url) as (_, port), ThreadPoolExecutor(1) as thread:
        answer = thread.submit(post, port, "/v1/chat/completions", CHAT)
        _delete(port, only_job(connection))

        status, headers, said = answer.result(PATIENCE_S)

    assert (status, said["error"]["code"]) == (409, "job_canceled")
    assert headers["x-should-retry"] == "false"


def test_a_job_that_is_cancelled_while_it_streams_ends_the_stream_with_an_error(
    port: int, redis: Redis
) -> None:
    with sdk("sync", port) as ask:
        stream = ask(lambda c: c.chat.completions.create(**CHAT, max_tokens=LONG, stream=True))
        job_id = next(stream).id.removeprefix("chatcmpl-")
        _delete(port, job_id)

        with pytest.raises(openai.APIError) as error:
            list(stream)

    assert error.value.code == "job_canceled"


def test_a_job_that_misses_its_deadline_is_a_504(
    redis_url: str, connection: Redis, tmp_path: Path
) -> None:
    hurried = tiers_file(tmp_path, "finish_within_s: 3600", "finish_within_s: 1")
    with (
        serving(redis_url, SLALOM_TIERS_FILE=hurried) as (_, port),
        ThreadPoolExecutor(1) as thread,
    ):
        answer = thread.submit(post, port, "/v1/chat/completions", CHAT)

        def is_answered() -> bool:
            expire(connection, "low")
            return answer.done()

        until(is_answered)
        status, headers, said = answer.result()

    assert (status, said["error"]["code"]) == (504, "expired")
    assert headers["x-should-retry"] == "false"


@pytest.mark.parametrize("stream", [False, True])
def test_a_job_that_kills_engines_is_a_500_that_is_final(
    redis_url: str, start_worker: StartWorker, stream: bool
) -> None:
    start_worker()
    with serving(redis_url) as (_, port):
        body = {**CHAT, "simulate": "crash", "stream": stream}

        status, headers, said = post(port, "/v1/chat/completions", body)

    assert (status, said["error"]["code"]) == (500, "engine_crash")
    assert said["error"]["type"] == "server_error"
    assert headers["x-should-retry"] == "false"
    assert "Traceback" not in said["error"]["message"]


def test_flex_is_refused_where_it_would_be_late(
    redis_url: str, connection: Redis, tmp_path: Path
) -> None:
    hurried = tiers_file(tmp_path, "finish_within_s: 86400", "finish_within_s: 20")
    a_job_a_second(connection)
    with serving(redis_url, SLALOM_TIERS_FILE=hurried) as (_, port):
        for _ in range(50):
            post(port, "/v1/jobs", {"prompt": "1+1=", "max_tokens": 100})

        with sdk("sync", port, max_retries=0) as ask, pytest.raises(openai.RateLimitError) as error:
            ask(lambda c: c.chat.completions.create(**CHAT, max_tokens=100, service_tier="flex"))

    assert error.value.code == "deadline_unreachable"
    assert int(error.value.response.headers["Retry-After"]) > 0
    assert error.value.body["earliest_feasible_deadline"]["within_s"] > 20


def test_a_stream_waits_as_long_as_its_job_and_tells_so(idle: int, connection: Redis) -> None:
    with send(idle, {**CHAT, "stream": True}) as client:
        job_id = only_job(connection)
        waited = _read_to(client, b":\n\n")
        _delete(idle, job_id)
        ended = _read_to(client, b"\r\n0\r\n\r\n")

    assert waited.startswith(b"HTTP/1.1 200")
    assert b'data: {"error":' in ended
    assert b'"code":"job_canceled"' in ended


def _read_to(client: socket.socket, mark: bytes) -> bytes:
    """Return what the server sends, up to `mark`."""
    text = b""
    while mark not in text:
        more = client.recv(4096)
        assert more, text
        text += more
    return text


def _delete(port: int, job_id: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    connection.request("DELETE", f"/v1/jobs/{job_id}")
    assert connection.getresponse().status in {200, 202}
    connection.close()
