"""What every engine does: the simulated one and vLLM obey the same tests.

vLLM serves the adder, so its answers are checked as well. One engine serves the whole module: a
start takes half a minute.
"""

import asyncio
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

import pytest

from config.settings import Settings
from gpu_worker.engine import Engine, EngineStartError, FirstToken, InvalidRequest, Response
from gpu_worker.start import start_engine
from models.sums import held_out_sums
from scheduler.jobs import Request
from tests.contract.conftest import Run


def completion(prompt: str, **body: object) -> Request:
    fields = {"model": "adder", "prompt": prompt, "max_tokens": 8, "temperature": 0, **body}
    return Request(endpoint="/v1/completions", body=fields)


async def events(engine: Engine, request: Request, job_id: str, priority: int = 0) -> list[object]:
    stream = engine.run(request, job_id=job_id, priority=priority)
    return [event async for event in stream]


async def response(
    engine: Engine, request: Request, job_id: str, priority: int = 0
) -> dict[str, Any]:
    last = (await events(engine, request, job_id, priority))[-1]
    assert isinstance(last, Response)
    return last.body


def test_the_first_token_comes_before_the_whole_openai_response(run: Run) -> None:
    async def check(engine: Engine) -> None:
        begun = datetime.now(UTC)

        first, last = await events(engine, completion("1+1="), "job-1")

        assert isinstance(first, FirstToken)
        assert begun <= first.at <= datetime.now(UTC)
        assert isinstance(last, Response)
        assert last.body["object"] == "text_completion"
        assert last.body["model"] == "adder"
        assert "job-1" in last.body["id"]
        [choice] = last.body["choices"]
        assert choice["finish_reason"] in {"stop", "length"}
        usage = last.body["usage"]
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]

    run(check)


def test_a_chat_is_answered_as_a_chat(run: Run) -> None:
    async def check(engine: Engine) -> None:
        body = {"model": "adder", "messages": [{"role": "user", "content": "128+256"}]}
        answer = await response(
            engine, Request(endpoint="/v1/chat/completions", body=body), "job-2"
        )

        assert answer["object"] == "chat.completion"
        assert answer["choices"][0]["message"]["role"] == "assistant"
        if engine.kind == "vllm":
            assert answer["choices"][0]["message"]["content"] == "384"

    run(check)


def test_max_tokens_bounds_the_output(run: Run) -> None:
    async def check(engine: Engine) -> None:
        answer = await response(engine, completion("1+1=", max_tokens=3, ignore_eos=True), "job-3")

        assert answer["usage"]["completion_tokens"] == 3
        assert answer["choices"][0]["finish_reason"] == "length"

    run(check)


def test_each_of_many_at_once_gets_its_own_answer(run: Run) -> None:
    async def check(engine: Engine) -> None:
        sums = held_out_sums(60)

        answers = await asyncio.gather(
            *(
                response(engine, completion(f"{a}+{b}="), f"many-{n}")
                for n, (a, b) in enumerate(sums)
            )
        )

        assert all(f"many-{n}" in answer["id"] for n, answer in enumerate(answers))
        if engine.kind == "vllm":
            texts = [answer["choices"][0]["text"] for answer in answers]
            assert texts == [str(a + b) for a, b in sums]
        else:
            assert all("simulated" in answer["choices"][0]["text"] for answer in answers)

    run(check)


def test_a_more_urgent_request_overtakes_those_that_wait(run: Run) -> None:
    async def check(engine: Engine) -> None:
        order: list[str] = []

        async def one(name: str, priority: int) -> None:
            await response(
                engine, completion("1+1=", max_tokens=60, ignore_eos=True), name, priority
            )
            order.append(name)

        low = [asyncio.create_task(one(f"low-{n}", 200)) for n in range(24)]
        while engine.load().waiting < 16:
            await asyncio.sleep(0)
        await one("high", 0)
        overtaken = sum(not task.done() for task in low)
        await asyncio.gather(*low)

        assert overtaken >= 12, order

    run(check)


def test_closing_the_events_aborts_the_request(run: Run) -> None:
    async def check(engine: Engine) -> None:
        request = completion("1+1=", max_tokens=200, ignore_eos=True)
        tasks = [asyncio.create_task(events(engine, request, f"gone-{n}")) for n in range(6)]
        while engine.load().running < 4:
            await asyncio.sleep(0.01)

        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)

        assert all(isinstance(error, asyncio.CancelledError) for error in ended)
        await response(engine, completion("1+1="), "after")
        assert engine.load().running == 0
        assert engine.load().waiting == 0

    run(check)


def test_a_stream_that_is_closed_early_leaves_nothing_behind(run: Run) -> None:
    async def check(engine: Engine) -> None:
        stream = engine.run(completion("1+1="), job_id="x", priority=0)
        async with aclosing(stream) as opened:
            await anext(opened)

        await response(engine, completion("2+2="), "next")
        assert engine.load().running == 0

    run(check)


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (Request(endpoint="/v1/poems", body={}), "/v1/poems is not served"),
        (completion("1+" * 20_000), "length"),
        (completion("1+1=", model="other"), "other"),
        (Request(endpoint="/v1/completions", body={"model": "adder"}), "prompt"),
    ],
    ids=["endpoint", "too long", "model", "no prompt"],
)
def test_a_request_it_cannot_serve_is_the_callers_fault_and_no_elses(
    run: Run, request_: Request, said: str
) -> None:
    async def check(engine: Engine) -> None:
        neighbour = asyncio.create_task(response(engine, completion("1+1="), "neighbour"))

        with pytest.raises(InvalidRequest, match=f"(?i){said}"):
            await events(engine, request_, "bad")

        assert (await neighbour)["choices"]

    run(check)


@pytest.mark.vllm
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--max-num-sequences 4 --no-such-flag", "unrecognized arguments"),
        ("--max-num-seqs many", "--max-num-seqs"),
        ("--scheduling-policy fcfs", "must stay priority"),
    ],
)
def test_a_wrong_flag_of_vllms_is_refused_at_the_start(arguments: str, said: str) -> None:
    settings = Settings(engine="vllm", vllm_args=arguments)

    with pytest.raises(EngineStartError, match=said) as error:
        asyncio.run(start_engine(settings))

    assert "SLALOM_VLLM_ARGS" in str(error.value)


@pytest.mark.vllm
def test_a_model_that_is_not_there_is_one_clear_line() -> None:
    settings = Settings(engine="vllm", model="/no/such/model")

    with pytest.raises(EngineStartError, match="/no/such/model") as error:
        asyncio.run(start_engine(settings))

    assert "\n" not in str(error.value)
