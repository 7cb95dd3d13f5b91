"""A worker's capacity is measured while jobs wait for it, in the work that its jobs were."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gpu_worker.admission import Admission
from gpu_worker.endings import Ending, Finished, Stopped
from gpu_worker.pace import Pace
from scheduler.claim import Claim
from scheduler.estimate import Forecast, Promise, Span
from scheduler.jobs import FIRST_TOKEN_AT, FUNCTION
from scheduler.line import Place
from scheduler.rates import NO_TIER
from scheduler.scores import Scored

BEGAN = datetime(2026, 11, 21, tzinfo=UTC)
PROMISE = Promise(BEGAN.timestamp() - 5, Forecast(Span(5, 1), Span(6, 1)), 6.0, 7.0)
AT_ONCE = Promise(BEGAN.timestamp(), Forecast(Span(0, 1), Span(1, 1)), 0.1, 2.0)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def claim(
    function: str = FUNCTION, tier: object = "batch", max_tokens: int | None = 200, work: int = 50
) -> Claim:
    """Return a claim of a job that took 3 s, 1 s of them to its first token."""
    body: dict[str, Any] = {"prompt": "x", "max_tokens": max_tokens}
    job = SimpleNamespace(
        func_name=function,
        meta={"tier": tier, FIRST_TOKEN_AT: (BEGAN + timedelta(seconds=1)).isoformat()},
        args=[{"endpoint": "/v1/completions", "body": body}],
        ended_at=BEGAN + timedelta(seconds=3),
    )
    place = Place(1, 0, work, "low")
    return Claim(cast(Any, job), "e", "low", BEGAN, place=place, promise=PROMISE)


def answer(prompt: int = 0, output: int = 101) -> Finished:
    return Finished({"usage": {"prompt_tokens": prompt, "completion_tokens": output}})


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pace(clock: Clock) -> Pace:
    admission = Admission(8, ["high", "low"], high_queue="high", reserve=1)
    return Pace(admission, ["premium", "batch"], clock=clock)


def end(pace: Pace, clock: Clock, count: int, *, each_s: float, is_backlogged: bool) -> None:
    for _ in range(count):
        clock.now += each_s
        pace.ended(claim(), answer(), is_backlogged=is_backlogged)


def test_capacity_is_the_work_done_while_jobs_wait(pace: Pace, clock: Clock) -> None:
    end(pace, clock, 50, each_s=0.5, is_backlogged=True)

    rates, _ = pace.report()

    assert rates.work / rates.busy_s == pytest.approx(101 / 0.5, rel=0.01)
    assert rates.work / rates.jobs == pytest.approx(101)


def test_idle_times_tell_nothing_of_the_capacity(pace: Pace, clock: Clock) -> None:
    end(pace, clock, 20, each_s=0.5, is_backlogged=True)
    end(pace, clock, 20, each_s=30, is_backlogged=False)
    end(pace, clock, 20, each_s=0.5, is_backlogged=True)

    rates, _ = pace.report()

    assert rates.work / rates.busy_s == pytest.approx(101 / 0.5, rel=0.01)


def test_what_a_queue_obtains_fades_with_time(pace: Pace, clock: Clock) -> None:
    end(pace, clock, 600, each_s=0.5, is_backlogged=True)
    busy, _ = pace.report()
    clock.now += 600
    idle, _ = pace.report()

    assert busy.obtained["low"] == pytest.approx(101 / 0.5, rel=0.05)
    assert idle.obtained["low"] < 0.01


def test_a_tier_is_learnt_by_tokens(pace: Pace, clock: Clock) -> None:
    pace.ended(claim(max_tokens=100), answer(output=50), is_backlogged=False)
    pace.ended(claim(max_tokens=300), answer(output=30), is_backlogged=False)
    pace.ended(claim(max_tokens=None), answer(output=101), is_backlogged=False)

    tier = pace.report()[0].tiers["batch"]

    assert tier.share.mean == pytest.approx(80 / 400, rel=0.01)
    assert tier.first_token_s.mean == pytest.approx(1)
    assert tier.token_s.count == pytest.approx(3, rel=0.01)


@pytest.mark.parametrize("tier", [None, "of my own"])
def test_what_is_in_no_tier_of_the_table_is_learnt_together(pace: Pace, tier: object) -> None:
    pace.ended(claim(tier=tier), answer(), is_backlogged=False)

    assert list(pace.report()[0].tiers) == [NO_TIER]


def test_the_prompt_is_work_too(pace: Pace) -> None:
    pace.ended(claim(work=60), answer(prompt=200, output=40), is_backlogged=False)

    assert pace.report()[0].surprise.mean == pytest.approx(1)


@pytest.mark.parametrize(
    ("taken", "ending"),
    [(claim("tests.callables.add"), Finished(3)), (claim(), Stopped())],
    ids=["another callable", "stopped"],
)
def test_only_answers_are_measured(pace: Pace, taken: Claim, ending: Ending) -> None:
    pace.ended(taken, ending, is_backlogged=True)

    rates, scores = pace.report()
    assert (rates.tiers, rates.obtained, scores) == ({}, {}, {})


def test_promises_to_those_who_waited_are_scored(pace: Pace, clock: Clock) -> None:
    end(pace, clock, 7, each_s=1, is_backlogged=True)
    pace.ended(replace(claim(), promise=AT_ONCE), answer(), is_backlogged=True)
    pace.ended(replace(claim(), promise=None), answer(), is_backlogged=True)

    assert pace.report()[1] == {"low": Scored([(0.0, 2.0)] * 7, late=(0, 7))}
    assert pace.report()[1] == {}


def test_the_limits_of_the_worker_are_told(pace: Pace) -> None:
    rates, _ = pace.report()

    assert rates.most == {"high": 9, "low": 7}
    assert rates.refill == 1
