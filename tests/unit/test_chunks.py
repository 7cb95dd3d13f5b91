"""Chunks make the response, and what is missing of one can be said in chunks again."""

from typing import Any

import pytest

from scheduler.chunks import Assembly, rest_of

FRAME = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 7, "model": "m"}
USAGE = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}


def said(index: int, finish_reason: str | None = None, **delta: Any) -> dict[str, Any]:
    choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return {**FRAME, "choices": [choice]}


def call(index: int, arguments: str, **more: Any) -> dict[str, Any]:
    name = {"name": more.pop("name")} if "name" in more else {}
    return {"index": index, **more, "function": {**name, "arguments": arguments}}


def logprob(token: str) -> dict[str, Any]:
    return {"token": token, "logprob": -0.5, "bytes": None, "top_logprobs": []}


END = {**FRAME, "choices": [], "usage": USAGE}
TWO_CHOICES = [
    said(0, role="assistant", content=""),
    said(1, role="assistant", content=""),
    said(1, content="four"),
    said(0, content="fo", reasoning="2 and"),
    said(0, content="ur", reasoning=" 2"),
    said(1, "stop"),
    said(0, "length", content="!"),
    END,
]
TOOLS = [
    said(0, role="assistant", content=""),
    said(0, tool_calls=[call(0, "", id="a", type="function", name="add")]),
    said(0, tool_calls=[call(0, '{"a": 1')]),
    said(0, tool_calls=[call(0, "}"), call(1, "{", id="b", type="function", name="sub")]),
    said(0, "tool_calls", tool_calls=[call(1, "}")]),
    END,
]
LOGPROBS = [
    {
        **FRAME,
        "object": "text_completion",
        "choices": [
            {
                "index": 0,
                "text": token,
                "logprobs": {"tokens": [token], "token_logprobs": [-0.5], "text_offset": [n]},
                "token_ids": [n],
                "prompt_token_ids": [9, 9] if n == 0 else None,
                "finish_reason": "stop" if n == 2 else None,
                "stop_reason": None,
            }
        ],
    }
    for n, token in enumerate("384")
] + [{**END, "object": "text_completion"}]


def whole(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    parts = Assembly()
    for chunk in chunks:
        parts.add(chunk)
    return parts.response()


def test_the_pieces_of_each_choice_are_put_together() -> None:
    assert whole(TWO_CHOICES) == {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 7,
        "model": "m",
        "usage": USAGE,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "four!", "reasoning": "2 and 2"},
                "logprobs": None,
                "finish_reason": "length",
            },
            {
                "index": 1,
                "message": {"role": "assistant", "content": "four"},
                "logprobs": None,
                "finish_reason": "stop",
            },
        ],
    }


def test_tool_calls_grow_by_their_place_and_stand_alone() -> None:
    [choice] = whole(TOOLS)["choices"]

    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"] == {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": "a",
                "type": "function",
                "function": {"name": "add", "arguments": '{"a": 1}'},
            },
            {"id": "b", "type": "function", "function": {"name": "sub", "arguments": "{}"}},
        ],
    }


def test_log_probabilities_and_token_ids_are_strung_together() -> None:
    [choice] = whole(LOGPROBS)["choices"]

    assert choice["text"] == "384"
    assert choice["logprobs"] == {
        "tokens": ["3", "8", "4"],
        "token_logprobs": [-0.5] * 3,
        "text_offset": [0, 1, 2],
    }
    assert choice["token_ids"] == [0, 1, 2]
    assert choice["prompt_token_ids"] == [9, 9]
    assert choice["finish_reason"] == "stop"


@pytest.mark.parametrize("chunks", [TWO_CHOICES, TOOLS, LOGPROBS], ids=["two", "tools", "log"])
def test_wherever_a_stream_breaks_off_the_rest_completes_it(chunks: list[dict[str, Any]]) -> None:
    response = whole(chunks)

    for num_seen in range(len(chunks)):
        seen = chunks[:num_seen]
        rest = rest_of(response, whole(seen) if seen else None)

        assert whole([*seen, *rest]) == response
        assert [bool(chunk["choices"]) for chunk in rest] == [True, False]
        assert rest[-1]["usage"] == USAGE


@pytest.mark.parametrize("body", [{}, {"object": "list", "data": []}, {"choices": "none"}])
def test_what_has_no_choices_has_no_chunks(body: dict[str, Any]) -> None:
    assert rest_of(body) == []
