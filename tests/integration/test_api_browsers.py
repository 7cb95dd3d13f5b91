"""What browsers may do: pages elsewhere call only where the operator says so."""

from collections.abc import Callable, Iterator

import pytest
from flask import Flask
from flask.testing import FlaskClient
from redis import Redis

from api.app import create_app
from config.settings import Settings
from scheduler import keys

PAGE = "https://app.example.com"
PREFLIGHT = {
    "Origin": PAGE,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type,idempotency-key",
}

MakeClient = Callable[..., FlaskClient]


@pytest.fixture
def make_client(settings: Settings) -> Iterator[MakeClient]:
    apps: list[Flask] = []

    def make(**changes: object) -> FlaskClient:
        apps.append(create_app(settings.model_copy(update=changes)))
        return apps[-1].test_client()

    yield make
    for app in apps:
        app.extensions["on_stop"]()


def allowed(headers: dict[str, str]) -> list[str]:
    return [name for name in headers if name.lower().startswith("access-control-")]


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/jobs/none", "/healthz", "/nothing"])
def test_no_page_elsewhere_may_call_unless_the_operator_says_so(
    make_client: MakeClient, path: str
) -> None:
    client = make_client()

    answer = client.get(path, headers={"Origin": PAGE})
    preflight = client.options(path, headers=PREFLIGHT)

    assert allowed(dict(answer.headers)) == allowed(dict(preflight.headers)) == []


def test_a_page_that_is_named_may_call(make_client: MakeClient, connection: Redis) -> None:
    client = make_client(cors_origins=f"http://localhost:3000, {PAGE}")

    preflight = client.options("/v1/jobs", headers=PREFLIGHT)
    answer = client.post("/v1/jobs", json={"prompt": "1"}, headers={"Origin": PAGE})

    assert (preflight.status_code, preflight.data) == (204, b"")
    assert preflight.headers["Access-Control-Allow-Headers"] == "Authorization, *"
    assert "POST" in preflight.headers["Access-Control-Allow-Methods"]
    assert answer.status_code == 202
    for response in (preflight, answer):
        assert response.headers["Access-Control-Allow-Origin"] == PAGE
        assert "Origin" in response.headers["Vary"]
        assert "Access-Control-Allow-Credentials" not in response.headers
    assert answer.headers["Access-Control-Expose-Headers"] == "*"
    assert connection.llen(keys.queue("low")) == 1


def test_errors_can_be_read_by_a_page_that_is_named(make_client: MakeClient) -> None:
    client = make_client(cors_origins=PAGE)

    for response in (client.get("/v1/jobs/none", headers={"Origin": PAGE}), client.put("/healthz")):
        assert "Origin" in response.headers["Vary"]
    assert client.get("/nothing", headers={"Origin": PAGE}).headers[
        "Access-Control-Allow-Origin"
    ] == (PAGE)


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example.com",
        "https://app.example.com.evil.example",
        "http://app.example.com",
        "https://app.example.com:8443",
        "https://APP.example.com",
        "null",
        "*",
        "",
    ],
)
def test_any_other_page_may_not(make_client: MakeClient, origin: str) -> None:
    client = make_client(cors_origins=PAGE)

    answer = client.get("/v1/models", headers={"Origin": origin})
    preflight = client.options("/v1/jobs", headers={**PREFLIGHT, "Origin": origin})

    assert allowed(dict(answer.headers)) == allowed(dict(preflight.headers)) == []
    assert "Origin" in answer.headers["Vary"]


@pytest.mark.parametrize("path", ["/v1/jobs", "/healthz", "/nothing", "/openapi.json", "/docs"])
def test_every_answer_says_what_may_be_done_with_it(make_client: MakeClient, path: str) -> None:
    headers = make_client().get(path).headers

    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cache-Control"] == "no-store"
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert "Strict-Transport-Security" not in headers


def test_tls_alone_is_asked_for_only_where_the_operator_says_so(make_client: MakeClient) -> None:
    headers = make_client(hsts_s=31_536_000).get("/healthz").headers

    assert headers["Strict-Transport-Security"] == "max-age=31536000"
