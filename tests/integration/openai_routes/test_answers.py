"""What is answered, whole: by the unmodified SDK, on the simulated engine."""

import json
from typing import Any

import openai
import pytest
from redis import Redis

from tests.openai_sdk import CHAT, MODEL, Sdk, job


def test_a_chat_is_answered_by_its_job(ask: Sdk, redis: Redis) -> None:
    raw = ask(lambda c: c.chat.completions.with_raw_response.create(**CHAT, max_tokens=8))
    answer = raw.parse()

    [choice] = answer.choices
    assert (choice.message.role, choice.message.content) == ("assistant", "[simulated: 8 tokens]")
    assert choice.finish_reason == "length"
    assert answer.usage.completion_tokens == 8
    assert answer.service_tier == "default"
    job_id = raw.headers["x-slalom-job-id"]
    assert answer.id == f"chatcmpl-{job_id}"
    assert answer._request_id == raw.headers["x-request-id"] == job_id
    assert raw.headers["location"] == f"/v1/jobs/{job_id}"
    assert job(redis, job_id)["status"] == "finished"


def test_a_prompt_is_completed(ask: Sdk) -> None:
    answer = ask(lambda c: c.completions.create(model=MODEL, prompt="1+1=", max_tokens=3))

    assert answer.object == "text_completion"
    assert answer.choices[0].text == "[simulated: 3 tokens]"
    assert answer.id.startswith("cmpl-")


@pytest.mark.parametrize(
    ("asked", "served", "tier"),
    [
        (openai.omit, "default", "standard"),
        (None, "default", "standard"),
        ("auto", "default", "standard"),
        ("default", "default", "standard"),
        ("flex", "flex", "batch"),
        ("priority", "priority", "premium"),
    ],
)
def test_the_service_tier_picks_the_tier_and_the_answer_names_it(
    ask: Sdk, redis: Redis, asked: Any, served: str, tier: str
) -> None:
    create = {**CHAT, "max_tokens": 1, "service_tier": asked, "metadata": {"of": "me"}}

    answer = ask(lambda c: c.chat.completions.create(**create))
    chunks = ask.stream(lambda c: c.chat.completions.create(**create, stream=True))

    assert answer.service_tier == served
    assert {chunk.service_tier for chunk in chunks} == {served}
    meta = json.loads(job(redis, answer.id.removeprefix("chatcmpl-"))["meta"])
    assert (meta["tier"], meta["metadata"]) == (tier, {"of": "me"})


def test_fields_that_the_door_does_not_know_reach_the_engine(ask: Sdk) -> None:
    answer = ask(
        lambda c: c.chat.completions.create(**CHAT, max_tokens=9, extra_body={"simulate": 2})
    )

    assert answer.choices[0].message.content == "[simulated: 2 tokens]"


def test_models_are_listed_and_found_by_their_names(ask: Sdk, port: int) -> None:
    listed = ask(lambda c: c.models.list()).data
    one = ask(lambda c: c.models.retrieve(MODEL))
    with pytest.raises(openai.NotFoundError) as missing:
        ask(lambda c: c.models.retrieve("some/other"))

    assert listed == [one]
    assert (one.id, one.object, one.owned_by) == (MODEL, "model", "slalom")
    assert missing.value.code == "model_not_found"
