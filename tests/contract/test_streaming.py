"""A streamed request gives chunks as its tokens come, and in the end the response of any other."""

import asyncio
import json
from contextlib import aclosing
from typing import Any

import pytest

from gpu_worker.engine import (
    Aborted,
    Chunk,
    Engine,
    EngineError,
    FirstToken,
    InvalidRequest,
    Response,
)
from gpu_worker.vllm_engine import VLLMEngine
from models.sums import held_out_sums
from scheduler.chunks import Assembly
from scheduler.jobs import Request
from scheduler.so_far import SoFar
from tests.contract.conftest import Run
from tests.contract.test_engine import completion, response
from tests.contract.test_resume import CHAT, NUM_TOKENS, kept, long, sum_of

CHAT_SUM = Request(
    endpoint="/v1/chat/completions",
    body={
        "model": "adder",
        "messages": [{"role": "user", "content": "128+256"}],
        "temperature": 0,
        "max_tokens": 8,
    },
)


async def streamed(
    engine: Engine, request: Request, job_id: str = "s", so_far: SoFar | None = None
) -> list[Any]:
    stream = engine.run(request, job_id=job_id, priority=0, so_far=so_far, stream=True)
    return [event async for event in stream]


def chunks_of(seen: list[Any]) -> list[dict[str, Any]]:
    return [json.loads(event.body) for event in seen if isinstance(event, Chunk)]


def text_of(chunks: list[dict[str, Any]]) -> str:
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    return "".join(c.get("text") or (c.get("delta") or {}).get("content") or "" for c in choices)


def substance(body: dict[str, Any], job_id: str) -> dict[str, Any]:
    """Return what must be the same in two answers to one request."""
    return {**body, "id": body["id"].replace(job_id, ""), "created": 0}


@pytest.mark.parametrize(
    "request_",
    [
        completion("128+256="),
        CHAT_SUM,
        completion("128+256=", stop=["4"]),
        completion("1+1=", max_tokens=3, ignore_eos=True),
        completion("128+256=", logprobs=2, return_token_ids=True),
        completion("128+256=", n=2, temperature=0.01, seed=1, echo=True),
        Request(
            endpoint=CHAT_SUM["endpoint"],
            body={**CHAT_SUM["body"], "logprobs": True, "top_logprobs": 2},
        ),
    ],
    ids=["completion", "chat", "stop", "length", "logprobs", "echo", "chat-logprobs"],
)
def test_a_streamed_request_has_the_response_of_one_that_is_not(
    run: Run, request_: Request
) -> None:
    async def check(engine: Engine) -> None:
        plain = await response(engine, request_, "plain")

        seen = await streamed(engine, request_, "streamed")

        last = seen[-1]
        assert isinstance(last, Response)
        assert substance(last.body, "streamed") == substance(plain, "plain")
        assert all(isinstance(event, Chunk | FirstToken) for event in seen[:-1])
        assert sum(isinstance(event, FirstToken) for event in seen) == 1

    run(check)


@pytest.mark.parametrize("request_", [long(), CHAT], ids=["completion", "chat"])
def test_chunks_come_as_tokens_do_the_first_token_before_them_and_the_usage_last(
    run: Run, request_: Request
) -> None:
    async def check(engine: Engine) -> None:
        seen = await streamed(engine, request_)

        chunks = chunks_of(seen)
        assert isinstance(seen[0], FirstToken)
        assert len(chunks) > NUM_TOKENS / 10  # those that come while others are made, come as one
        assert all("\n" not in event.body for event in seen if isinstance(event, Chunk))
        assert all(chunk["choices"] for chunk in chunks[:-1])
        assert chunks[-1]["choices"] == []
        assert chunks[-1]["usage"]["completion_tokens"] == NUM_TOKENS
        assert seen[-1].body["usage"].items() >= chunks[-1]["usage"].items()

    run(check)


@pytest.mark.parametrize(
    "options", [None, {"include_usage": False}, {"continuous_usage_stats": True}]
)
@pytest.mark.parametrize("stream", [True, False])
def test_what_the_body_says_of_streaming_is_not_the_engines_affair(
    run: Run, options: dict[str, Any] | None, stream: bool
) -> None:
    async def check(engine: Engine) -> None:
        request = completion("128+256=", stream=True, stream_options=options)
        if stream:
            chunks = chunks_of(await streamed(engine, request))
            assert [bool(chunk.get("usage")) for chunk in chunks][-2:] == [False, True]
        else:
            assert (await response(engine, request, "s"))["usage"]["completion_tokens"] > 0

    run(check)


def test_a_request_that_cannot_be_served_is_refused_before_any_chunk(run: Run) -> None:
    async def check(engine: Engine) -> None:
        with pytest.raises(InvalidRequest):
            await streamed(engine, completion("1+1=", max_tokens=100_000))

    run(check)


def test_each_of_many_streams_gets_its_own_answer(run: Run) -> None:
    async def check(engine: Engine) -> None:
        sums = held_out_sums(40)

        streams = await asyncio.gather(
            *(
                streamed(engine, completion(f"{a}+{b}="), f"many-{n}")
                for n, (a, b) in enumerate(sums)
            )
        )

        for n, seen in enumerate(streams):
            assert {
                chunk["id"].partition("many-")[2][: len(str(n))] for chunk in chunks_of(seen)
            } == {str(n)}
            assert text_of(chunks_of(seen)) == seen[-1].body["choices"][0]["text"]
        if engine.kind == "vllm":
            texts = [seen[-1].body["choices"][0]["text"] for seen in streams]
            assert texts == [str(a + b) for a, b in sums]

    run(check)


async def cut(engine: Engine, request: Request, *, after: int) -> tuple[list[Any], Aborted]:
    """Stream a request and abort it after so many chunks."""
    seen: list[Any] = []
    stream = engine.run(request, job_id="cut", priority=0, stream=True)
    async with aclosing(stream):
        async for event in stream:
            seen.append(event)
            if len(chunks_of(seen)) == after:
                assert await engine.abort("cut")
    last = seen[-1]
    assert isinstance(last, Aborted)
    return seen, last


@pytest.mark.parametrize("request_", [long(), CHAT], ids=["completion", "chat"])
def test_a_stream_that_is_aborted_goes_on_in_another_run_with_all_its_text_first(
    run: Run, request_: Request
) -> None:
    async def check(engine: Engine) -> None:
        plain = await response(engine, request_, "cut")

        seen, last = await cut(engine, request_, after=20)
        so_far = kept(last)
        num_tokens = engine.num_tokens
        again = await streamed(engine, request_, "cut", so_far)

        assert last.body is not None
        assert last.body["choices"][0]["finish_reason"] == "abort"
        assert text_of(chunks_of(seen)) == text_of([_as_chunk(last.body)])
        assert isinstance(again[-1], Response)
        assert substance(again[-1].body, "") == substance(plain, "")
        assert text_of(chunks_of(again)) == text_of([_as_chunk(plain)])
        assert engine.num_tokens - num_tokens == NUM_TOKENS - len(so_far.token_ids)
        if engine.kind == "vllm":
            assert text_of(chunks_of(again)[:2]).startswith(so_far.text)
        assert len(chunks_of(again)) < NUM_TOKENS
        assert sum_of(engine) == 0

    run(check)


def _as_chunk(body: dict[str, Any]) -> dict[str, Any]:
    return {"choices": [{**c, "delta": c.get("message")} for c in body["choices"]]}


def test_closing_a_stream_ends_its_request(run: Run) -> None:
    async def check(engine: Engine) -> None:
        stream = engine.run(long(), job_id="left", priority=0, stream=True)
        async with aclosing(stream):
            async for event in stream:
                if isinstance(event, Chunk):
                    break
        tasks = [streamed(engine, completion("1+1="), f"next-{n}") for n in range(4)]
        ended = await asyncio.gather(*tasks)

        assert all(isinstance(seen[-1], Response) for seen in ended)
        assert sum_of(engine) == 0
        if isinstance(engine, VLLMEngine):
            while engine.llm.output_processor.has_unfinished_requests():
                await asyncio.sleep(0.01)

    run(check)


@pytest.mark.parametrize(("is_dead", "code"), [(False, "engine_failure"), (True, "engine_dead")])
def test_an_error_within_a_stream_is_the_seams_error(
    run: Run, monkeypatch: pytest.MonkeyPatch, is_dead: bool, code: str
) -> None:
    async def check(engine: Engine) -> None:
        if not isinstance(engine, VLLMEngine):
            return
        parse, serve = engine._endpoints["/v1/completions"]

        async def fail_in_between(request: Any, raw: Any) -> Any:
            events = await serve(request, raw)

            async def broken() -> Any:
                yield await anext(events)
                await events.aclose()
                if is_dead:  # as vLLM tells it: like any other error
                    monkeypatch.setattr(type(engine.llm), "errored", True)
                error = {"message": "no", "type": "x", "param": None, "code": 500}
                yield f"data: {json.dumps({'error': error})}\n\n"
                yield "data: [DONE]\n\n"

            return broken()

        monkeypatch.setitem(engine._endpoints, "/v1/completions", (parse, fail_in_between))
        with pytest.raises(EngineError, match="no") as raised:
            await streamed(engine, completion("1+1="))

        assert raised.value.code == code

    run(check)


def test_the_chunks_that_are_seen_make_the_response(run: Run) -> None:
    async def check(engine: Engine) -> None:
        seen = await streamed(engine, CHAT_SUM)

        parts = Assembly()
        for chunk in chunks_of(seen):
            parts.add(chunk)
        whole = parts.response()

        assert {key: seen[-1].body[key] for key in ("id", "object", "model")} == {
            key: whole[key] for key in ("id", "object", "model")
        }
        assert seen[-1].body["choices"][0]["message"]["content"] == text_of(chunks_of(seen))

    run(check)
