"""API keys over HTTP: who may come, and what is said to those who may not."""

import pytest
from flask.testing import FlaskClient
from redis import Redis

from api import auth
from api.app import create_app
from config.settings import Settings
from scheduler import api_keys, jobs, keys
from scheduler.tenant_store import TenantStore
from tests.integration.customers import TIERS, bearer, customer, submit, submitted
from tests.integration.test_api_jobs import problem

Headers = dict[str, str]
ELSEWHERE = {"REMOTE_ADDR": "203.0.113.9"}


def test_without_tenants_this_machine_needs_no_key(client: FlaskClient) -> None:
    assert submit(client, {}).status_code == 202
    assert submit(client, bearer("whatever an SDK sends")).status_code == 202
    assert client.get("/v1/dead-letters").status_code == 200
    mapped = {"REMOTE_ADDR": "::ffff:127.0.0.1"}
    assert client.get("/v1/jobs", environ_base=mapped).status_code == 200


@pytest.mark.parametrize(
    ("environ", "headers"),
    [
        (ELSEWHERE, {}),
        ({"REMOTE_ADDR": "::ffff:203.0.113.9"}, {}),
        ({"REMOTE_ADDR": ""}, {}),
        ({}, {"X-Forwarded-For": "203.0.113.9"}),
        ({}, {"Forwarded": "for=203.0.113.9"}),
    ],
)
def test_without_tenants_others_are_told_what_to_do(
    client: FlaskClient, connection: Redis, environ: Headers, headers: Headers
) -> None:
    response = client.post("/v1/jobs", json={"prompt": "1"}, environ_base=environ, headers=headers)

    assert (
        "python -m scheduler.tenants create" in problem(response, 401, "invalid_api_key")["detail"]
    )
    assert connection.llen("rq:queue:low") == 0


def test_probes_need_no_key_and_a_key_works_from_anywhere(
    client: FlaskClient, connection: Redis
) -> None:
    acme = customer(connection, "acme")

    assert client.get("/healthz", environ_base=ELSEWHERE).status_code == 200
    assert client.get("/readyz", environ_base=ELSEWHERE).status_code == 503  # no worker
    assert client.get("/v1/jobs", environ_base=ELSEWHERE, headers=acme).status_code == 200
    key = {"X-API-Key": acme["Authorization"].removeprefix("Bearer ")}
    assert client.get("/v1/jobs", headers=key).status_code == 200
    assert client.options("/v1/jobs").status_code == 200
    assert client.options("/v1/dead-letters").status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": "Bearer sk-slalom-nobody"},
        {"Authorization": "Bearer sk-slalom-\xe4"},
        {"Authorization": "Basic YWNtZTphY21l"},
        {"X-API-Key": "x" * 8000},
    ],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/jobs"),
        ("GET", "/v1/jobs/any"),
        ("DELETE", "/v1/jobs/any"),
        ("GET", "/v1/jobs"),
        ("GET", "/v1/dead-letters"),
        ("GET", "/v1/nothing"),
    ],
)
def test_with_a_tenant_everything_needs_a_key(
    client: FlaskClient, connection: Redis, method: str, path: str, headers: Headers
) -> None:
    customer(connection, "acme")

    response = client.open(path, method=method, json={}, headers=headers)

    problem(response, 401, "invalid_api_key")
    assert response.headers["WWW-Authenticate"].startswith("Bearer")


def test_a_key_that_is_revoked_is_refused_from_the_next_request_on(
    client: FlaskClient, connection: Redis
) -> None:
    old = customer(connection, "acme")
    new = bearer(api_keys.create(connection, "acme"))
    assert {client.get("/v1/jobs", headers=key).status_code for key in (old, new)} == {200}

    api_keys.revoke(connection, "acme", api_keys.visible(old["Authorization"][7:]))

    problem(client.get("/v1/jobs", headers=old), 401, "invalid_api_key")
    assert client.get("/v1/jobs", headers=new).status_code == 200


def test_the_keys_of_a_deleted_tenant_are_refused_and_its_jobs_go_on(
    client: FlaskClient, connection: Redis
) -> None:
    customer(connection, "other")
    acme = customer(connection, "acme")
    job = submitted(client, acme)

    TenantStore(connection, TIERS).delete("acme")

    problem(client.get("/v1/jobs", headers=acme), 401, "invalid_api_key")
    assert jobs.fetch(connection, job["id"]).get_status(refresh=False) == "queued"
    assert not connection.exists(keys.api_keys_of("acme"))
    customer(connection, "acme")
    problem(client.get("/v1/jobs", headers=acme), 401, "invalid_api_key")


def test_a_key_that_has_expired_is_refused(client: FlaskClient, connection: Redis) -> None:
    customer(connection, "acme")
    expired = api_keys.create(connection, "acme", expires_in_s=-1)
    valid = api_keys.create(connection, "acme", expires_in_s=3600)

    response = client.get("/v1/jobs", headers=bearer(expired))

    assert "expired" in problem(response, 401, "invalid_api_key")["detail"]
    assert client.get("/v1/jobs", headers=bearer(valid)).status_code == 200


def test_keys_are_random_and_nowhere_in_redis(connection: Redis) -> None:
    customer(connection, "acme")
    made = [api_keys.create(connection, "acme") for _ in range(10)]

    stored = " ".join(str(connection.hgetall(key)) for key in connection.keys("slalom:*key*"))
    assert len(set(made)) == 10
    assert all(len(key) >= len("sk-slalom-") + 43 for key in made)
    assert not any(key[12:] in stored for key in made)
    assert api_keys.visible(made[0]) in stored
    assert api_keys.hash_of(made[0]) in stored


def test_when_a_key_was_used_is_written_once_a_minute(
    client: FlaskClient, connection: Redis
) -> None:
    acme = customer(connection, "acme")
    uses = keys.api_key_uses("acme")
    client.get("/v1/jobs", headers=acme)
    [first] = connection.hvals(uses)
    client.get("/v1/jobs", headers=acme)
    assert connection.hvals(uses) == [first]

    [digest] = connection.hkeys(uses)
    connection.hset(uses, digest, float(first) - 61)
    client.get("/v1/jobs", headers=acme)

    [key] = api_keys.of_tenant(connection, "acme")
    assert key["used_at"] >= float(first)


@pytest.mark.parametrize("record", ["{", "[]", '{"name": "acme", "ceiling": "gold"}', "\xff"])
def test_a_damaged_tenant_is_an_error_in_the_log_and_no_crash(
    client: FlaskClient, connection: Redis, caplog: pytest.LogCaptureFixture, record: str
) -> None:
    acme, other = customer(connection, "acme"), customer(connection, "other")
    connection.hset(keys.TENANTS, "acme", record.encode("latin-1"))

    response = client.get("/v1/jobs", headers=acme)

    problem(response, 503, "tenant_unreadable")
    assert response.headers["Retry-After"]
    assert "tenant.damaged" in {vars(line).get("event") for line in caplog.records}
    assert client.get("/v1/jobs", headers=other).status_code == 200


def test_a_damaged_key_is_refused_and_can_be_revoked(
    client: FlaskClient, connection: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    acme = customer(connection, "acme")
    [digest] = connection.hkeys(keys.api_keys_of("acme"))
    connection.hset(keys.api_keys_of("acme"), digest, "{")

    problem(client.get("/v1/jobs", headers=acme), 401, "invalid_api_key")

    assert "key.damaged" in {vars(line).get("event") for line in caplog.records}
    [key] = api_keys.of_tenant(connection, "acme")
    api_keys.revoke(connection, "acme", key["prefix"])
    assert api_keys.of_tenant(connection, "acme") == []


def test_the_log_says_the_mode_at_start_and_when_it_changes(
    settings: Settings, connection: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "api.auth")

    client = create_app(settings).test_client()
    customer(connection, "acme")
    client.get("/v1/jobs")
    client.get("/v1/jobs")

    events = [vars(line)["event"] for line in caplog.records if line.name == "api.auth"]
    assert events == ["auth.development", "auth.keys"]
    assert "scheduler.tenants create" in auth.DEVELOPMENT
