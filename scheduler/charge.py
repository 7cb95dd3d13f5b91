"""Charge: how many tokens a request is charged with at the door, its prompt's and its output's.

The output is what the request asks for, for each of its answers. A request that does not say how
much it wants is charged with what answers of its tier have on average. The prompt's tokens are
those that were counted with the model's tokenizer; where they were not, four characters are one.
"""

from collections.abc import Iterator
from typing import Any

from scheduler.jobs import Request
from scheduler.limits import MOST_TOKENS
from scheduler.work import CHARACTERS_PER_TOKEN

_PROMPTS = ("prompt", "messages", "input", "instructions", "tools")
_ASKED = ("max_completion_tokens", "max_tokens", "max_output_tokens")
_ANSWERS = ("n", "best_of")


def tokens_of(request: Request, prompt_tokens: int | None, mean_output: float) -> int:
    """Return the tokens of a request, 1 at least; `mean_output`: of answers of its tier."""
    body = request["body"]
    prompt = _prompt_tokens(body) if prompt_tokens is None else prompt_tokens
    answers = max(_count(body, _ANSWERS) or 1, 1) * _num_prompts(body.get("prompt"))
    output = 0.0
    if not request["endpoint"].endswith("/embeddings"):
        asked = _count(body, _ASKED)
        output = answers * (mean_output if asked is None else asked)
    return max(1, min(round(prompt + output), MOST_TOKENS))


def _count(body: dict[str, Any], names: tuple[str, ...]) -> int | None:
    """Return the largest number that is given under one of `names`."""
    given = [body.get(name) for name in names]
    numbers = [number for number in given if isinstance(number, int) and number > 0]
    return max(numbers, default=None)


def _num_prompts(prompt: Any) -> int:
    """Return how many prompts there are: a list has one each, but for one of token ids."""
    if not isinstance(prompt, list) or all(isinstance(part, int) for part in prompt):
        return 1
    return len(prompt)


def _prompt_tokens(body: dict[str, Any]) -> int:
    characters = ids = 0
    for leaf in _leaves([body.get(name) for name in _PROMPTS]):
        if isinstance(leaf, str):
            characters += len(leaf)
        elif isinstance(leaf, int):
            ids += 1
    return ids + round(characters / CHARACTERS_PER_TOKEN)


def _leaves(value: Any) -> Iterator[Any]:
    """Yield what is no list and no mapping."""
    waiting = [value]
    while waiting:
        match waiting.pop():
            case dict() as mapping:
                waiting.extend(mapping.values())
            case list() as parts:
                waiting.extend(parts)
            case leaf:
                yield leaf
