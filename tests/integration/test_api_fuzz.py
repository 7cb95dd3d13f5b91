"""Hostile requests: whatever headers and body are, no 5xx, no traceback, nothing repeated."""

import base64
import gzip
import http.client
import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from werkzeug.test import TestResponse

from api.app import create_app
from config.settings import Settings
from tests.integration.test_api_processes import serving

SECRET = "the-secret-prompt"
POSTS = ["/v1/jobs", "/v1/jobs:batch", "/v1/dead-letters/replay"]
GETS = ["/v1/jobs", "/v1/dead-letters", "/v1/jobs/x", "/v1/models", "/openapi.json", "/docs/x"]
CURSORS = [
    base64.urlsafe_b64encode(text.encode()).decode()
    for text in (
        '["1", "\\ud800"]',
        '["low", "1", "\\ud800"]',
        '[" 1", "a"]',
        '["low", "1_0", "a"]',
        '["1e999", "a"]',
        '["low", "nan", "a"]',
        "[" * 5000,
        "1",
    )
]
BOUNDED = settings(
    max_examples=150,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from([SECRET, "\x00", "\ufffe", 10**400, -(2**63) - 1, 1e308]),
    lambda children: (
        st.lists(children, max_size=4)
        | st.dictionaries(
            st.sampled_from(["prompt", "messages", "tier", "role", "content", "stop", "metadata"])
            | st.text(max_size=10),
            children,
            max_size=5,
        )
    ),
    max_leaves=25,
)
latin = st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f")


@pytest.fixture
def app(settings: Settings) -> Iterator[Flask]:
    app = create_app(settings.model_copy(update={"max_wait_s": 1}))
    yield app
    app.extensions["on_stop"]()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


def harmless(response: TestResponse, *, may_accept: bool = True) -> None:
    """Check what every answer to a hostile request must be."""
    assert response.status_code < 500, response.text
    if response.status_code < 400:
        assert may_accept
        return
    assert response.mimetype in {"application/problem+json", "application/json"}  # OpenAI's routes
    problem = response.get_json()
    assert problem.get("status", response.status_code) == response.status_code
    assert problem["error"]["code"]
    assert "Traceback" not in response.text
    assert SECRET not in response.text


def nested(depth: int) -> bytes:
    return b'{"prompt": ' + b"[" * depth + b"]" * depth + b"}"


@pytest.mark.parametrize("path", POSTS)
@BOUNDED
@given(body=st.binary(max_size=200))
@example(b"")
@example(b"null")
@example(b"\xff\xfe{\x00}\x00")
@example(b"\xef\xbb\xbf{}")
@example(nested(100))
@example(nested(100_000))
@example(b'{"prompt": "' + SECRET.encode() + b'\xff"}')
@example(b'{"prompt": "' + SECRET.encode() + b'\\ud800"}')
@example(b'{"prompt": "' + SECRET.encode() + b'\x00"}')
@example(b'{"prompt": "' + SECRET.encode() + b'", "seed": ' + b"9" * 5000 + b"}")
@example(b'{"prompt": "' + SECRET.encode() + b'", "seed": 1e999}')
@example(b'{"prompt": "' + SECRET.encode() + b'", "temperature": NaN}')
@example(b'{"all": true, "older_than_s": 1e308, "cursor": "' + SECRET.encode() + b'"}')
@example(b'{"jobs": [' + b"[" * 150 + b"]" * 150 + b"]}")
def test_bytes_that_are_no_request(client: FlaskClient, path: str, body: bytes) -> None:
    harmless(client.post(path, data=body, content_type="application/json"))


@pytest.mark.parametrize("path", POSTS)
@BOUNDED
@given(value=json_values)
@example({"prompt": "\x00", "metadata": {"\x00": "\x00"}})
@example({"jobs": [{"prompt": "1", "metadata": {"\ud800": "1"}}, {"messages": [SECRET]}]})
@example({"prompt": SECRET, "max_tokens": 10**30, "metadata": {"k": SECRET}})
@example({"prompt": SECRET, SECRET: SECRET})
@example({"prompt": SECRET, "tier": SECRET})
def test_json_that_is_no_request(client: FlaskClient, path: str, value: Any) -> None:
    harmless(client.post(path, data=json.dumps(value), content_type="application/json"))


def test_of_a_member_that_stands_twice_the_last_counts(client: FlaskClient) -> None:
    body = '{"prompt": "1", "tier": "gold", "tier": "premium"}'

    response = client.post("/v1/jobs", data=body, content_type="application/json")

    assert (response.status_code, response.get_json()["tier"]) == (202, "premium")


@BOUNDED
@given(
    name=st.sampled_from(
        [
            "Accept",
            "Authorization",
            "Content-Encoding",
            "Content-Length",
            "Content-Type",
            "Cookie",
            "Expect",
            "Host",
            "Idempotency-Key",
            "If-None-Match",
            "Last-Event-ID",
            "Origin",
            "Prefer",
            "Range",
            "Transfer-Encoding",
            "X-Forwarded-For",
            "X-HTTP-Method-Override",
        ]
    ),
    value=st.text(latin, max_size=60) | st.sampled_from(["x" * 8000, "wait=1e9", "-1", "bytes=-"]),
    path=st.sampled_from(GETS),
)
@example("Prefer", "wait=" + "9" * 5000, "/v1/jobs")
@example("Content-Type", "application/json; charset=utf-16", "/v1/jobs")
@example("Content-Type", "application/json; charset=\xff", "/v1/jobs")
def test_headers_that_nobody_should_send(
    client: FlaskClient, name: str, value: str, path: str
) -> None:
    body = json.dumps({"prompt": "1"})
    posted = {"Content-Type": "application/json", name: value}

    harmless(client.get(path, headers={name: value}))
    harmless(client.post("/v1/jobs", data=body, headers=posted))


@BOUNDED
@given(
    path=st.sampled_from(["/v1/jobs", "/v1/dead-letters"]),
    query=st.dictionaries(
        st.sampled_from(["cursor", "limit", "status", "tier", "metadata", "created_after", "x"]),
        st.text(max_size=30) | st.sampled_from([*CURSORS, "1" * 5000, "\x00"]),
        max_size=4,
    ),
)
def test_queries_that_mean_nothing(client: FlaskClient, path: str, query: dict[str, str]) -> None:
    encoded = {name: value.encode(errors="surrogatepass") for name, value in query.items()}

    harmless(client.get(path, query_string=encoded))


@pytest.mark.parametrize("cursor", CURSORS)
@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/dead-letters"])
def test_cursors_that_no_page_gave(client: FlaskClient, path: str, cursor: str) -> None:
    harmless(client.get(path, query_string={"cursor": cursor}))


@BOUNDED
@given(job_id=st.text(min_size=1, max_size=60))
@example("../../etc/passwd")
@example("a" * 5000)
@example("%00")
@example("a:b")
def test_ids_that_are_none(client: FlaskClient, job_id: str) -> None:
    for method, path in (
        ("GET", f"/v1/jobs/{job_id}"),
        ("DELETE", f"/v1/jobs/{job_id}"),
        ("POST", f"/v1/dead-letters/{job_id}/replay"),
        ("DELETE", f"/v1/dead-letters/{job_id}"),
    ):
        harmless(client.open(path, method=method), may_accept=False)


def test_a_compressed_body_is_no_json(client: FlaskClient) -> None:
    body = gzip.compress(json.dumps({"prompt": SECRET}).encode())
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}

    response = client.post("/v1/jobs", data=body, headers=headers)

    harmless(response, may_accept=False)


@pytest.mark.slow
def test_what_is_wrong_on_the_wire_never_breaks_the_server(redis_url: str) -> None:
    post = b"POST /v1/jobs HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    bodies = {
        "a length that is none": post + b"Content-Length: x\r\n\r\n{}",
        "a negative length": post + b"Content-Length: -1\r\n\r\n{}",
        "two lengths": post + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        "both framings": post + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "a chunk size that is none": post
        + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
        "a huge chunk size": post + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 40 + b"\r\n",
        "chunks that end early": post + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{}",
        "a body that ends early": post + b"Content-Length: 100\r\n\r\n{}",
        "a long header": post + b"X: " + b"x" * 20_000 + b"\r\nContent-Length: 2\r\n\r\n{}",
        "many headers": post + b"".join(b"X-%d: 1\r\n" % n for n in range(500)) + b"\r\n",
        "a long path": b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        "a path of bytes": b"GET /v1/jobs/\xff\x00 HTTP/1.1\r\nHost: a\r\n\r\n",
        "a header of bytes": post + b"Idempotency-Key: \xff\xfe\r\nContent-Length: 2\r\n\r\n{}",
        "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00",
    }

    with serving(redis_url) as (_, port):
        answers = {name: raw(port, data) for name, data in bodies.items()}
        alive = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        alive.request("GET", "/healthz")
        status = alive.getresponse().status
        alive.close()

    assert status == 200
    for name, answer in answers.items():
        first = answer.split(b"\r\n")[0]
        assert not answer or first.split(b" ")[1].startswith(b"4"), (name, first)
        assert b"Traceback" not in answer


def raw(port: int, data: bytes) -> bytes:
    """Return what the server says to these bytes, after which nothing comes."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        answer = b""
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            while more := connection.recv(1 << 16):
                answer += more
        except (ConnectionResetError, BrokenPipeError):
            pass
        return answer
