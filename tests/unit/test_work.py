"""The work of a request is its prompt, cheaply, and what its tier taught of its answer."""

from typing import Any

import pytest

from scheduler.jobs import Request
from scheduler.rates import Moments, TierRates
from scheduler.work import size

LEARNT = TierRates(output=Moments(10, 300, 10_000), share=Moments(10, 5, 2.6))


@pytest.mark.parametrize(
    ("body", "learnt", "work"),
    [
        ({"prompt": "x" * 400, "max_tokens": 100}, None, 110),
        ({"prompt": "x" * 400, "max_tokens": 100}, LEARNT, 60),
        ({"prompt": "x" * 400, "max_completion_tokens": 100}, LEARNT, 60),
        ({"messages": [{"role": "user", "content": "x" * 400}], "max_tokens": 100}, LEARNT, 60),
        ({"prompt": "x" * 400}, LEARNT, 40),
        ({"prompt": ""}, None, 256),
        ({"prompt": "x", "max_tokens": 1}, LEARNT, 1),
        ({"prompt": [1, 2], "messages": "?", "max_tokens": "many"}, LEARNT, 30),
        ({}, LEARNT, 30),
    ],
)
def test_work_is_what_is_expected_of_a_request(
    body: dict[str, Any], learnt: TierRates | None, work: int
) -> None:
    assert size(Request(endpoint="/v1/completions", body=body), learnt).work == work


def test_a_share_above_one_does_not_exceed_what_is_asked_for() -> None:
    learnt = TierRates(share=Moments(1, 3, 9))

    found = size(Request(endpoint="", body={"prompt": "", "max_tokens": 7}), learnt)

    assert found.output == 7
