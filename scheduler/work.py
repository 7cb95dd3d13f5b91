"""Work: what a request will cost, in output tokens, before anybody has run it.

How long an answer gets is learnt per tier, as a share of the `max_tokens` that are asked for; until
something is learnt, all of them. A prompt is read many tokens at a time, so that each costs about a
tenth of one written.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scheduler.jobs import Request
from scheduler.rates import TierRates

PROMPT_TOKEN = 0.1
CHARACTERS_PER_TOKEN = 4
UNKNOWN_OUTPUT = 256.0
MAX_TOKENS = ("max_completion_tokens", "max_tokens", "max_output_tokens")
"""What endpoints call the tokens of output that are asked for."""


@dataclass(frozen=True, slots=True)
class Size:
    """What is expected of a request; `output` and its deviation in tokens."""

    work: int
    output: float
    output_sd: float


def size(request: Request, learnt: TierRates | None = None) -> Size:
    """Return what to expect of `request`, by what workers measured of its tier."""
    body = request["body"]
    output, deviation = _output(max_tokens(body), learnt or TierRates())
    prompt = len(_prompt(body)) / CHARACTERS_PER_TOKEN
    return Size(max(1, round(actual(prompt, output))), output, deviation)


def actual(prompt_tokens: float, output_tokens: float) -> float:
    """Return the work that so many tokens are."""
    return PROMPT_TOKEN * prompt_tokens + output_tokens


def max_tokens(body: Mapping[str, Any]) -> int | None:
    """Return the tokens of output that a request asks for, by whichever name; None if by none."""
    asked = next((body[name] for name in MAX_TOKENS if body.get(name)), None)
    return asked if isinstance(asked, int) and asked > 0 else None


def _output(max_tokens: int | None, learnt: TierRates) -> tuple[float, float]:
    if max_tokens is None:
        return learnt.output.mean or UNKNOWN_OUTPUT, math.sqrt(learnt.output.variance)
    share = 1.0 if learnt.share.mean is None else min(1.0, learnt.share.mean)
    return share * max_tokens, math.sqrt(learnt.share.variance) * max_tokens


def _prompt(body: dict[str, Any]) -> str:
    """Return the text of a prompt, of all messages, or of an input."""
    if isinstance(prompt := body.get("prompt"), str):
        return prompt
    messages = body.get("messages") or body.get("input")
    if not isinstance(messages, list):
        return messages if isinstance(messages, str) else ""
    return "".join(str(m.get("content") or "") for m in messages if isinstance(m, dict))
