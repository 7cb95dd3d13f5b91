"""Many jobs in one request: each is accepted or refused for itself, in their order."""

import json
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from redis import Redis

from api.app import create_app
from api.context import Context
from api.intake import TOGETHER
from config.settings import Settings
from scheduler import keys
from scheduler.claim import Claims

SECRET = "the-secret-prompt"
GOOD = {"prompt": "1+1="}


def send(client: FlaskClient, *jobs: Any) -> dict[str, Any]:
    response = client.post("/v1/jobs:batch", json={"jobs": jobs})
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.get_json()
    return body


def test_jobs_are_queued_in_their_order(client: FlaskClient, connection: Redis) -> None:
    jobs = [{"prompt": f"{n}+1=", "metadata": {"n": str(n)}} for n in range(2 * TOGETHER + 1)]

    body = send(client, *jobs)

    found = [item["job"] for item in body["items"]]
    assert body["counts"] == {"total": len(jobs), "accepted": len(jobs), "refused": 0}
    assert [job["metadata"]["n"] for job in found] == [str(n) for n in range(len(jobs))]
    waiting = [job_id.decode() for job_id in connection.lrange(keys.queue("low"), 0, -1)]
    assert [job["id"] for job in found] == waiting


def test_each_says_how_many_stand_before_it(client: FlaskClient) -> None:
    send(client, GOOD)
    tiers = ["standard"] * TOGETHER + ["premium", "standard", "premium"]

    items = send(client, *({"prompt": "1", "tier": tier} for tier in tiers))["items"]

    positions = [item["job"]["position"] for item in items]
    assert positions == [*range(1, TOGETHER + 1), 0, TOGETHER + 2, 1]


def test_a_bad_job_is_refused_alone(client: FlaskClient, connection: Redis) -> None:
    wrong = {"prompt": [SECRET], "extra": SECRET}

    body = send(client, GOOD, wrong, 7, {**GOOD, "tier": "gold"}, GOOD)

    assert [item["status"] for item in body["items"]] == [202, 422, 422, 422, 202]
    assert body["counts"] == {"total": 5, "accepted": 2, "refused": 3}
    _, refused, no_object, no_tier, _ = body["items"]
    assert refused["error"]["error"]["code"] == "invalid_request"
    assert [error["field"] for error in refused["error"]["errors"]] == ["prompt", "extra"]
    assert no_object["error"]["errors"][0]["field"] == "body"
    assert "premium" in no_tier["error"]["detail"]
    assert connection.llen(keys.queue("low")) == 2
    assert SECRET not in json.dumps(body)


def test_a_job_of_a_list_is_refused_in_the_words_of_a_single_one(client: FlaskClient) -> None:
    wrong = {"prompt": "1", "max_tokens": 10**6}

    alone = client.post("/v1/jobs", json=wrong).get_json()
    [item] = send(client, wrong)["items"]

    assert item == {"status": 422, "error": alone}


def test_the_worker_gets_what_each_job_asked_for(client: FlaskClient, connection: Redis) -> None:
    send(client, {"prompt": "1+1=", "max_tokens": 4, "temperature": 0, "tier": "batch"})

    [claim] = Claims(connection, "worker", ["high", "low"], lease_s=30).take(10)

    wanted = {"model": "adder", "prompt": "1+1=", "max_tokens": 4, "temperature": 0}
    assert claim.job.args == [{"endpoint": "/v1/completions", "body": wanted}]
    assert claim.job.meta["tier"] == "batch"
    assert connection.hget(claim.job.key, "finish_by")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "malformed_json"),
        (b"[]", 422, "invalid_request"),
        (b"{}", 422, "invalid_request"),
        (b'{"jobs": []}', 422, "invalid_request"),
        (b'{"jobs": {}}', 422, "invalid_request"),
        (b'{"jobs": [{"prompt": "1"}], "more": 1}', 422, "invalid_request"),
        (b'{"jobs": [1, 2, 3, 4]}', 422, "invalid_request"),
        (b" " * 2000 + b"{}", 413, "body_too_large"),
    ],
)
def test_a_list_that_is_none_is_refused_whole(
    settings: Settings, body: bytes, status: int, code: str
) -> None:
    changes = {"max_jobs_at_once": 3, "max_batch_body_bytes": 2000}
    client = create_app(settings.model_copy(update=changes)).test_client()

    response = client.post("/v1/jobs:batch", data=body, content_type="application/json")

    assert (response.status_code, response.get_json()["error"]["code"]) == (status, code)


def test_a_list_takes_no_idempotency_key(client: FlaskClient, connection: Redis) -> None:
    response = client.post(
        "/v1/jobs:batch", json={"jobs": [GOOD]}, headers={"Idempotency-Key": "k"}
    )

    assert (response.status_code, response.get_json()["error"]["code"]) == (
        400,
        "bad_idempotency_key",
    )
    assert connection.llen(keys.queue("low")) == 0


def test_a_full_redis_refuses_each_job_and_says_to_look(
    client: FlaskClient, connection: Redis
) -> None:
    connection.config_set("maxmemory", "1")
    try:
        body = send(client, GOOD, {}, *[GOOD] * TOGETHER)
    finally:
        connection.config_set("maxmemory", "0")

    assert [item["status"] for item in body["items"]] == [503, 422, *[503] * TOGETHER]
    assert body["counts"]["accepted"] == 0
    assert body["items"][0]["error"]["instance"].startswith("/v1/jobs/")
    assert connection.llen(keys.queue("low")) == 0


def test_without_redis_the_answer_is_to_try_again(settings: Settings) -> None:
    app = create_app(settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"}))

    response = app.test_client().post("/v1/jobs:batch", json={"jobs": [GOOD]})

    assert (response.status_code, response.headers["Retry-After"]) == (503, "1")


def test_many_jobs_are_few_round_trips(app: Flask, client: FlaskClient, connection: Redis) -> None:
    context: Context = app.extensions["slalom"]
    send(client, GOOD)
    before = connection.info("stats")["total_reads_processed"]

    send(client, *[GOOD] * (4 * TOGETHER))

    reads = connection.info("stats")["total_reads_processed"] - before
    assert context.settings.max_jobs_at_once >= 4 * TOGETHER
    assert reads < 4 * TOGETHER / 2
