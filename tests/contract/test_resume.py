"""What an aborted request had, and that another run of it goes on from there.

On vLLM the adder is kept from its end token, so that its outputs are long and varied.
"""

import asyncio
from contextlib import aclosing
from typing import Any

import pytest

from gpu_worker import vllm_runs
from gpu_worker.engine import Aborted, Engine, FirstToken, Response
from gpu_worker.vllm_engine import VLLMEngine
from scheduler import so_far
from scheduler.jobs import Request
from scheduler.so_far import SoFar
from tests.contract.conftest import Run
from tests.contract.test_engine import completion, events, response

NUM_TOKENS = 120
NO_END = {"ignore_eos": True, "logit_bias": {"2": -100}, "return_token_ids": True}
CHAT = Request(
    endpoint="/v1/chat/completions",
    body={
        "model": "adder",
        "messages": [{"role": "user", "content": "128+256"}],
        "max_tokens": NUM_TOKENS,
        "temperature": 0,
        **NO_END,
    },
)


def long(**more: object) -> Request:
    return completion("128+256=", max_tokens=NUM_TOKENS, **NO_END, **more)


async def aborted(
    engine: Engine, request: Request, *, after: int, before: SoFar | None = None
) -> Aborted:
    """Run a request until so many more tokens have come."""
    num_tokens = engine.num_tokens + after
    stream = engine.run(request, job_id="cut", priority=0, so_far=before)

    async def last() -> object:
        async with aclosing(stream):
            return [event async for event in stream][-1]

    task = asyncio.create_task(last())
    while engine.num_tokens < num_tokens and not task.done():
        await asyncio.sleep(0)
    inside = await engine.abort("cut")
    event = await task
    assert inside
    assert isinstance(event, Aborted)
    return event


def sum_of(engine: Engine) -> int:
    load = engine.load()
    return load.running + load.waiting


async def resumed(engine: Engine, request: Request, before: SoFar | None) -> tuple[Any, int]:
    """Return the answer, and how many tokens were computed for it."""
    num_tokens = engine.num_tokens
    stream = engine.run(request, job_id="cut", priority=0, so_far=before)
    first, last = [event async for event in stream]
    assert isinstance(first, FirstToken)
    assert isinstance(last, Response)
    return last.body, engine.num_tokens - num_tokens


def substance(body: Any) -> object:
    """Return what must be the same in two answers to one request."""
    return body["choices"], body["usage"], body["model"], body["object"]


def kept(event: Aborted) -> SoFar:
    """Return what an aborted request had, as it comes out of Redis."""
    assert event.so_far is not None
    again = so_far.loads(so_far.dumps(event.so_far, job_id="cut").encode(), job_id="cut")
    assert again == event.so_far
    return again


def test_an_aborted_request_hands_over_what_it_has(run: Run) -> None:
    async def check(engine: Engine) -> None:
        event = await aborted(engine, long(), after=20)

        assert event.body is not None
        [choice] = event.body["choices"]
        had = kept(event)
        assert choice["finish_reason"] == "abort"
        assert choice["text"] == had.text
        assert 20 <= len(had.token_ids) < NUM_TOKENS
        assert event.body["usage"]["completion_tokens"] == len(had.token_ids)
        assert sum_of(engine) == 0

    run(check)


def test_only_what_is_inside_can_be_aborted(run: Run) -> None:
    async def check(engine: Engine) -> None:
        await response(engine, completion("1+1="), "ended")

        assert not await engine.abort("ended")
        assert not await engine.abort("never was")

    run(check)


def test_a_request_that_waits_is_aborted_with_nothing(run: Run) -> None:
    async def check(engine: Engine) -> None:
        tasks = [asyncio.create_task(events(engine, long(), f"job-{n}")) for n in range(6)]
        while engine.load().waiting < 2:
            await asyncio.sleep(0)

        for n in range(6):
            assert await engine.abort(f"job-{n}")
        ended = [(await task)[-1] for task in tasks]

        assert all(isinstance(event, Aborted) for event in ended)
        assert [event.so_far for event in ended[4:]] == [None, None]
        assert sum_of(engine) == 0
        assert (await response(engine, completion("1+1="), "after"))["choices"]

    run(check)


@pytest.mark.parametrize("after", [1, 2, 17, 64, 110])
@pytest.mark.parametrize("request_", [long(), CHAT], ids=["completion", "chat"])
def test_resumed_it_gives_the_answer_it_would_have_given_and_computes_only_the_rest(
    run: Run, request_: Request, after: int
) -> None:
    async def check(engine: Engine) -> None:
        whole = await response(engine, request_, "whole")
        had = kept(await aborted(engine, request_, after=after))

        answer, num_computed = await resumed(engine, request_, had)

        assert substance(answer) == substance(whole)
        assert answer["usage"]["completion_tokens"] == NUM_TOKENS
        assert num_computed == NUM_TOKENS - len(had.token_ids)

    run(check)


def test_it_may_be_aborted_again_and_again(run: Run) -> None:
    async def check(engine: Engine) -> None:
        whole = await response(engine, long(), "whole")
        had: SoFar | None = None
        for num_more in (1, 20, 1, 30):
            last = had
            had = kept(await aborted(engine, long(), after=num_more, before=last))
            before = last.token_ids if last else ()
            assert had.token_ids[: len(before)] == before

        answer, num_computed = await resumed(engine, long(), had)

        assert had is not None
        assert substance(answer) == substance(whole)
        assert num_computed == NUM_TOKENS - len(had.token_ids)

    run(check)


@pytest.mark.parametrize(
    "before",
    [
        SoFar((4, 5, 6), "another text"),
        SoFar((10**9,), ""),
        SoFar((10**30,), ""),
        SoFar((2,) * NUM_TOKENS, ""),
    ],
    ids=["text", "token", "huge", "too many"],
)
def test_what_does_not_fit_the_request_is_ignored(run: Run, before: SoFar) -> None:
    async def check(engine: Engine) -> None:
        whole = await response(engine, long(), "whole")

        answer, num_computed = await resumed(engine, long(), before)

        assert substance(answer) == substance(whole)
        assert num_computed == NUM_TOKENS

    run(check)


@pytest.mark.parametrize(
    "more",
    [
        {"n": 2, "temperature": 1.0},
        {"logprobs": 1},
        {"prompt_logprobs": 1},
        {"presence_penalty": 0.5},
        {"frequency_penalty": 0.5},
        {"seed": 7, "temperature": 1.0},
        {"bad_words": ["1"]},
        {"structured_outputs": {"regex": "[0-9]{200}"}},
        {"prompt": ["128+256=", "1+1="]},
    ],
    ids=lambda more: next(iter(more)),
)
def test_what_would_not_mean_the_same_starts_over(run: Run, more: dict[str, object]) -> None:
    async def check(engine: Engine) -> None:
        if engine.kind == "sim":
            return
        request = long()
        request["body"].update(more)
        some = kept(await aborted(engine, long(), after=5))

        assert (await aborted(engine, request, after=5)).so_far is None
        answer, num_computed = await resumed(engine, request, some)

        assert num_computed == answer["usage"]["completion_tokens"]

    run(check)


def test_a_seed_changes_nothing_of_greedy_output(run: Run) -> None:
    async def check(engine: Engine) -> None:
        had = kept(await aborted(engine, long(seed=7), after=30))

        _, num_computed = await resumed(engine, long(seed=7), had)

        assert num_computed == NUM_TOKENS - len(had.token_ids)

    run(check)


def test_a_stop_string_is_seen_across_the_cut(run: Run) -> None:
    async def check(engine: Engine) -> None:
        if engine.kind == "sim":
            return
        had = kept(await aborted(engine, long(), after=3))
        text = (await response(engine, long(), "whole"))["choices"][0]["text"]
        across = text[len(had.text) - 1 : len(had.text) + 2]
        whole = await response(engine, long(stop=across), "stopped")
        assert text.find(across) == len(had.text) - 1, "choose another prompt"

        answer, _ = await resumed(engine, long(stop=across), had)

        assert substance(answer) == substance(whole)
        assert answer["choices"][0]["finish_reason"] == "stop"

    run(check)


def test_min_tokens_counts_from_the_beginning(run: Run) -> None:
    async def check(engine: Engine) -> None:
        request = completion("128+256=", max_tokens=50, min_tokens=20, temperature=0)
        whole = await response(engine, request, "whole")
        had = kept(await aborted(engine, request, after=8))

        answer, _ = await resumed(engine, request, had)

        assert substance(answer) == substance(whole)

    run(check)


def test_a_stream_begins_with_what_there_was(run: Run) -> None:
    async def check(engine: Engine) -> None:
        if not isinstance(engine, VLLMEngine):
            return
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        had = kept(await aborted(engine, long(), after=20))
        [whole] = (await response(engine, long(), "whole"))["choices"]
        this_run = vllm_runs.Run("stream", had)
        vllm_runs.current_run.set(this_run)
        params = SamplingParams(
            max_tokens=NUM_TOKENS,
            temperature=0,
            ignore_eos=True,
            logit_bias={2: -100},
            output_kind=RequestOutputKind.DELTA,
        )
        prompt = {"prompt_token_ids": whole["prompt_token_ids"]}

        outputs = engine.llm.generate(prompt, params, "stream")
        parts = [output.outputs[0] async for output in outputs]

        token_ids = [token for part in parts for token in part.token_ids]
        assert tuple(parts[0].token_ids[: len(had.token_ids)]) == had.token_ids
        assert token_ids == whole["token_ids"]
        assert "".join(part.text for part in parts) == whole["text"]
        assert this_run.so_far == SoFar(tuple(token_ids), whole["text"])

    run(check)
