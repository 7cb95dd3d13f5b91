"""What is streamed: each character once, whatever becomes of the workers."""

import http.client
import json
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest
from redis import Redis

from scheduler.rescue import rescue
from tests.conftest import StartWorker, until
from tests.integration.test_api_processes import serving
from tests.openai_sdk import CHAT, MODEL, PATIENCE_S, Sdk, sdk


def test_a_chat_is_streamed_as_its_engine_writes_it(ask: Sdk) -> None:
    chunks = ask.stream(lambda c: c.chat.completions.create(**CHAT, max_tokens=8, stream=True))

    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == "[simulated: 8 tokens]"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == "length"
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].id.startswith("chatcmpl-")
    assert {chunk.usage for chunk in chunks} == {None}


def test_a_completion_is_streamed(ask: Sdk) -> None:
    create = {"model": MODEL, "prompt": "1+1=", "max_tokens": 4, "stream": True}

    chunks = ask.stream(lambda c: c.completions.create(**create))

    assert "".join(chunk.choices[0].text for chunk in chunks) == "[simulated: 4 tokens]"


def test_usage_comes_last_if_it_is_asked_for(ask: Sdk) -> None:
    options = {"stream": True, "stream_options": {"include_usage": True}}

    chunks = ask.stream(lambda c: c.chat.completions.create(**CHAT, max_tokens=5, **options))

    *others, last = chunks
    assert (last.choices, last.usage.completion_tokens) == ([], 5)
    assert {chunk.usage for chunk in others} == {None}


def test_a_stream_is_server_sent_events_that_end_with_done(port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    body = json.dumps({**CHAT, "max_tokens": 2, "stream": True})
    connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()

    assert response.headers.get_content_type() == "text/event-stream"
    assert response.headers["x-slalom-job-id"]
    assert text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL], ids=["told", "killed"])
def test_a_stream_says_nothing_twice_though_its_worker_goes(
    redis_url: str, connection: Redis, start_worker: StartWorker, signum: signal.Signals
) -> None:
    first = start_worker(SLALOM_LEASE_S="1", SLALOM_DRAIN_S="0")
    with serving(redis_url) as (_, port), sdk("sync", port) as ask, ThreadPoolExecutor(1) as thread:
        create = {**CHAT, "max_tokens": 1500, "stream": True}
        stream = ask(lambda c: c.chat.completions.create(**create))
        begin = [next(stream)]
        first.signal(signum)
        first.wait()
        start_worker()
        rest = thread.submit(list, stream)

        def is_read() -> bool:
            rescue(connection, "low", max_deliveries=3)
            return rest.done()

        until(is_read)
        chunks = [*begin, *rest.result()]

    said = [chunk.choices[0].delta.content for chunk in chunks]
    assert "".join(text for text in said if text) == "[simulated: 1500 tokens]"
    assert sum(1 for chunk in chunks if chunk.choices[0].finish_reason) == 1
