"""The native request form: what it takes, what it refuses, which OpenAI request it becomes."""

import json
from pathlib import Path
from typing import Any

import pytest

from api.problems import Invalid, MalformedJson
from api.schemas import JobRequest, Output
from config.settings import ROOT
from config.tiers import TierTable

SECRET = "the-secret-prompt"


@pytest.fixture(scope="module")
def table() -> TierTable:
    return TierTable.load(Path(ROOT) / "config" / "tiers.yaml")


def parse(table: TierTable, **body: Any) -> JobRequest:
    return JobRequest.parse(json.dumps(body).encode(), table)


def test_a_prompt_becomes_a_completion_with_only_what_was_given(table: TierTable) -> None:
    request = parse(table, prompt="1+1=", max_tokens=4, temperature=0, tier="premium")

    assert request.order(table).request == {
        "endpoint": "/v1/completions",
        "body": {"prompt": "1+1=", "max_tokens": 4, "temperature": 0},
    }


def test_messages_become_a_chat_completion(table: TierTable) -> None:
    messages = [{"role": "system", "content": ""}, {"role": "user", "content": "1+1"}]
    rest = {"stop": ["\n"], "seed": -1, "top_p": 1, "ignore_eos": True}

    request = parse(table, messages=messages, metadata={"a": "b"}, **rest)

    assert request.order(table).request == {
        "endpoint": "/v1/chat/completions",
        "body": {"messages": messages, **rest},
    }


def test_null_is_the_same_as_not_given(table: TierTable) -> None:
    nulls = dict.fromkeys(set(JobRequest.model_fields) - {"prompt"})

    request = parse(table, prompt="1+1=", **nulls)

    assert request.order(table).request["body"] == {"prompt": "1+1="}
    assert request.tier_in(table) == table.default_tier


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "prompt"),
        ({"prompt": SECRET, "messages": [{"role": "user", "content": SECRET}]}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": [SECRET]}, "prompt"),
        ({"messages": []}, "messages"),
        ({"messages": SECRET}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": SECRET, "content": ""}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": "", "name": SECRET}]}, "messages.0.name"),
        ({"prompt": SECRET, "tier": "gold"}, "tier"),
        ({"prompt": SECRET, "tier": ""}, "tier"),
        ({"prompt": SECRET, "max_tokens": 0}, "max_tokens"),
        ({"prompt": SECRET, "max_tokens": 8193}, "max_tokens"),
        ({"prompt": SECRET, "max_tokens": "5"}, "max_tokens"),
        ({"prompt": SECRET, "max_tokens": True}, "max_tokens"),
        ({"prompt": SECRET, "max_tokens": 1.5}, "max_tokens"),
        ({"prompt": SECRET, "temperature": 2.1}, "temperature"),
        ({"prompt": SECRET, "temperature": float("nan")}, "temperature"),
        ({"prompt": SECRET, "top_p": 0}, "top_p"),
        ({"prompt": SECRET, "stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"prompt": SECRET, "stop": [SECRET, ""]}, "stop"),
        ({"prompt": SECRET, "stop": 1}, "stop"),
        ({"prompt": SECRET, "stop": []}, "stop"),
        ({"prompt": SECRET, "seed": 2**63}, "seed"),
        ({"prompt": SECRET, "ignore_eos": 1}, "ignore_eos"),
        ({"prompt": SECRET, "model": ""}, "model"),
        ({"prompt": SECRET, "metadata": {str(n): "" for n in range(17)}}, "metadata"),
        ({"prompt": SECRET, "metadata": {"k" * 65: ""}}, "metadata." + "k" * 65 + ".[key]"),
        ({"prompt": SECRET, "metadata": {"k": "v" * 513}}, "metadata.k"),
        ({"prompt": SECRET, "metadata": {"k": 1}}, "metadata.k"),
        ({"prompt": SECRET, "n": 2}, "n"),
        ([SECRET], "body"),
        (SECRET, "body"),
    ],
)
def test_a_wrong_field_is_named_and_nothing_is_repeated(
    table: TierTable, body: Any, field: str
) -> None:
    with pytest.raises(Invalid) as error:
        JobRequest.parse(json.dumps(body).encode(), table)

    assert field in {fault["field"] for fault in error.value.errors}
    assert SECRET not in str(error.value.errors) + error.value.detail


def test_an_unknown_tier_is_told_which_there_are(table: TierTable) -> None:
    with pytest.raises(Invalid, match="use one of premium, standard, batch"):
        parse(table, prompt="1+1=", tier="gold")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"prompt": "' + SECRET.encode(),
        b'{"prompt": "\xff"}',
        b'{"prompt": "\\ud800"}',
        b"[" * 10_000,
    ],
)
def test_what_is_no_json_is_malformed(table: TierTable, body: bytes) -> None:
    with pytest.raises(MalformedJson) as error:
        JobRequest.parse(body, table)

    assert SECRET not in error.value.detail


@pytest.mark.parametrize(
    ("response", "output"),
    [
        (
            {"choices": [{"text": "2", "finish_reason": "stop"}]},
            Output(text="2", finish_reason="stop"),
        ),
        (
            {"choices": [{"message": {"role": "assistant", "content": "2"}}, {}]},
            Output(text="2", finish_reason=None),
        ),
        ({"choices": [{"message": {"content": None, "tool_calls": []}}]}, None),
        ({"choices": []}, None),
        ({}, None),
        ([1, 2], None),
        (None, None),
    ],
)
def test_the_output_is_the_first_choice_that_has_text(response: Any, output: Output | None) -> None:
    assert Output.of(response) == output
