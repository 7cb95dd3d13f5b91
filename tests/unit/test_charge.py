"""Charge: a request costs the tokens of its prompt and those that it asks for."""

from typing import Any

import pytest

from scheduler.charge import tokens_of
from scheduler.jobs import Request
from scheduler.limits import MOST_TOKENS

CHAT, TEXT, EMBED = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
MEAN = 100.0


@pytest.mark.parametrize(
    ("endpoint", "body", "counted", "tokens"),
    [
        (TEXT, {"prompt": "x" * 40, "max_tokens": 5}, None, 15),
        (TEXT, {"prompt": "x" * 40, "max_tokens": 5}, 7, 12),
        (TEXT, {"prompt": "x" * 40}, None, 110),
        (TEXT, {"prompt": "x" * 40, "max_tokens": 5, "n": 3}, None, 25),
        (TEXT, {"prompt": "x" * 40, "max_tokens": 5, "n": 1, "best_of": 4}, None, 30),
        (TEXT, {"prompt": ["x" * 40, "x" * 40], "max_tokens": 5}, None, 30),
        (TEXT, {"prompt": [1, 2, 3], "max_tokens": 5}, None, 8),
        (TEXT, {"prompt": [[1, 2], [3]], "max_tokens": 5}, None, 13),
        (CHAT, {"messages": [{"role": "user", "content": "x" * 36}], "max_tokens": 5}, None, 15),
        (CHAT, {"messages": [], "max_completion_tokens": 9, "max_tokens": 5}, None, 9),
        (CHAT, {"messages": [], "max_tokens": "5"}, None, 100),
        (EMBED, {"input": ["x" * 40, "x" * 40]}, None, 20),
        (EMBED, {}, None, 1),
        (TEXT, {"prompt": "", "max_tokens": 10**30, "n": 10**30}, None, MOST_TOKENS),
    ],
)
def test_a_request_costs_its_prompt_and_what_it_asks_for(
    endpoint: str, body: dict[str, Any], counted: int | None, tokens: int
) -> None:
    request = Request(endpoint=endpoint, body=body)

    assert tokens_of(request, counted, MEAN) == tokens


def test_a_body_that_is_nested_deeply_is_counted_too() -> None:
    deep: Any = "x" * 400
    for _ in range(5000):
        deep = [deep]

    assert tokens_of(Request(endpoint=EMBED, body={"input": deep}), None, MEAN) == 100
