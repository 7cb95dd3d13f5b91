"""What is wrong with a request, in OpenAI's shape, and before it is a job."""

from typing import Any

import openai
import pytest
from redis import Redis

from api.app import create_app
from config.settings import Settings
from tests.openai_sdk import CHAT, HELLO, MODEL, Sdk, post


def refusal(status: int, headers: Any, said: Any) -> tuple[str | None, str]:
    """Return the field and the code of a 400 in OpenAI's shape."""
    assert (status, headers.get_content_type()) == (400, "application/json")
    assert headers["x-request-id"]
    assert set(said) == {"error"}
    error = said["error"]
    assert error["type"] == "invalid_request_error"
    assert error["message"]
    return error["param"], error["code"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[1]",
        b'{"model": NaN}',
        b'{"a":' + b"[" * 100 + b"]" * 100 + b"}",
        b"[" * 9999,
        b'{"n": 1e999}',
    ],
    ids=["nothing", "half", "list", "no number", "infinite", "deep", "endless"],
)
def test_a_body_that_is_no_json_object_is_a_400(port: int, body: bytes) -> None:
    status, headers, said = post(port, "/v1/chat/completions", body)

    assert refusal(status, headers, said) == (None, "malformed_json")


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"messages": HELLO}, "model", "invalid_request"),
        ({**CHAT, "model": 5}, "model", "invalid_request"),
        ({**CHAT, "model": ["adder"]}, "model", "invalid_request"),
        ({**CHAT, "service_tier": "gold"}, "service_tier", "invalid_request"),
        ({**CHAT, "service_tier": {}}, "service_tier", "invalid_request"),
        ({**CHAT, "max_tokens": 100_000}, "max_tokens", "invalid_request"),
        ({**CHAT, "max_tokens": "8"}, "max_tokens", "invalid_request"),
        ({**CHAT, "max_completion_tokens": True}, "max_completion_tokens", "invalid_request"),
        ({**CHAT, "max_completion_tokens": -1}, "max_completion_tokens", "invalid_request"),
        ({**CHAT, "n": 0}, "n", "invalid_request"),
        ({**CHAT, "stream": "yes"}, "stream", "invalid_request"),
        ({**CHAT, "stream": True, "stream_options": 1}, "stream_options", "invalid_request"),
        ({**CHAT, "metadata": {"a": 1}}, "metadata.a", "invalid_request"),
        ({**CHAT, "metadata": {str(n): "" for n in range(17)}}, "metadata", "invalid_request"),
        (
            {"model": MODEL, "messages": [{"role": "user", "content": "1" * 5000}]},
            "messages",
            "context_length_exceeded",
        ),
        ({"model": MODEL}, "messages", "invalid_request"),
        ({"model": MODEL, "messages": "hello"}, "messages", "invalid_request"),
        ({"model": MODEL, "messages": []}, "messages", "invalid_request"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_wrong_is_a_400_in_openais_shape(
    port: int, body: Any, param: str | None, code: str, stream: bool
) -> None:
    status, headers, said = post(port, "/v1/chat/completions", {"stream": stream, **body})

    assert refusal(status, headers, said) == (param, code)
    assert "hello" not in said["error"]["message"]


def test_only_a_stream_may_have_stream_options(port: int) -> None:
    status, _, said = post(port, "/v1/completions", {**CHAT, "stream_options": {}})

    assert (status, said["error"]["param"]) == (400, "stream_options")


def test_other_refusals_keep_their_statuses_and_have_the_same_shape(port: int) -> None:
    large = post(port, "/v1/completions", b" " * (2 << 20))
    text = post(port, "/v1/completions", b"hello", **{"Content-Type": "text/plain"})

    assert [(status, said["error"]["code"]) for status, _, said in (large, text)] == [
        (413, "body_too_large"),
        (415, "not_json"),
    ]


def test_a_model_that_nobody_serves_is_not_found(ask: Sdk) -> None:
    with pytest.raises(openai.NotFoundError) as error:
        ask(lambda c: c.chat.completions.create(model="other", messages=HELLO))

    assert (error.value.code, error.value.param) == ("model_not_found", "model")
    assert MODEL in error.value.message


def test_what_the_engine_cannot_do_is_a_bad_request(ask: Sdk) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        ask(lambda c: c.embeddings.create(model=MODEL, input="1+1"))

    assert error.value.code == "invalid_request"
    assert "/v1/embeddings" in error.value.message


def test_a_request_that_is_refused_never_becomes_a_job(idle: int, connection: Redis) -> None:
    status, _, _ = post(idle, "/v1/chat/completions", {**CHAT, "service_tier": "gold"})

    assert status == 400
    assert connection.llen("rq:queue:low") == 0


def test_without_redis_the_answer_is_to_try_again() -> None:
    client = create_app(Settings(redis_url="redis://127.0.0.1:1/0")).test_client()

    for response in (
        client.post("/v1/chat/completions", json=CHAT),
        client.post("/v1/chat/completions", json={**CHAT, "stream": True}),
        client.post("/v1/responses", json={"model": MODEL, "input": "1", "background": True}),
        client.get("/v1/responses/resp_any"),
        client.get("/v1/models"),
    ):
        assert (response.status_code, response.mimetype) == (503, "application/json")
        assert response.headers["Retry-After"] == "1"
        assert response.json["error"]["code"] == "redis_unavailable"
