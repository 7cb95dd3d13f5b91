"""Tools and reasoning, with OpenAI's SDK: what vLLM makes of a model's words gets through whole."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e import talker
from tests.e2e.other_model import served
from tests.openai_sdk import Sdk, sdk

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

MODEL = "talker"
PARAMETERS = {
    "type": "object",
    "properties": {"unit": {"enum": ["celsius", "fahrenheit"]}, "days": {"enum": [1, 2, 3]}},
    "required": ["unit", "days"],
    "additionalProperties": False,
}
FUNCTION = {"name": "weather", "parameters": PARAMETERS, "strict": True}
TOOL = {"type": "function", "function": FUNCTION}
THIS_ONE = {"type": "function", "function": {"name": "weather"}}
ASKED: dict[str, Any] = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "How warm will it be?"}],
    "max_tokens": 120,
    "temperature": 0,
}


@pytest.fixture(scope="module")
def port(_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a server whose model has tools, and says what it thinks."""
    directory = tmp_path_factory.mktemp("tools")
    talker.make(directory / MODEL)
    url = _server.removesuffix("/0") + "/11"
    variables = {"SLALOM_MODEL": str(directory / MODEL), "VLLM_CPU_KVCACHE_SPACE": "1"}
    with served(url, directory, talker.FLAGS, **variables) as port:
        yield port


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest, port: int) -> Iterator[Sdk]:
    with sdk(request.param, port) as made:
        yield made


@pytest.mark.parametrize("choice", [THIS_ONE, "required"], ids=["named", "required"])
def test_a_tool_that_must_be_called_is_called(ask: Sdk, choice: Any) -> None:
    asked = {**ASKED, "tools": [TOOL], "tool_choice": choice}
    whole = ask(lambda c: c.chat.completions.create(**asked))
    chunks = ask.stream(lambda c: c.chat.completions.create(**asked, stream=True))

    [call, *_] = whole.choices[0].message.tool_calls
    deltas = [d for chunk in chunks for d in chunk.choices[0].delta.tool_calls or [] if not d.index]
    assert call.function.name == "weather"
    arguments = json.loads(call.function.arguments)
    assert arguments["unit"] in {"celsius", "fahrenheit"}
    assert arguments["days"] in {1, 2, 3}
    assert [delta.function.name for delta in deltas if delta.function.name] == ["weather"]
    assert json.loads("".join(d.function.arguments or "" for d in deltas)) == arguments


def test_what_the_model_thinks_is_told_apart_from_what_it_says(ask: Sdk) -> None:
    thinking = {"chat_template_kwargs": {"thinking": True}}
    asked = {**ASKED, "max_tokens": 24, "temperature": 1, "seed": 5, "extra_body": thinking}
    whole = ask(lambda c: c.chat.completions.create(**asked))
    chunks = ask.stream(lambda c: c.chat.completions.create(**asked, stream=True))

    message = whole.choices[0].message
    thoughts = [chunk.choices[0].delta.model_extra.get("reasoning") or "" for chunk in chunks]
    assert message.content is None
    assert message.model_extra["reasoning"]
    assert "".join(thoughts) == message.model_extra["reasoning"]


def test_a_response_calls_a_tool_too(ask: Sdk) -> None:
    tool = {"type": "function", **FUNCTION}

    response = ask(
        lambda c: c.responses.create(
            model=MODEL,
            input="How warm will it be?",
            tools=[tool],
            tool_choice="required",
            max_output_tokens=120,
            temperature=0,
        )
    )

    calls = [item for item in response.output if item.type == "function_call"]
    assert {call.name for call in calls} == {"weather"}
