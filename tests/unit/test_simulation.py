"""The simulated scheduler: its traffic, its policies one property each, its figures."""

import itertools
import math
import random

import pytest

from benchmarks.simulation.door import Door
from benchmarks.simulation.engine import ENGINE, STEP_COST
from benchmarks.simulation.feasible import late_jobs
from benchmarks.simulation.figures import Simulation
from benchmarks.simulation.jobs import Job, Promise
from benchmarks.simulation.loop import Loop, Start
from benchmarks.simulation.policies import Ungated
from benchmarks.simulation.slalom import PROMOTION, Low, Slalom
from benchmarks.simulation.workload import (
    BATCH_SIZE,
    CODE_INPUT,
    CONVERSATION_INPUT,
    CONVERSATION_OUTPUT,
    SHARES,
    Quantiles,
    Workload,
)
from gpu_worker.gate_policy import RUN
from gpu_worker.step_model import ContinuousBatch

PROMISES = Promise.of_all(600.0)
SPAN_S = 60.0


def a_job(tier: str, submitted_at: float = 0.0, prompt: int = 500, output: int = 20) -> Job:
    return Job(prompt, output, promise=PROMISES[tier], submitted_at=submitted_at)


def slalom(batch: ContinuousBatch) -> Slalom:
    return Slalom(batch, PROMISES)


def fcfs(batch: ContinuousBatch) -> Ungated:
    return Ungated(batch, by_priority=False)


def run(start: Start, jobs: list[Job], until: float = 1e6) -> Loop:
    return Loop(iter(jobs), start, until).run()


@pytest.mark.parametrize("table", [CONVERSATION_INPUT, CONVERSATION_OUTPUT, CODE_INPUT])
def test_drawn_lengths_have_the_published_quantiles(table: Quantiles) -> None:
    rng = random.Random(1)

    drawn = sorted(table.draw(rng) for _ in range(20_000))

    for probability, length in table.points[1:-1]:
        assert table.at(probability) == length
        rank = sum(x <= length for x in drawn) / len(drawn)
        assert rank == pytest.approx(probability, abs=0.02)


def test_the_mean_lengths_are_near_the_published_ones() -> None:
    rng = random.Random(1)

    means = [
        sum(table.draw(rng) for _ in range(20_000)) / 20_000
        for table in (CONVERSATION_INPUT, CONVERSATION_OUTPUT, CODE_INPUT)
    ]

    assert means == pytest.approx([1154.7, 211.1, 2047.8], rel=0.05)


def test_traffic_has_its_rate_its_shares_and_its_bursts() -> None:
    workload = Workload(1, 20_000.0, PROMISES, SHARES)

    jobs = list(itertools.takewhile(lambda j: j.submitted_at < 1800, workload.jobs()))

    tokens = dict.fromkeys(SHARES, 0)
    for job in jobs:
        tokens[job.promise.tier] += job.num_all_tokens
    assert sum(tokens.values()) / 1800 == pytest.approx(20_000, rel=0.1)
    assert tokens["premium"] / sum(tokens.values()) == pytest.approx(SHARES["premium"], abs=0.05)
    assert variation(jobs, "premium") == pytest.approx(1.0, abs=0.1)
    assert variation(jobs, "standard") == pytest.approx(3.2, abs=0.6)
    dumps = itertools.groupby(j.submitted_at for j in jobs if j.promise.tier == "batch")
    assert {len(list(dump)) for _, dump in dumps} == {BATCH_SIZE}


def variation(jobs: list[Job], tier: str) -> float:
    """Return the coefficient of variation of the times between arrivals."""
    at = [job.submitted_at for job in jobs if job.promise.tier == tier]
    gaps = [b - a for a, b in itertools.pairwise(at)]
    mean = sum(gaps) / len(gaps)
    return math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) / mean


def test_a_seed_gives_the_same_run_again_and_another_seed_another_one() -> None:
    def goodput(seed: int) -> float:
        return Simulation(seed, SPAN_S).run("slalom", 20_000.0).goodput

    assert goodput(1) == goodput(1)
    assert goodput(1) != goodput(2)


@pytest.mark.parametrize("start", [fcfs, slalom])
def test_every_job_ends_once_or_is_in_the_engine_at_the_last_deadline(start: Start) -> None:
    traffic = Simulation(1, SPAN_S).traffic(35_000.0)

    loop = run(start, list(itertools.takewhile(lambda job: job.submitted_at < SPAN_S, traffic)))

    outcomes = loop.outcomes.values()
    ended = sum(len(o.ttfts) + o.refused + o.expired for o in outcomes)
    held = loop.batch.num_running + loop.batch.num_waiting
    assert ended + held == sum(o.submitted for o in outcomes) == len(loop.met)
    assert sum(loop.met) == sum(o.met for o in outcomes)


def test_attainment_counts_the_refused_and_the_expired_as_missed() -> None:
    result = Simulation(1, SPAN_S).run("slalom", 60_000.0)

    outcome = result.outcomes["batch"]

    assert outcome.refused + outcome.expired > 0
    assert outcome.attainment <= 1 - (outcome.refused + outcome.expired) / outcome.submitted


def test_fcfs_lets_a_high_job_wait_behind_low_ones_and_priority_and_slalom_do_not() -> None:
    def ttft_s(start: Start) -> float:
        low = [a_job("batch", output=400) for _ in range(800)]
        high = a_job("premium", submitted_at=2.0)
        run(start, [*low, high])
        return high.first_token_at - high.submitted_at

    assert ttft_s(fcfs) > 10
    assert ttft_s(slalom) < 1.0


def test_static_holds_no_more_low_jobs_than_its_limit() -> None:
    batch = ContinuousBatch(ENGINE, STEP_COST)
    policy = Ungated(batch, by_priority=True, max_low=4)
    for job in [*(a_job("batch") for _ in range(10)), a_job("premium")]:
        policy.submit(job, 0.0)

    policy.feed(0.0)

    assert batch.num_waiting == 5


def test_low_ones_are_left_out_of_steps_while_a_high_one_is_about_to_be_late() -> None:
    batch = ContinuousBatch(ENGINE, STEP_COST)
    policy = slalom(batch)
    policy.gate.steps.scheduled(0.0, 100)
    policy.gate.steps.done(0.05)
    policy.submit(a_job("batch"), 0.0)
    policy.feed(0.0)
    assert batch.plan() is not None
    batch.complete()
    high = a_job("premium", submitted_at=0.0)
    policy.submit(high, 0.0)

    assert policy.rule(0.1).run
    assert not policy.rule(0.91).run


def test_low_ones_get_their_floor_under_a_high_load_that_never_pauses() -> None:
    batch = ContinuousBatch(ENGINE, STEP_COST)
    policy = slalom(batch)
    policy.submit(a_job("batch"), 0.0)
    policy.feed(0.0)
    batch.plan()
    batch.complete()
    policy.submit(a_job("premium", submitted_at=-10.0), 0.0)  # late already: nothing is granted

    shares = [policy.rule(float(i)).run for i in range(1000)]

    assert sum(shares) == pytest.approx(50, abs=RUN / 2 + 1)


def test_a_high_job_finds_a_seat_in_an_engine_full_of_low_ones() -> None:
    batch = ContinuousBatch(ENGINE, STEP_COST)
    policy = slalom(batch)
    for _ in range(400):
        policy.submit(a_job("batch", prompt=1, output=500), 0.0)
    policy.feed(0.0)
    batch.plan()
    batch.complete()
    assert batch.num_running == ENGINE.seats

    policy.submit(a_job("premium"), 1.0)
    policy.rule(1.0)

    assert batch.num_running == ENGINE.seats - 1


def test_low_ones_go_by_deadline_and_a_lower_tier_passes_in_a_fifth_of_the_starts() -> None:
    low = Low(["standard", "batch"], PROMOTION)
    old = [a_job("batch", submitted_at=float(i)) for i in range(10)]
    for job in [*reversed(old), *(a_job("standard", submitted_at=580.0) for _ in range(80))]:
        low.add(job)

    early = [low.pop(500.0) for _ in range(20)]
    near = [low.pop(580.0) for _ in range(20)]

    assert {job.promise.tier for job in early} == {"standard"}
    passed = [job for job in near if job.promise.tier == "batch"]
    assert passed == old[: len(passed)]
    assert len(passed) == 7  # a fifth of the forty starts


def test_what_can_not_be_in_time_goes_behind_what_can_and_then_expires() -> None:
    low = Low(["standard", "batch"], PROMOTION)
    late, fresh = a_job("standard", submitted_at=0.0), a_job("standard", submitted_at=90.0)
    low.add(late)
    low.add(fresh)

    assert low.sift(100.0) == []
    assert low.pop(100.0) is fresh
    assert low.sift(601.0) == [late]
    assert not low


def test_an_expired_job_never_reaches_the_engine() -> None:
    jobs = [a_job("batch", output=2000) for _ in range(3000)]

    loop = run(slalom, jobs)

    assert 0 < loop.outcomes["batch"].expired == sum(job.order == 0 for job in jobs)


def test_the_door_refuses_once_the_work_ahead_takes_longer_than_the_deadline_allows() -> None:
    door = Door(horizon_s=30.0, rate=1000.0, ahead=26_000.0)

    assert door.admits(a_job("standard", prompt=900))
    assert not door.admits(a_job("standard", prompt=900))


def test_the_door_refuses_nobody_before_it_has_measured() -> None:
    door = Door(horizon_s=30.0, ahead=1e9)

    assert door.admits(a_job("standard"))


@pytest.mark.parametrize(
    ("jobs", "late"),
    [
        ([("batch", 0.0, 900)], set()),
        ([("batch", 0.0, 700_000)], {0}),
        ([("standard", 0.0, 20_000), ("standard", 0.0, 11_000)], {1}),
        ([("premium", 0.0, 20_000), ("standard", 0.0, 11_000)], {1}),
        ([("batch", 0.0, 580_000), ("standard", 100.0, 19_000)], set()),
    ],
    ids=["fits", "too long", "two too long", "high goes first", "the urgent goes first"],
)
def test_a_deadline_is_feasible_if_the_fluid_engine_meets_it(
    jobs: list[tuple[str, float, int]], late: set[int]
) -> None:
    traffic = [a_job(tier, at, prompt, output=1) for tier, at, prompt in jobs]

    assert late_jobs(traffic, rate=1000.0) == late
