"""Promises over HTTP: position and estimate of who waits, 429 for who would be late."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from redis import Redis
from rq import Queue
from rq.serializers import JSONSerializer

from api.app import create_app
from config.settings import Settings
from scheduler import rates
from scheduler.claim import Claims
from scheduler.rates import Moments, TierRates, WorkerRates
from tests.integration.test_api_jobs import problem

JOB = {"prompt": "1+1=", "max_tokens": 100, "tier": "batch"}
SHORT = {"finish_within_s": 1.0}


@pytest.fixture
def client(settings: Settings) -> Iterator[FlaskClient]:
    app: Flask = create_app(settings)
    yield app.test_client()
    app.extensions["on_stop"]()


@pytest.fixture
def measured(connection: Redis) -> None:
    measure(connection)


def measure(connection: Redis) -> None:
    """Let there be a worker that does a job of 100 tokens a second, is full, and was measured."""
    one = Moments(20, 20, 20)
    tier = TierRates(Moments(20, 2000, 200_000), one, one, Moments(20, 0.2, 0.002))
    tiers = {"premium": tier, "standard": tier, "batch": tier}
    worker = WorkerRates({"high": 0, "low": 0}, 1, 60.0, 60.0, 6000.0, {}, one, tiers)
    connection.sadd("rq:workers", "rq:worker:w")
    rates.publish(connection, "w", worker, ttl_s=60)


def waiting(client: FlaskClient, count: int) -> None:
    for _ in range(count):
        assert client.post("/v1/jobs", json=JOB).status_code == 202


def seconds(body: dict[str, Any], what: str, share: str) -> float:
    """Return the seconds from a job's creation to an instant of its estimate."""
    at = datetime.fromisoformat(body["estimate"][what][share])
    return (at - datetime.fromisoformat(body["created_at"])).total_seconds()


@pytest.mark.usefixtures("measured")
def test_a_waiting_job_has_a_position_and_an_estimate(client: FlaskClient) -> None:
    waiting(client, 10)

    posted = client.post("/v1/jobs", json=JOB).get_json()
    shown = client.get(posted["status_url"]).get_json()

    for body in (posted, shown):
        assert body["position"] == 10
        assert body["at_risk"] is False
        assert seconds(body, "start_at", "p50") == pytest.approx(11, abs=2)
        assert seconds(body, "finish_at", "p50") == pytest.approx(13, abs=2)
        for what in ("start_at", "finish_at"):
            assert body["estimate"][what]["p50"] <= body["estimate"][what]["p90"]
        assert body["estimate"]["start_at"]["p90"] <= body["estimate"]["finish_at"]["p90"]


@pytest.mark.usefixtures("measured")
def test_a_job_that_runs_or_has_ended_has_neither(client: FlaskClient, connection: Redis) -> None:
    waiting(client, 2)
    urls = [f"/v1/jobs/{i.decode()}" for i in connection.lrange("rq:queue:low", 0, -1)]

    Claims(connection, "w", ["low"], 30).take(1)
    bodies = [client.get(urls[0]).get_json(), client.delete(urls[1]).get_json()]

    assert [body["status"] for body in bodies] == ["running", "canceled"]
    assert [(body["position"], body["estimate"]) for body in bodies] == [(None, None)] * 2


def test_with_too_little_measured_there_is_a_position_and_nobody_is_refused(
    client: FlaskClient,
) -> None:
    waiting(client, 3)

    response = client.post("/v1/jobs", json={**JOB, **SHORT})

    body = response.get_json()
    assert response.status_code == 202
    assert (body["position"], body["estimate"], body["at_risk"]) == (3, None, False)


@pytest.mark.usefixtures("measured")
def test_without_a_worker_nobody_is_refused(client: FlaskClient, connection: Redis) -> None:
    connection.srem("rq:workers", "rq:worker:w")
    waiting(client, 50)

    response = client.post("/v1/jobs", json={**JOB, **SHORT})

    assert (response.status_code, response.get_json()["estimate"]) == (202, None)


@pytest.mark.usefixtures("measured")
def test_a_plain_rq_job_is_shown_with_its_position(client: FlaskClient, connection: Redis) -> None:
    waiting(client, 2)
    queue = Queue("low", connection=connection, serializer=JSONSerializer)
    plain = queue.enqueue("tests.callables.add", 1, 2)
    other = Queue("other", connection=connection, serializer=JSONSerializer).enqueue("os.getpid")

    body = client.get(f"/v1/jobs/{plain.id}").get_json()
    elsewhere = client.get(f"/v1/jobs/{other.id}").get_json()

    assert (body["position"], body["at_risk"]) == (2, False)
    assert (elsewhere["position"], elsewhere["estimate"]) == (None, None)


@pytest.mark.usefixtures("measured")
def test_who_would_be_late_is_refused_with_the_numbers(
    client: FlaskClient, connection: Redis
) -> None:
    waiting(client, 50)

    response = client.post("/v1/jobs", json={**JOB, "finish_within_s": 20})

    body = problem(response, 429, "deadline_unreachable")
    assert body["error"]["type"] == "rate_limit_error"
    assert 30 <= int(response.headers["Retry-After"]) <= 35
    assert (body["tier"], body["deadline"]) == ("batch", "finish_within_s")
    assert 50 <= body["earliest_feasible_deadline"]["within_s"] <= 65
    assert datetime.fromisoformat(body["earliest_feasible_deadline"]["at"]).utcoffset() is not None
    assert (body["position"], body["work_ahead_tokens"]) == (50, 5000)
    assert body["rate_tokens_per_s"] == 100
    assert body["estimate"]["finish_at"]["p50"] <= body["estimate"]["finish_at"]["p90"]
    assert connection.llen("rq:queue:low") == 50


@pytest.mark.usefixtures("measured")
def test_what_a_refusal_calls_feasible_is_accepted(client: FlaskClient) -> None:
    waiting(client, 50)
    refused = client.post("/v1/jobs", json={**JOB, **SHORT}).get_json()
    feasible_s = refused["earliest_feasible_deadline"]["within_s"]

    response = client.post("/v1/jobs", json={**JOB, "finish_within_s": feasible_s + 1})

    assert (response.status_code, response.get_json()["at_risk"]) == (202, False)


@pytest.mark.usefixtures("measured")
def test_the_start_is_a_deadline_too(client: FlaskClient) -> None:
    waiting(client, 50)

    response = client.post("/v1/jobs", json={**JOB, "tier": "premium"})
    refused = client.post("/v1/jobs", json={**JOB, "start_within_s": 5})

    assert response.status_code == 202  # nothing stands before it
    assert problem(refused, 429, "deadline_unreachable")["deadline"] == "start_within_s"


@pytest.mark.usefixtures("measured")
def test_a_job_that_may_be_late_is_accepted_at_risk(client: FlaskClient) -> None:
    waiting(client, 50)

    posted = client.post("/v1/jobs", json={**JOB, "finish_within_s": 52}).get_json()
    shown = client.get(posted["status_url"]).get_json()

    assert posted["at_risk"] is True
    assert shown["at_risk"] is True


@pytest.mark.usefixtures("measured")
def test_a_fallback_tier_takes_who_would_be_late_on_its_own_terms(
    client: FlaskClient, connection: Redis
) -> None:
    waiting(client, 50)
    hurried = {**JOB, **SHORT, "tier": "standard", "fallback_tier": "batch"}

    response = client.post("/v1/jobs", json=hurried)

    body = response.get_json()
    assert response.status_code == 202
    assert body["tier"] == "batch"
    finish_by = connection.hget(f"rq:job:{body['id']}", "finish_by")
    assert float(finish_by or 0) - datetime.now().timestamp() > 80_000
    unhurried = client.post("/v1/jobs", json={**hurried, "finish_within_s": 900})
    assert unhurried.get_json()["tier"] == "standard"


@pytest.mark.usefixtures("measured")
def test_a_fallback_that_would_be_late_as_well_is_refused(client: FlaskClient) -> None:
    for _ in range(50):
        client.post("/v1/jobs", json={**JOB, "tier": "premium", "start_within_s": 1000})

    response = client.post("/v1/jobs", json={**JOB, **SHORT, "fallback_tier": "premium"})

    assert problem(response, 429, "deadline_unreachable")["tier"] == "premium"


@pytest.mark.parametrize("tier", ["gold", "batch"], ids=["unknown", "the same"])
def test_a_fallback_must_be_another_tier(client: FlaskClient, tier: str) -> None:
    response = client.post("/v1/jobs", json={**JOB, "fallback_tier": tier})

    body = problem(response, 422, "invalid_request")
    assert body["errors"][0]["field"] == "fallback_tier"
