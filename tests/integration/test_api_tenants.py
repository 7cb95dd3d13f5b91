"""Tenants over HTTP: what each may ask for, how much of it, and whose jobs it sees."""

import pytest
from flask import Flask
from flask.testing import FlaskClient
from redis import Redis
from rq import Queue
from rq.serializers import JSONSerializer

from api.app import create_app
from api.order import Order
from api.problems import LimitReached
from api.tenancy import Tenancy
from config import connections
from config.settings import Settings
from scheduler import keys, limits, models, workers
from scheduler.limits import Charge
from scheduler.models import ModelView
from scheduler.tenant_store import TenantStore
from scheduler.tenants import ANYBODY
from tests.integration.customers import TIERS, customer, limited, submit, submitted
from tests.integration.test_api_estimates import measure
from tests.integration.test_api_jobs import problem


def test_a_tier_above_the_ceiling_is_forbidden_and_the_others_are_named(
    client: FlaskClient, connection: Redis
) -> None:
    acme = customer(connection, "acme", ceiling="standard")

    refused = submit(client, acme, tier="premium")
    fallback = submit(client, acme, tier="batch", fallback_tier="premium")

    for response in (refused, fallback):
        body = problem(response, 403, "tier_not_allowed")
        assert (body["tier"], body["allowed_tiers"]) == ("premium", ["standard", "batch"])
    assert submitted(client, acme, tier="batch")["tier"] == "batch"
    assert workers.depth(connection, "high")[0] == 0


def test_a_request_without_a_tier_gets_the_tenants_own(
    client: FlaskClient, connection: Redis
) -> None:
    premium = customer(connection, "acme", default_tier="premium")
    lowest = customer(connection, "lowest", ceiling="batch")

    assert submitted(client, premium)["tier"] == "premium"
    assert submitted(client, lowest)["tier"] == "batch"
    problem(submit(client, premium, fallback_tier="premium"), 422, "invalid_request")


def test_a_model_that_is_not_the_tenants_is_forbidden(
    client: FlaskClient, connection: Redis
) -> None:
    for name in ("adder", "secret"):
        models.announce(connection, ModelView(name, 256, "sim", 0.0))
    acme = customer(connection, "acme", models=("adder",))
    other = customer(connection, "other", models=("secret",))

    assert submitted(client, acme)["model"] == "adder"
    body = problem(submit(client, acme, model="secret"), 403, "model_not_allowed")
    by_default = problem(submit(client, other), 403, "model_not_allowed")

    assert (body["allowed_models"], by_default["allowed_models"]) == (["adder"], ["secret"])


def test_a_job_is_seen_and_canceled_by_its_tenant_and_by_operators_only(
    client: FlaskClient, connection: Redis
) -> None:
    acme, other = customer(connection, "acme"), customer(connection, "other")
    boss = customer(connection, "boss", operator=True)
    url = submitted(client, acme)["status_url"]

    problem(client.get(url, headers=other), 404, "job_not_found")
    problem(client.delete(url, headers=other), 404, "job_not_found")
    assert client.get(url, headers=acme).get_json()["status"] == "queued"
    assert client.get(url, headers=boss).get_json()["status"] == "queued"
    assert client.delete(url, headers=acme).get_json()["status"] == "canceled"


def test_what_is_no_tenants_job_is_for_operators_only(
    client: FlaskClient, connection: Redis
) -> None:
    acme, boss = customer(connection, "acme"), customer(connection, "boss", operator=True)
    plain = Queue("low", connection=connection, serializer=JSONSerializer).enqueue("math.sqrt", 4)
    pickled = Queue("low", connection=connection).enqueue("math.sqrt", 4)

    for job in (plain, pickled):
        problem(client.get(f"/v1/jobs/{job.id}", headers=acme), 404, "job_not_found")
    assert client.get(f"/v1/jobs/{plain.id}", headers=boss).status_code == 200
    problem(client.get(f"/v1/jobs/{pickled.id}", headers=boss), 500, "job_unreadable")


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", ""), ("DELETE", ""), ("POST", "/replay"), ("GET", "/x"), ("POST", "/x/replay")],
)
def test_dead_letters_are_for_operators(
    client: FlaskClient, connection: Redis, method: str, path: str
) -> None:
    acme, boss = customer(connection, "acme"), customer(connection, "boss", operator=True)
    url = f"/v1/dead-letters{path}"

    problem(client.open(url, method=method, json={}, headers=acme), 403, "forbidden")
    assert client.open(url, method=method, json={}, headers=boss).status_code != 403


def test_a_rate_limit_is_said_before_it_is_reached_and_when_it_is(
    client: FlaskClient, connection: Redis
) -> None:
    acme = customer(connection, "acme", limits=limited(requests_per_min=2, tokens_per_min=1000))

    first = submit(client, acme, max_tokens=100)
    submitted(client, acme, max_tokens=100)
    response = submit(client, acme, max_tokens=100)

    body = problem(response, 429, "rate_limit_exceeded")
    used = {name: body[name] for name in ("limit", "limit_value", "used", "tier")}
    assert used == {"limit": "requests_per_min", "limit_value": 2, "used": 2, "tier": "standard"}
    assert body["error"]["type"] == "rate_limit_error"
    assert 1 <= int(response.headers["Retry-After"]) <= 61
    assert "x-should-retry" not in response.headers
    assert first.headers["x-ratelimit-limit-requests"] == "2"
    assert first.headers["x-ratelimit-remaining-requests"] == "1"
    assert 800 < int(first.headers["x-ratelimit-remaining-tokens"]) < 900
    assert response.headers["x-ratelimit-remaining-requests"] == "0"
    assert float(response.headers["x-ratelimit-reset-requests"].rstrip("s")) > 1
    assert submitted(client, acme, tier="batch")["tier"] == "batch"
    assert workers.depth(connection, "low")[0] == 3


def test_tokens_are_those_of_the_prompt_and_those_asked_for(
    client: FlaskClient, connection: Redis
) -> None:
    acme = customer(connection, "acme", limits=limited(tokens_per_min=150))

    submitted(client, acme, max_tokens=100)
    body = problem(submit(client, acme, max_tokens=100), 429, "rate_limit_exceeded")
    response = submit(client, acme, max_tokens=200)

    assert (body["limit"], body["limit_value"]) == ("tokens_per_min", 150)
    assert body["used"] == 105  # the adder's tokenizer: one token for each character, and one more
    problem(response, 429, "request_too_large")
    assert response.headers["x-should-retry"] == "false"
    assert "Retry-After" not in response.headers


def test_open_jobs_are_limited_until_they_end(client: FlaskClient, connection: Redis) -> None:
    acme = customer(connection, "acme", limits=limited(max_open_jobs=2))
    url = submitted(client, acme)["status_url"]
    submitted(client, acme)

    body = problem(submit(client, acme), 429, "rate_limit_exceeded")
    client.delete(url, headers=acme)

    assert (body["limit"], body["used"]) == ("max_open_jobs", 2)
    submitted(client, acme)


def test_tokens_of_open_jobs_are_limited(client: FlaskClient, connection: Redis) -> None:
    acme = customer(connection, "acme", limits=limited(max_open_tokens=300))
    url = submitted(client, acme, max_tokens=200)["status_url"]

    body = problem(submit(client, acme, max_tokens=200), 429, "rate_limit_exceeded")
    client.delete(url, headers=acme)

    assert body["limit"] == "max_open_tokens"
    submitted(client, acme, max_tokens=200)


def test_a_request_that_is_refused_costs_nothing(client: FlaskClient, connection: Redis) -> None:
    acme = customer(connection, "acme", limits=limited(requests_per_min=1))

    problem(submit(client, acme, tier="nowhere"), 422, "invalid_request")
    problem(submit(client, acme, max_tokens=10**9), 422, "invalid_request")

    assert limits.usage(connection, "acme", "standard").requests == 0
    submitted(client, acme)


def test_what_cannot_be_queued_is_given_back(
    settings: Settings, connection: Redis, redis_url: str
) -> None:
    acme = customer(connection, "acme", limits=limited(requests_per_min=5))
    connection.acl_setuser(
        "bound",
        enabled=True,
        passwords=["+p"],
        keys=["*"],
        channels=["*"],
        commands=["+@all", "-eval"],
    )
    url = redis_url.replace("redis://", "redis://bound:p@")
    app = create_app(settings.model_copy(update={"redis_url": url}))

    refused = submit(app.test_client(), acme)

    connection.acl_deluser("bound")
    problem(refused, 500, "internal_error")
    found = limits.usage(connection, "acme", "standard")
    assert (found.requests, found.tokens, found.open_jobs, found.open_tokens) == (0, 0, 0, 0)
    assert connection.ttl(keys.rate("acme", "standard")) > 0  # it had been charged


def test_a_charge_that_cannot_be_given_back_is_said_and_harms_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    charge = Charge("acme", "standard", "job", 1)
    with connections.commands("redis://127.0.0.1:1/0") as away:
        Tenancy(away, TIERS).give_back(charge)

    assert [vars(line).get("event") for line in caplog.records] == ["charge.kept"]


def test_the_intake_counts_for_those_who_are_in_no_request(app: Flask, connection: Redis) -> None:
    customer(connection, "acme", limits=limited(requests_per_min=1))
    tenant = TenantStore(connection, TIERS).get("acme")
    intake = app.extensions["slalom"].intake
    order = Order({"endpoint": "/v1/completions", "body": {"prompt": "1"}}, "standard")

    accepted = intake.accept(order, tenant)
    with pytest.raises(LimitReached) as caught:
        intake.accept(order, tenant)

    assert accepted.tier == "standard"
    assert caught.value.retry_after_s
    assert connection.hget(accepted.job.key, "account").startswith(b"acme standard ")


def test_whoever_calls_without_tenants_is_not_counted(
    client: FlaskClient, connection: Redis
) -> None:
    job = submitted(client, {})

    assert connection.hget(f"rq:job:{job['id']}", "account") is None
    assert limits.usage(connection, ANYBODY.name, "standard").requests == 0


def test_a_deadline_that_cannot_be_met_costs_a_tenant_nothing(
    client: FlaskClient, connection: Redis
) -> None:
    acme = customer(connection, "acme", limits=limited(requests_per_min=20))
    measure(connection)
    for _ in range(10):
        submitted(client, acme, max_tokens=100)

    response = submit(client, acme, max_tokens=100, finish_within_s=1.0)

    problem(response, 429, "deadline_unreachable")
    assert limits.usage(connection, "acme", "standard").requests == 10
