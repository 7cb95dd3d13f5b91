"""OpenAI's SDK against the whole product: what vLLM can do is reached through every field."""

import asyncio
import math
import re
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from models.sums import held_out_sums
from tests.conftest import until
from tests.e2e.conftest import Product
from tests.openai_sdk import Sdk, sdk

pytestmark = pytest.mark.vllm

MODEL = "adder"
GREEDY: dict[str, Any] = {"model": MODEL, "temperature": 0}


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest, product: Product) -> Iterator[Sdk]:
    with sdk(request.param, product.port) as made:
        yield made


def chat(content: str, **fields: Any) -> dict[str, Any]:
    return {**GREEDY, "messages": [{"role": "user", "content": content}], **fields}


def test_a_chat_and_a_completion_are_answered_rightly(ask: Sdk) -> None:
    spoken = ask(lambda c: c.chat.completions.create(**chat("77 + 5")))
    written = ask(lambda c: c.completions.create(**GREEDY, prompt="77+5=", max_tokens=8))

    assert (spoken.choices[0].message.content, spoken.choices[0].finish_reason) == ("82", "stop")
    assert (written.choices[0].text, written.choices[0].finish_reason) == ("82", "stop")
    assert spoken.usage.total_tokens == spoken.usage.prompt_tokens + spoken.usage.completion_tokens
    assert spoken.service_tier == written.service_tier == "default"


def test_streams_make_the_same_text_as_answers(ask: Sdk) -> None:
    options = {"stream": True, "stream_options": {"include_usage": True}}

    spoken = ask.stream(lambda c: c.chat.completions.create(**chat("128 + 256"), **options))
    written = ask.stream(lambda c: c.completions.create(**GREEDY, prompt="128+256=", **options))

    *chunks, usage = spoken
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "384"
    assert usage.usage.completion_tokens == 4
    assert {chunk.service_tier for chunk in spoken} == {"default"}
    assert "".join(chunk.choices[0].text for chunk in written[:-1]) == "384"


def test_several_choices_log_probabilities_and_seeds(ask: Sdk) -> None:
    sampled = {**chat("9+9"), "temperature": 1.0, "seed": 5, "n": 3}
    first = ask(lambda c: c.chat.completions.create(**sampled))
    again = ask(lambda c: c.chat.completions.create(**sampled))
    told = ask(lambda c: c.chat.completions.create(**chat("9+9"), logprobs=True, top_logprobs=2))
    scored = ask(lambda c: c.completions.create(**GREEDY, prompt="9+9=", logprobs=1, max_tokens=2))

    texts = [choice.message.content for choice in first.choices]
    assert len(texts) == 3
    assert texts == [choice.message.content for choice in again.choices]
    tokens = told.choices[0].logprobs.content
    assert [token.token for token in tokens][:2] == ["1", "8"]
    assert len(tokens[0].top_logprobs) == 2
    assert math.exp(tokens[0].logprob) > 0.5
    assert len(scored.choices[0].logprobs.tokens) == 2


def test_several_streamed_choices_are_told_apart(ask: Sdk) -> None:
    sampled = {**chat("9+9"), "temperature": 1.0, "seed": 5, "n": 3}
    whole = ask(lambda c: c.chat.completions.create(**sampled))

    chunks = ask.stream(lambda c: c.chat.completions.create(**sampled, stream=True))

    texts = ["", "", ""]
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == [choice.message.content for choice in whole.choices]


def test_output_stops_where_it_is_told_to(ask: Sdk) -> None:
    stopped = ask(lambda c: c.completions.create(**GREEDY, prompt="128+256=", stop=["4"]))
    cut = ask(lambda c: c.completions.create(**GREEDY, prompt="128+256=", max_tokens=1))

    assert (stopped.choices[0].text, stopped.choices[0].finish_reason) == ("38", "stop")
    assert (cut.choices[0].text, cut.choices[0].finish_reason) == ("3", "length")


def test_output_has_the_structure_that_is_asked_for(ask: Sdk) -> None:
    schema = {"name": "sum", "schema": {"type": "integer"}, "strict": True}
    whole = {"type": "json_schema", "json_schema": schema}
    regex = {"structured_outputs": {"regex": "7[0-9]"}}

    number = ask(
        lambda c: c.chat.completions.create(**chat("2+3"), response_format=whole, max_tokens=4)
    )
    forced = ask(lambda c: c.chat.completions.create(**chat("2+3"), extra_body=regex))

    assert re.fullmatch(r"-?\d+", number.choices[0].message.content)
    assert re.fullmatch(r"7\d", forced.choices[0].message.content)


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1},
        {"top_p": 5},
        {"logit_bias": {"a": 1}},
        {"messages": [{"role": "nobody", "content": "1+1"}]},
        {"messages": [{"role": "system", "content": "no user"}]},
        {"response_format": {"type": "json_schema"}},
        {"stop": 5},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_vllm_refuses_is_a_bad_request_with_its_message(
    ask: Sdk, wrong: dict[str, Any], stream: bool
) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        ask(lambda c: c.chat.completions.create(**{**chat("1+1"), **wrong, "stream": stream}))

    assert error.value.code == "invalid_request"
    assert error.value.message
    assert "Traceback" not in error.value.message


def test_a_model_that_cannot_embed_says_so(ask: Sdk) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        ask(lambda c: c.embeddings.create(model=MODEL, input="1+1"))

    assert "/v1/embeddings" in error.value.message


def test_streams_side_by_side_have_each_its_own_answer(product: Product) -> None:
    sums = held_out_sums(48)

    async def one(client: AsyncOpenAI, a: int, b: int) -> str:
        stream = await client.chat.completions.create(**chat(f"{a}+{b}"), stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def all_of_them() -> list[str]:
        url = f"http://127.0.0.1:{product.port}/v1"
        async with AsyncOpenAI(base_url=url, api_key="any") as client:
            return list(await asyncio.gather(*(one(client, a, b) for a, b in sums)))

    assert asyncio.run(all_of_them()) == [str(a + b) for a, b in sums]


# Responses


def test_a_response_is_made_kept_and_forgotten(ask: Sdk) -> None:
    made = ask(
        lambda c: c.responses.create(
            **GREEDY, input="77 + 5", metadata={"of": "me"}, service_tier="priority"
        )
    )
    kept = ask(lambda c: c.responses.retrieve(made.id))
    ask(lambda c: c.responses.delete(made.id))

    assert (made.status, made.output_text) == ("completed", "82")
    assert made.id.startswith("resp_")
    assert (made.service_tier, made.metadata) == ("priority", {"of": "me"})
    assert made.usage.output_tokens == 3
    assert kept == made
    with pytest.raises(openai.NotFoundError) as gone:
        ask(lambda c: c.responses.retrieve(made.id))
    assert gone.value.code == "response_not_found"


def test_a_response_goes_on_from_another(ask: Sdk) -> None:
    first = ask(lambda c: c.responses.create(**GREEDY, input="1+2"))

    second = ask(lambda c: c.responses.create(**GREEDY, input="3+4", previous_response_id=first.id))

    assert (first.output_text, second.output_text) == ("3", "7")
    assert second.previous_response_id == first.id
    with pytest.raises(openai.NotFoundError):
        ask(lambda c: c.responses.create(**GREEDY, input="1", previous_response_id="resp_no"))


def test_a_response_that_is_cut_off_is_incomplete(ask: Sdk) -> None:
    made = ask(lambda c: c.responses.create(**GREEDY, input="128+256", max_output_tokens=1))

    assert (made.status, made.output_text) == ("incomplete", "3")
    assert made.incomplete_details.reason == "max_output_tokens"


def test_a_response_is_streamed(ask: Sdk) -> None:
    events = ask.stream(lambda c: c.responses.create(**GREEDY, input="128+256", stream=True))

    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == "384"
    assert events[0].type == "response.created"
    assert events[-1].type == "response.completed"
    assert events[-1].response.output_text == "384"
    assert {event.response.id for event in events if hasattr(event, "response")} == {
        events[0].response.id
    }


def test_a_response_in_the_background_is_queued_and_then_there(ask: Sdk) -> None:
    queued = ask(lambda c: c.responses.create(**GREEDY, input="77+5", background=True))

    def done() -> bool:
        return bool(ask(lambda c: c.responses.retrieve(queued.id)).status == "completed")

    assert queued.background
    assert queued.status in {"queued", "in_progress", "completed"}
    until(done)
    assert ask(lambda c: c.responses.retrieve(queued.id)).output_text == "82"


def test_a_stream_of_the_background_is_gone_on_with_by_cursor(ask: Sdk) -> None:
    options = {**GREEDY, "background": True, "stream": True}
    events = ask.stream(lambda c: c.responses.create(**options, input="128+256"))
    made = events[0].response.id

    rest = ask.stream(lambda c: c.responses.retrieve(made, stream=True, starting_after=3))

    assert rest == events[4:]


def test_a_response_in_the_background_is_cancelled(ask: Sdk, product: Product) -> None:
    endless = {"temperature": 1.0, "model": MODEL, "extra_body": {"ignore_eos": True}}
    made = ask(
        lambda c: c.responses.create(**endless, input="1+1", background=True, max_output_tokens=250)
    )

    canceled = ask(lambda c: c.responses.cancel(made.id))

    assert canceled.status in {"cancelled", "incomplete"}
    assert canceled.id == made.id


def test_a_response_that_was_waited_for_cannot_be_cancelled(ask: Sdk) -> None:
    made = ask(lambda c: c.responses.create(**GREEDY, input="1+1"))

    with pytest.raises(openai.BadRequestError) as error:
        ask(lambda c: c.responses.cancel(made.id))

    assert error.value.code == "not_background"


@pytest.mark.parametrize(
    "wrong",
    [
        {"background": True, "store": False},
        {"input": 5},
        {"conversation": "conv_1"},
        {"temperature": 9},
        {"previous_response_id": 5},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_wrong_response_request_is_a_bad_request(ask: Sdk, wrong: dict[str, Any]) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        ask(lambda c: c.responses.create(model=MODEL, extra_body={"input": "1+1", **wrong}))

    assert error.value.type == "invalid_request_error"


def test_what_was_not_stored_cannot_be_retrieved(ask: Sdk) -> None:
    made = ask(lambda c: c.responses.create(**GREEDY, input="1+1", store=False))

    assert made.output_text == "2"
    with pytest.raises(openai.NotFoundError):
        ask(lambda c: c.responses.retrieve(made.id))
