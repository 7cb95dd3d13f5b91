"""The gate's policy: who joins a step, by mode, floor and due times."""

import itertools
import json
import math
import random
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from config.settings import ROOT, Settings
from gpu_worker.gate_policy import (
    FLOOR_MEMORY,
    GAINING,
    IN_HAND,
    MOST_AHEAD,
    PERIOD,
    RUN,
    Gate,
    GateOptions,
    High,
    Steps,
    StepTime,
    gate_options,
)

STRICT = GateOptions(mode="strict", floor=0)
SLO = GateOptions(mode="slo", floor=0, ttft_s=1.0, tpot_s=0.1, margin=0.9)
MODES = [STRICT, GateOptions(mode="share"), replace(SLO, tpot_s=0.001)]
SHIPPED = (ROOT / "config" / "tiers.yaml").read_text(encoding="utf-8")
OBJECTIVES = "{ttft_s: 1.0, tpot_ms: 100, start_within_s: 30}"

sizes = st.integers(1, 16_384)
seconds = st.floats(0.0001, 10)
instants = st.floats(0, 1000)


def late() -> list[High]:
    """Return a high request that is behind whatever happens."""
    return [High(arrival_at=-1000, first_token_at=-999, num_tokens=1)]


def joined(gate: Gate, num_steps: int) -> list[bool]:
    """Return which steps, all with a high request that is late, low ones join."""
    for num_tokens in (1, 101):
        gate.steps.time.learn(num_tokens, 0.01 * num_tokens)
    return [gate.opens(0.0, late(), 8) for _ in range(num_steps)]


def lengths(steps: Iterable[bool]) -> list[int]:
    """Return how many steps at a time low ones join, the first and the last time aside."""
    runs = [(is_open, len([*run])) for is_open, run in itertools.groupby(steps)]
    return [length for is_open, length in runs[1:-1] if is_open]


def swing(share: float) -> float:
    """Return how many steps are owed more before a run than after it."""
    return max(RUN, PERIOD * share) * (1 - share)


# What a step takes


def test_before_any_step_was_measured_a_step_takes_no_time() -> None:
    assert StepTime().of(1000) == 0


@given(st.floats(0, 0.1), st.floats(0, 0.001), st.lists(sizes, min_size=2, unique=True), sizes)
def test_a_steps_time_is_read_off_the_line_through_the_measured_ones(
    base: float, slope: float, measured: list[int], asked: int
) -> None:
    time = StepTime()
    for num_tokens in measured:
        time.learn(num_tokens, base + slope * num_tokens)

    assert time.of(asked) == pytest.approx(base + slope * asked, rel=1e-3, abs=1e-3)


@given(sizes, st.lists(seconds, min_size=1, max_size=300), sizes)
@example(num_tokens=8191, took=[0.1, 0.3, 0.2] * 100, asked=1)
def test_steps_of_one_size_tell_nothing_of_other_sizes(
    num_tokens: int, took: list[float], asked: int
) -> None:
    time = StepTime()
    for took_s in took:
        time.learn(num_tokens, took_s)

    assert min(took) * 0.999 <= time.of(asked) <= max(took) * 1.001


def test_a_longer_step_is_never_expected_to_take_less() -> None:
    time = StepTime()
    for num_tokens, took_s in [(1, 1.0), (1000, 0.1)]:
        time.learn(num_tokens, took_s)

    assert time.of(2000) >= time.of(1)


def test_a_slower_engine_is_noticed_within_a_few_hundred_steps() -> None:
    time = StepTime()
    for took_s in [0.01] * 1000 + [0.1] * 300:
        time.learn(8, took_s)

    assert time.of(8) == pytest.approx(0.1, rel=0.01)


@pytest.mark.parametrize(
    ("before", "now", "done_at"),
    [
        ([], 5.0, 6.0),
        ([5.0], 5.0, 7.0),
        ([4.5], 5.0, 6.5),
        ([5.0, 5.0], 5.0, 8.0),
        ([1.0], 5.0, 6.0),
    ],
    ids=["idle", "behind one", "behind one that is half done", "behind two", "behind an overdue"],
)
def test_a_step_is_done_after_those_on_their_way(
    before: list[float], now: float, done_at: float
) -> None:
    steps = Steps()
    steps.time.learn(8, 1.0)
    for scheduled_at in before:
        steps.scheduled(scheduled_at, 8)

    assert steps.begins_at(now) + steps.time.of(8) == pytest.approx(done_at)


def test_a_step_that_waited_for_another_is_not_measured_with_its_wait() -> None:
    steps = Steps()
    steps.scheduled(0.0, 8)
    steps.scheduled(0.1, 8)

    steps.done(1.0)
    steps.done(2.0)

    assert steps.time.of(8) == pytest.approx(1.0)


# Modes


def test_strict_never_opens() -> None:
    gate = Gate(STRICT)

    assert sum(joined(gate, 1000)) == 0


@pytest.mark.parametrize("share", [0.01, 0.25, 0.6, 0.99])
def test_share_opens_that_share_of_the_steps(share: float) -> None:
    gate = Gate(GateOptions(mode="share", share=share, floor=0))

    assert sum(joined(gate, 2000)) == pytest.approx(share * 2000, abs=swing(share) / 2 + 1)


def test_a_share_of_all_opens_every_step() -> None:
    assert sum(joined(Gate(GateOptions(mode="share", share=1.0, floor=0)), 1000)) == 1000


def test_a_share_of_none_opens_no_step() -> None:
    assert sum(joined(Gate(GateOptions(mode="share", share=0, floor=0)), 1000)) == 0


@given(
    st.lists(st.tuples(instants, instants | st.none(), st.integers(0, 100)), max_size=5),
    instants,
    sizes,
    st.lists(st.tuples(sizes, seconds), max_size=5),
)
def test_slo_opens_only_if_no_high_token_will_be_late_then_or_soon(
    highs: list[tuple[float, float | None, int]],
    now: float,
    num_tokens: int,
    measured: list[tuple[int, float]],
) -> None:
    gate = Gate(SLO)
    for size, took_s in measured:
        gate.steps.time.learn(size, took_s)
    takes_s = gate.steps.time.of(num_tokens)
    in_hands = [
        (first_at is None, (arrival_at + 0.9 if first_at is None else first_at + num * 0.09) - now)
        for arrival_at, first_at, num in highs
    ]

    says = gate.opens(now, [High(*high) for high in highs], num_tokens)

    spare = [
        in_hand if is_first else max(in_hand - IN_HAND * 0.09, min(in_hand, GAINING * 0.09))
        for is_first, in_hand in in_hands
    ]
    ahead_s = min(RUN * max(0.0, takes_s - 0.09), MOST_AHEAD * 0.09)
    assert says == all(takes_s + ahead_s <= spare_s for spare_s in spare)


@pytest.mark.parametrize(("t_all", "run"), [(0.24, 3.5), (0.12, 10), (0.1, 14)])
def test_slo_spends_what_the_objectives_leave_in_runs(t_all: float, run: float) -> None:
    gate, rng, now, tokens_at = Gate(SLO), random.Random(1), 0.0, [0.0]
    is_open = []
    for num_tokens, took_s in [(1, 0.014), (57, t_all)] * 20:
        gate.steps.time.learn(num_tokens, took_s)

    for num_tokens in range(1, 1000):
        is_open.append(gate.opens(now, [High(-0.5, 0.0, num_tokens)], 57))
        gate.steps.scheduled(now, 57 if is_open[-1] else 1)
        now += (t_all if is_open[-1] else 0.014) * rng.uniform(0.8, 1.2)
        gate.steps.done(now)
        tokens_at.append(now)

    runs = lengths(is_open)
    assert all(at <= n * SLO.tpot_s for n, at in enumerate(tokens_at))
    assert now == pytest.approx(999 * SLO.margin * SLO.tpot_s, rel=0.02)
    assert sum(runs) / len(runs) == pytest.approx(run, rel=0.3)


def test_slo_paces_a_high_request_at_its_objective_and_no_slower() -> None:
    gate, now = Gate(SLO), 0.0
    gate.steps.time.learn(1, 0.01)
    gate.steps.time.learn(101, 0.05)
    tokens_at: list[float] = []
    num_open = 0

    for num_tokens in range(200):
        first_at = tokens_at[0] if tokens_at else None
        is_open = gate.opens(now, [High(0.0, first_at, num_tokens)], 101)
        now += 0.05 if is_open else 0.01
        tokens_at.append(now)
        num_open += is_open

    assert tokens_at[0] <= SLO.ttft_s
    assert all(at <= tokens_at[0] + n * SLO.tpot_s for n, at in enumerate(tokens_at))
    assert num_open == 200, "a step of both takes half of the objective"


# The floor


@pytest.mark.parametrize("options", MODES, ids=lambda options: options.mode)
@pytest.mark.parametrize("floor", [0.001, 0.01, 0.05, 0.3, 0.9])
def test_a_high_tier_that_never_pauses_loses_the_floor(options: GateOptions, floor: float) -> None:
    gate = Gate(replace(options, floor=floor))

    assert sum(joined(gate, 20_000)) == pytest.approx(floor * 20_000, abs=swing(floor) / 2 + 1)


@pytest.mark.parametrize("paid", ["floor", "share"])
@pytest.mark.parametrize(
    ("share", "run", "period"), [(0.05, 8, 160), (0.25, 16, 64), (0.5, 32, 64), (0.75, 48, 64)]
)
def test_a_share_is_paid_in_runs(paid: str, share: float, run: int, period: int) -> None:
    gate = Gate(replace(STRICT, mode="share", **{paid: share}))

    runs = lengths(joined(gate, 2000))

    assert run <= min(runs) <= max(runs) <= run + 1 / (1 - share)
    assert len(runs) == pytest.approx(2000 / period, abs=3)


def test_high_ones_may_be_starting_in_a_step_that_pays_the_floor() -> None:
    gate = Gate(replace(STRICT, floor=0.05))

    owes = [gate.opens(0.0, late(), 8) == gate.owes for _ in range(1000)]

    assert all(owes)


@pytest.mark.parametrize("options", MODES, ids=lambda options: options.mode)
@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from([0.02, 0.05, 0.5]),
    st.lists(st.tuples(st.booleans(), st.integers(1, 300)), max_size=5),
)
def test_steps_without_high_ones_pay_the_floor_for_so_many_steps_ahead_and_no_more(
    options: GateOptions, floor: float, phases: list[tuple[bool, int]]
) -> None:
    gate = Gate(replace(options, floor=floor))
    for is_free, num_steps in phases:
        for _ in range(num_steps if is_free else 0):
            gate.passed_freely()
        joined(gate, 0 if is_free else num_steps)

    said = joined(gate, 2 * FLOOR_MEMORY)

    most_ahead = max(FLOOR_MEMORY, swing(floor) / floor)
    assert any(said[: math.ceil(most_ahead + swing(floor) / 2 / floor) + 1])
    assert sum(said) >= floor * (len(said) - most_ahead) - swing(floor) / 2 - 1


def test_a_high_tier_that_pauses_often_enough_never_meets_the_floor() -> None:
    gate = Gate(replace(STRICT, floor=0.05))
    met = 0

    for _ in range(100):
        for _ in range(10):
            gate.passed_freely()
        met += sum(joined(gate, 150))

    assert met == 0


# Options


def options_of(tmp_path: Path, text: str = SHIPPED, **fields: Any) -> GateOptions | None:
    path = tmp_path / "tiers.yaml"
    path.write_text(text, encoding="utf-8")
    return gate_options(Settings(tiers_file=path, **fields))


def test_the_shipped_table_gates_by_the_objectives_of_its_high_tier(tmp_path: Path) -> None:
    options = options_of(tmp_path, reserve_seats=3)

    assert options == GateOptions("slo", 0.0, 0.05, 0, ttft_s=1.0, tpot_s=0.1, reserve=3)
    assert GateOptions(**json.loads(json.dumps(asdict(options)))) == options


@pytest.mark.parametrize(
    ("gate", "objectives", "mode", "share"),
    [
        ("slo", OBJECTIVES, "slo", 0.0),
        ("slo", "{}", "strict", 0.0),
        ("slo", "{ttft_s: 1.0}", "strict", 0.0),
        ("slo", "{tpot_ms: 100}", "strict", 0.0),
        ("strict", OBJECTIVES, "strict", 0.0),
        ("share:0.25", OBJECTIVES, "share", 0.25),
        ("share:1", "{}", "share", 1.0),
    ],
)
def test_the_mode_follows_from_the_setting_and_the_objectives(
    tmp_path: Path, gate: str, objectives: str, mode: str, share: float
) -> None:
    options = options_of(tmp_path, SHIPPED.replace(OBJECTIVES, objectives), gate=gate)

    assert options is not None
    assert (options.mode, options.share) == (mode, share)


def test_there_is_nothing_to_gate_where_it_is_off_or_all_tiers_share_a_queue(
    tmp_path: Path,
) -> None:
    lines = SHIPPED.replace("[high, low]", "[low]").replace("queue: high", "queue: low")
    begin, end = lines.index("  high:"), lines.index("  low:")

    assert options_of(tmp_path, gate="off") is None
    assert options_of(tmp_path, lines[:begin] + lines[end:]) is None


def test_slo_lets_a_step_have_as_many_tokens_as_are_in_time() -> None:
    gate = Gate(GateOptions(mode="slo", ttft_s=1.0, tpot_s=0.1, margin=1.0))
    for num_tokens in (10, 100) * 50:
        gate.steps.time.learn(num_tokens, 0.01 + num_tokens * 0.001)

    most = gate.most_tokens(5.0, [High(4.0, 4.9, 3)])  # due at 5.2, of which 0.1 s are kept

    assert most == pytest.approx(90, rel=0.01)
    assert 5.0 + gate.steps.time.of(int(most)) <= 5.1
    assert gate.most_tokens(5.0, []) == math.inf
