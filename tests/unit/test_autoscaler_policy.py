"""The autoscaler's decision, as a table."""

import pytest

from config.tiers import Autoscale
from scheduler.autoscaler.policy import Add, Drain, Hold, Measured, Memory, decide

RULE = Autoscale(
    workers_serve=["low"],
    scale_up_at=100,
    scale_down_at=10,
    min_workers=1,
    max_workers=3,
    cooldown_s=60,
)
LONG_LOW = Memory(low_since=0.0, changed_at=0.0)


@pytest.mark.parametrize(
    ("measured", "memory", "expected"),
    [
        (Measured(waiting=101, in_flight=0, num_workers=1, num_ours=0), Memory(), Add),
        (Measured(waiting=60, in_flight=60, num_workers=1, num_ours=0), Memory(), Add),
        (Measured(waiting=150, in_flight=0, num_workers=2, num_ours=1), Memory(), Hold),
        (Measured(waiting=900, in_flight=0, num_workers=3, num_ours=2), Memory(), Hold),
        (Measured(waiting=0, in_flight=0, num_workers=0, num_ours=0), Memory(), Add),
        (Measured(waiting=0, in_flight=0, num_workers=2, num_ours=1), Memory(), Hold),
        (Measured(waiting=0, in_flight=0, num_workers=2, num_ours=1), LONG_LOW, Drain),
        (Measured(waiting=0, in_flight=0, num_workers=2, num_ours=0), LONG_LOW, Hold),
        (Measured(waiting=0, in_flight=0, num_workers=1, num_ours=1), LONG_LOW, Hold),
        (Measured(waiting=0, in_flight=50, num_workers=2, num_ours=1), LONG_LOW, Hold),
    ],
    ids=[
        "deep: add",
        "in flight counts: add",
        "deep only in total: hold",
        "deep at the maximum: hold",
        "below the minimum: add",
        "low just now: hold",
        "low for the cool-down: drain",
        "low, none of ours: hold",
        "low at the minimum: hold",
        "in flight is not idle: hold",
    ],
)
def test_decision(measured: Measured, memory: Memory, expected: type) -> None:
    decision, _ = decide(RULE, measured, memory, now=100.0)

    assert isinstance(decision, expected), decision


def test_a_change_starts_the_cool_down_again() -> None:
    idle = Measured(waiting=0, in_flight=0, num_workers=3, num_ours=2)

    first, memory = decide(RULE, idle, LONG_LOW, now=100.0)
    second, memory = decide(RULE, idle, memory, now=101.0)
    third, _ = decide(RULE, idle, memory, now=161.0)

    assert [type(d) for d in (first, second, third)] == [Drain, Hold, Drain]


def test_one_deep_moment_starts_the_cool_down_again() -> None:
    idle = Measured(waiting=0, in_flight=0, num_workers=2, num_ours=1)
    busy = Measured(waiting=40, in_flight=0, num_workers=2, num_ours=1)

    _, memory = decide(RULE, busy, LONG_LOW, now=100.0)
    decision, _ = decide(RULE, idle, memory, now=101.0)

    assert isinstance(decision, Hold)
