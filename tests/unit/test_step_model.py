"""Continuous batching without a clock: what a step holds, how long it takes, who waits."""

import random

import pytest

from gpu_worker.step_model import ASIDE, Capacity, ContinuousBatch, Rule, Sequence, StepCost

COST = StepCost(step_s=1.0, prefill_token_s=0.1, decode_s=0.01, kv_token_s=0.001)


def batch(seats: int = 8, kv_tokens: int = 10_000, step_tokens: int = 100) -> ContinuousBatch:
    return ContinuousBatch(Capacity(seats, kv_tokens, step_tokens), COST)


def step(
    engine: ContinuousBatch, rule: Rule | None = None
) -> tuple[list[Sequence], list[Sequence]]:
    assert engine.plan(rule or Rule()) is not None
    return engine.complete()


def test_a_step_takes_what_its_prompts_its_decodes_and_their_kv_cost() -> None:
    engine = batch()
    engine.add(Sequence(30, 5))
    step(engine)
    engine.add(Sequence(20, 5))

    assert engine.plan() == pytest.approx(1.0 + 0.1 * 20 + 0.01 * 1 + 0.001 * 31)


def test_a_long_prompt_takes_several_steps_beside_those_that_decode() -> None:
    engine = batch(step_tokens=100)
    short, long = Sequence(10, 50), Sequence(250, 1)
    engine.add(short)
    step(engine)
    engine.add(long)

    firsts = [step(engine)[0] for _ in range(3)]

    assert firsts == [[], [], [long]]
    assert engine.open.ticks == 4


def test_what_waits_goes_by_priority_and_never_displaces_what_runs() -> None:
    engine = batch(seats=1)
    running, low, high = Sequence(5, 3), Sequence(5, 1, priority=9), Sequence(5, 1, priority=0)
    engine.add(running)
    step(engine)
    engine.add(low)
    engine.add(high)

    ended = [sequence for _ in range(4) for sequence in step(engine)[1]]

    assert ended == [running, high, low]


def test_gated_ones_set_aside_keep_seat_and_kv_and_get_nothing() -> None:
    engine = batch()
    low, high = Sequence(10, 5, is_gated=True), Sequence(10, 5)
    engine.add(low)
    step(engine)
    engine.add(high)

    step(engine, ASIDE)
    step(engine, ASIDE)

    assert (engine.gated.ticks, engine.gated.kv_tokens, engine.num_running) == (1, 11, 2)
    assert engine.kv_used == 11 + 12


def test_a_rule_bounds_gated_prompts_and_seats() -> None:
    engine = batch(step_tokens=100)
    for _ in range(4):
        engine.add(Sequence(30, 5, is_gated=True))

    engine.plan(Rule(prompt_tokens=50))
    assert engine.num_planned == 50
    engine.complete()
    engine.plan(Rule(seats=2))

    assert engine.num_running == 2


def test_short_of_kv_the_least_urgent_is_preempted_and_computed_again() -> None:
    engine = batch(kv_tokens=40)
    first, second = Sequence(10, 20), Sequence(10, 20)
    engine.add(first)
    engine.add(second)

    ended = []
    while engine.plan() is not None:
        ended += engine.complete()[1]

    assert ended == [first, second]
    assert engine.num_preemptions > 0
    assert engine.kv_used == 0


def test_an_aborted_one_leaves_nothing() -> None:
    engine = batch(step_tokens=20, seats=2)
    decodes, prefills, waits = (Sequence(10, 5) for _ in range(3))
    prefills.prompt_tokens = 50
    for sequence in (decodes, prefills, waits):
        engine.add(sequence)
    step(engine)

    for sequence in (decodes, prefills, waits):
        engine.abort(sequence)

    assert engine.plan() is None
    assert (engine.kv_used, engine.num_running, engine.num_waiting) == (0, 0, 0)
    assert engine.open.missing == 0


def test_one_that_can_never_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="longer than the KV cache"):
        batch(kv_tokens=100).add(Sequence(90, 20))


@pytest.mark.parametrize("seed", range(5))
def test_no_seat_no_kv_and_no_token_is_given_twice_or_lost(seed: int) -> None:
    rng = random.Random(seed)
    engine = batch(seats=6, kv_tokens=300, step_tokens=40)
    sequences = [
        Sequence(rng.randint(1, 90), rng.randint(1, 60), rng.randint(0, 2), rng.random() < 0.5)
        for _ in range(60)
    ]
    waiting, ended, planned = list(sequences), [], 0

    while True:
        if waiting and rng.random() < 0.3:
            engine.add(waiting.pop())
        rule = rng.choice([Rule(), ASIDE, Rule(prompt_tokens=7)])
        if engine.plan(rule) is None and engine.plan() is None:
            if not waiting:
                break
            continue
        assert engine.num_running <= 6
        assert 0 < engine.num_planned <= 40
        planned += engine.num_planned
        ended += engine.complete()[1]
        assert engine.kv_used <= 300

    assert sorted(map(id, ended)) == sorted(map(id, sequences))
    assert all(s.num_tokens == s.output_tokens for s in sequences)
    needed = sum(s.prompt_tokens + s.output_tokens - 1 for s in sequences)
    assert planned >= needed  # the rest was computed again
    assert (engine.kv_used, engine.open.kv_tokens, engine.gated.kv_tokens) == (0, 0, 0)
