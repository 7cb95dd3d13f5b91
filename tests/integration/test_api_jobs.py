"""Jobs over HTTP: submitted, looked at, canceled, and every way in which that can go wrong."""

import json
import zlib
from datetime import UTC, datetime
from io import BytesIO
from typing import Any

import pytest
from flask.testing import FlaskClient
from redis import Redis
from rq import Queue
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer
from rq.worker import SimpleWorker
from werkzeug.test import TestResponse

from api.app import create_app
from config import connections
from config.settings import Settings
from scheduler import finish, models
from scheduler.claim import Claim, Claims
from scheduler.expiry import expire
from scheduler.models import ModelView

SECRET = "the-secret-prompt"
USAGE = {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6}
RESPONSE = {
    "id": "cmpl-1",
    "object": "text_completion",
    "model": "adder",
    "choices": [{"index": 0, "text": "2", "finish_reason": "stop"}],
    "usage": USAGE,
}


@pytest.fixture
def claims(connection: Redis) -> Claims:
    return Claims(connection, "worker", ["high", "low"], lease_s=30)


def succeed(claims: Claims, claim: Claim, value: Any = RESPONSE) -> None:
    success = finish.Success(claim, value, datetime.now(UTC), result_ttl=60)
    assert finish.write(claims.connection, claims.worker, [success]) == ["written"]


def problem(response: TestResponse, status: int, code: str) -> dict[str, Any]:
    """Return the problem in `response`, checked for what every problem has."""
    assert (response.status_code, response.mimetype) == (status, "application/problem+json")
    body: dict[str, Any] = response.get_json()
    assert body["status"] == status
    assert body["title"]
    assert body["detail"] == body["error"]["message"]
    assert body["error"]["code"] == code
    assert "Traceback" not in response.text
    assert SECRET not in response.text
    return body


def test_an_accepted_job_is_answered_with_its_place(client: FlaskClient, connection: Redis) -> None:
    response = client.post("/v1/jobs", json={"prompt": "1+1=", "metadata": {"k": "v"}})

    body = response.get_json()
    assert response.status_code == 202
    assert response.headers["Location"] == body["status_url"] == f"/v1/jobs/{body['id']}"
    assert "Preference-Applied" not in response.headers
    assert (body["status"], body["tier"], body["queue"]) == ("queued", "standard", "low")
    assert (body["model"], body["metadata"]) == ("adder", {"k": "v"})
    assert datetime.fromisoformat(body["created_at"]).utcoffset() == UTC.utcoffset(None)
    assert body["started_at"] is body["finished_at"] is body["output"] is body["error"] is None
    assert connection.lrange("rq:queue:low", 0, -1) == [body["id"].encode()]


def test_a_job_says_until_when_it_must_start_and_end(client: FlaskClient) -> None:
    job = {"prompt": "1+1=", "start_within_s": 60, "finish_within_s": 600}
    url = client.post("/v1/jobs", json=job).get_json()["status_url"]

    body = client.get(url).get_json()

    created_at, start_by, finish_by = (
        datetime.fromisoformat(body[name]) for name in ("created_at", "start_by", "finish_by")
    )
    assert body["deadline_at"] == body["finish_by"]
    assert round((start_by - created_at).total_seconds()) == 60
    assert round((finish_by - created_at).total_seconds()) == 600


def test_a_job_that_waited_too_long_is_expired(client: FlaskClient, connection: Redis) -> None:
    url = client.post("/v1/jobs", json={"prompt": "1+1="}).get_json()["status_url"]
    job_id = url.rpartition("/")[2]
    connection.hset(f"rq:job:{job_id}", "finish_by", 1)
    connection.zadd("slalom:deadlines:low", {job_id: 1})

    expire(connection, "low")

    body = client.get(url).get_json()
    assert (body["status"], body["error"]["code"]) == ("expired", "expired")
    assert body["finished_at"]
    [letter] = client.get("/v1/dead-letters?cause=expired").get_json()["data"]
    assert letter["id"] == job_id
    again = client.post(f"/v1/dead-letters/{job_id}/replay").get_json()
    assert again["status"] == "queued"


def test_the_tier_chooses_the_queue(client: FlaskClient, connection: Redis) -> None:
    body = client.post("/v1/jobs", json={"prompt": "1+1=", "tier": "premium"}).get_json()

    assert (body["tier"], body["queue"]) == ("premium", "high")
    assert connection.llen("rq:queue:high") == 1


def test_a_worker_gets_the_openai_request(client: FlaskClient, claims: Claims) -> None:
    client.post("/v1/jobs", json={"prompt": "1+1=", "max_tokens": 4, "tier": "batch"})

    [claim] = claims.take(10)

    body = {"model": "adder", "prompt": "1+1=", "max_tokens": 4}
    assert claim.job.args == [{"endpoint": "/v1/completions", "body": body}]
    assert claim.job.meta["tier"] == "batch"


def test_a_job_is_shown_at_each_stage(client: FlaskClient, claims: Claims) -> None:
    url = client.post("/v1/jobs", json={"prompt": "1+1="}).get_json()["status_url"]

    queued = client.get(url).get_json()
    [claim] = claims.take(1)
    running = client.get(url).get_json()
    claim.job.meta["first_token_at"] = "2026-11-21T10:00:00+00:00"
    succeed(claims, claim)
    succeeded = client.get(url).get_json()

    assert [job["status"] for job in (queued, running, succeeded)] == [
        "queued",
        "running",
        "succeeded",
    ]
    assert (queued["started_at"], running["finished_at"]) == (None, None)
    assert succeeded["created_at"] <= succeeded["started_at"] <= succeeded["finished_at"]
    assert succeeded["first_token_at"] == "2026-11-21T10:00:00Z"
    assert succeeded["output"] == {"text": "2", "finish_reason": "stop"}
    assert (succeeded["usage"], succeeded["response"]) == (USAGE, RESPONSE)
    assert succeeded["error"] is None


def test_a_failed_job_says_why(client: FlaskClient, connection: Redis) -> None:
    job_id = client.post("/v1/jobs", json={"prompt": "1+1="}).get_json()["id"]
    job = Job.fetch(job_id, connection, JSONSerializer)
    job.meta["failure"] = {"code": "context_length_exceeded", "message": "too long"}
    job.save_meta()
    job.set_status(JobStatus.FAILED)

    body = client.get(f"/v1/jobs/{job_id}").get_json()

    assert (body["status"], body["output"], body["response"]) == ("failed", None, None)
    assert body["error"] == {"code": "context_length_exceeded", "message": "too long"}


def test_a_plain_rq_job_is_shown_with_its_result(
    client: FlaskClient, connection: Redis, redis_url: str
) -> None:
    queue = Queue("low", connection=connection, serializer=JSONSerializer)
    good, bad = queue.enqueue("math.sqrt", 4), queue.enqueue("math.sqrt", -1)
    with connections.listener(redis_url) as listener:
        SimpleWorker(["low"], connection=listener, serializer=JSONSerializer).work(
            burst=True, logging_level="ERROR"
        )

    succeeded = client.get(f"/v1/jobs/{good.id}").get_json()
    failed = client.get(f"/v1/jobs/{bad.id}").get_json()

    assert (succeeded["status"], succeeded["response"], succeeded["tier"]) == (
        "succeeded",
        2.0,
        None,
    )
    assert (succeeded["output"], succeeded["usage"], succeeded["model"]) == (None, None, None)
    assert failed["error"]["code"] == "job_failed"
    assert failed["error"]["message"].startswith("ValueError")


@pytest.mark.parametrize("job_id", ["no-such-job", "wrong%20characters", "5f0c" * 9])
@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_an_unknown_job_is_not_found(client: FlaskClient, method: str, job_id: str) -> None:
    response = client.open(f"/v1/jobs/{job_id}", method=method)

    problem(response, 404, "job_not_found")


def test_a_record_that_is_no_json_is_a_problem_and_no_traceback(
    client: FlaskClient, connection: Redis
) -> None:
    pickled = Queue("low", connection=connection).enqueue("math.sqrt", 4)
    connection.set("rq:job:text", "no hash")
    hash_of_junk = {"data": zlib.compress(b"\xff"), "status": "queued", "meta": "[1]"}
    connection.hset("rq:job:junk", mapping=hash_of_junk)

    for job_id in (pickled.id, "text", "junk"):
        response = client.get(f"/v1/jobs/{job_id}")

        problem(response, 500, "job_unreadable")
        assert response.headers["x-should-retry"] == "false"


def test_a_canceled_job_never_runs(client: FlaskClient, claims: Claims) -> None:
    url = client.post("/v1/jobs", json={"prompt": "1+1="}).get_json()["status_url"]

    response = client.delete(url)

    body = response.get_json()
    assert (response.status_code, body["status"], body["stopping"]) == (200, "canceled", False)
    assert body["finished_at"]
    assert claims.take(10) == []


def test_canceling_a_running_job_tells_its_worker(client: FlaskClient, claims: Claims) -> None:
    url = client.post("/v1/jobs", json={"prompt": "1+1="}).get_json()["status_url"]
    [claim] = claims.take(1)

    response = client.delete(url)

    body = response.get_json()
    assert (response.status_code, body["status"], body["stopping"]) == (202, "running", True)
    assert claims.renew([claim]) == ["stop"]


@pytest.mark.parametrize("status", ["stopped", "failed"])
def test_a_job_that_was_cut_off_shows_what_it_had(
    client: FlaskClient, claims: Claims, connection: Redis, status: str
) -> None:
    url = client.post("/v1/jobs", json={"prompt": "1+1="}).get_json()["status_url"]
    [claim] = claims.take(1)
    connection.hset(claim.job.key, "partial", json.dumps(RESPONSE))
    running = client.get(url).get_json()
    connection.hset(claim.job.key, "status", status)

    body = client.get(url).get_json()

    assert running["output"] is None
    assert body["output"] == {"text": "2", "finish_reason": "stop"}
    assert body["response"] == RESPONSE


def test_a_damaged_rest_of_an_answer_is_none(
    client: FlaskClient, claims: Claims, connection: Redis
) -> None:
    url = client.post("/v1/jobs", json={"prompt": "1+1="}).get_json()["status_url"]
    [claim] = claims.take(1)
    connection.hset(claim.job.key, mapping={"status": "stopped", "partial": "{"})

    assert client.get(url).get_json()["response"] is None


def test_canceling_an_ended_job_is_a_conflict(client: FlaskClient, claims: Claims) -> None:
    url = client.post("/v1/jobs", json={"prompt": "1+1="}).get_json()["status_url"]
    succeed(claims, claims.take(1)[0])

    response = client.delete(url)

    assert "succeeded" in problem(response, 409, "job_ended")["detail"]
    assert response.headers["x-should-retry"] == "false"


def test_malformed_json_is_refused(client: FlaskClient) -> None:
    body = f'{{"prompt": "{SECRET}'

    response = client.post("/v1/jobs", data=body, content_type="application/json")

    problem(response, 400, "malformed_json")


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded"])
def test_another_content_type_is_refused(client: FlaskClient, content_type: str | None) -> None:
    response = client.post("/v1/jobs", data='{"prompt": "1"}', content_type=content_type)

    problem(response, 415, "not_json")


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_over_the_limit_is_refused(settings: Settings, chunked: bool) -> None:
    app = create_app(settings.model_copy(update={"max_body_bytes": 1024}))
    environ = {"wsgi.input_terminated": True} if chunked else {}

    def post(size: int) -> TestResponse:
        body = json.dumps({"prompt": "1"}).encode().ljust(size)
        return app.test_client().post(
            "/v1/jobs",
            input_stream=BytesIO(body) if chunked else None,
            data=None if chunked else body,
            content_type="application/json",
            environ_base=environ,
        )

    assert post(1024).status_code == 202
    assert "1024 bytes" in problem(post(1025), 413, "body_too_large")["detail"]
    problem(post(5000), 413, "body_too_large")


def test_a_request_that_breaks_the_rules_names_every_field(client: FlaskClient) -> None:
    wrong = {"prompt": [SECRET], "max_tokens": "5", "extra": SECRET}

    response = client.post("/v1/jobs", json=wrong)

    body = problem(response, 422, "invalid_request")
    assert [error["field"] for error in body["errors"]] == ["prompt", "max_tokens", "extra"]
    assert body["error"]["param"] == "prompt"
    assert body["error"]["type"] == "invalid_request_error"


def test_a_model_that_nobody_serves_is_refused(client: FlaskClient, connection: Redis) -> None:
    models.announce(connection, ModelView("adder", 256, "sim", 0.0))

    served = client.post("/v1/jobs", json={"prompt": "1", "model": "adder"})
    response = client.post("/v1/jobs", json={"prompt": "1", "model": "other"})

    assert served.status_code == 202
    assert problem(response, 422, "invalid_request")["errors"][0]["field"] == "model"


def test_paths_and_methods_that_are_not_there_are_problems_too(client: FlaskClient) -> None:
    problem(client.get("/v1/nothing"), 404, "not_found")
    response = client.put("/v1/jobs")

    problem(response, 405, "method_not_allowed")
    assert "POST" in response.headers["Allow"]


def test_without_redis_the_answer_is_to_try_again(settings: Settings) -> None:
    app = create_app(settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"}))
    client = app.test_client()

    for response in (
        client.post("/v1/jobs", json={"prompt": "1"}),
        client.get("/v1/jobs/any"),
        client.delete("/v1/jobs/any"),
        client.get("/readyz"),
    ):
        problem(response, 503, "redis_unavailable")
        assert int(response.headers["Retry-After"]) > 0


def test_an_unforeseen_failure_tells_nothing_to_the_client(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(connection: Redis) -> list[ModelView]:
        raise RuntimeError(SECRET)

    monkeypatch.setattr(models, "announced", broken)

    response = client.post("/v1/jobs", json={"prompt": "1"})

    assert problem(response, 500, "internal_error")["error"]["type"] == "server_error"
    assert "RuntimeError" in caplog.text


def test_no_answer_may_be_kept_or_guessed_at(client: FlaskClient) -> None:
    for response in (client.get("/healthz"), client.get("/v1/jobs/none")):
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
