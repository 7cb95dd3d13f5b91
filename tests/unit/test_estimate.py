"""An estimate grows with the work ahead, its quantiles are in order, and scores correct it."""

from typing import Any

import pytest

from scheduler.deadlines import Deadlines
from scheduler.estimate import (
    Forecast,
    Outlook,
    Promise,
    Span,
    forecast,
    miss,
    quantile_s,
)
from scheduler.line import Line, Place, QueueView
from scheduler.rates import Moments, Rates, TierRates, WorkerRates
from scheduler.scores import Scores
from scheduler.work import Size

SIZE = Size(work=50, output=50.0, output_sd=10.0)
SHARES = [0.01, 0.1, 0.5, 0.9, 0.99]
LATE = [0.01 * n for n in range(1000)]


def moments(*values: float) -> Moments:
    found = Moments()
    for value in values:
        found.add(value)
    return found


def worker(**changes: Any) -> WorkerRates:
    """Return a worker that does 10 jobs of 50 tokens a second and holds 30, in gulps of 10."""
    tier = TierRates(
        moments(40, 60, 40, 60, 40, 60), moments(0.4, 0.6), moments(1.0), moments(0.02)
    )
    known: dict[str, Any] = {
        "busy_s": 10.0,
        "jobs": 100.0,
        "work": 5000.0,
        "tiers": {"batch": tier},
    }
    known["surprise"] = moments(0.5, 1.5)
    return WorkerRates({"high": 30, "low": 30}, 10, **{**known, **changes})


def line(*waiting: int, inflight: int = 30, index: int | None = None) -> Line:
    """Return the line before one that comes to the last of the queues."""
    names = ("high", "low")[-len(waiting) :]
    queues = [
        QueueView(name, n, 0, n, 50 * n, None) for name, n in zip(names, waiting, strict=True)
    ]
    last = queues[-1]
    queues[-1] = QueueView(last.name, last.waiting, inflight, last.jobs, last.work, None)
    return Line(queues, len(queues) - 1, waiting[-1] if index is None else index)


def start(*waiting: int, inflight: int = 30, rates: Rates | None = None) -> Span:
    found = forecast(line(*waiting, inflight=inflight), rates or Rates([worker()]), SIZE, "batch")
    assert found
    return found.start


@pytest.mark.parametrize(
    ("waiting", "inflight", "start_s"),
    [
        ((0, 0), 0, 0.0),
        ((0, 0), 29, 0.0),
        ((0, 0), 30, 1.0),
        ((0, 9), 30, 1.0),
        ((0, 9), 26, 0.6),
        ((0, 10), 30, 2.0),
        ((0, 100), 30, 11.0),
        ((100, 0), 30, 11.0),
        ((50, 50), 30, 11.0),
    ],
)
def test_a_job_starts_when_as_many_have_ended_as_the_worker_claims_at_a_time(
    waiting: tuple[int, int], inflight: int, start_s: float
) -> None:
    assert start(*waiting, inflight=inflight).mean == pytest.approx(start_s)


def test_it_starts_no_sooner_behind_more_work() -> None:
    spans = [start(0, n) for n in range(0, 3000, 7)]

    means, deviations = [s.mean for s in spans], [s.sd for s in spans]
    assert means == sorted(means)
    assert deviations == sorted(deviations)


def test_it_starts_later_the_more_the_queues_above_take() -> None:
    busy = Rates([worker(obtained={"high": 250.0, "low": 250.0})])
    full = Rates([worker(obtained={"high": 9999.0})])

    assert start(0, 100, rates=busy).mean == pytest.approx(2 * start(0, 100).mean, rel=0.1)
    assert start(0, 100, rates=full).mean > 20 * start(0, 100).mean


def test_two_workers_are_twice_as_fast() -> None:
    two = Rates([worker(), worker()])

    assert start(0, 1000, inflight=60, rates=two).mean == pytest.approx(50, rel=0.05)


def test_a_worker_that_has_measured_nothing_is_thought_to_do_what_the_others_do() -> None:
    fresh = worker(busy_s=0.0, jobs=0.0, work=0.0)

    assert Rates([worker(), fresh]).capacity == 1000
    assert Rates([fresh]).capacity is None


def test_the_finish_comes_after_the_first_token_and_all_others() -> None:
    found = forecast(line(0, 0, inflight=0), Rates([worker()]), SIZE, "batch")

    assert found
    assert found.finish.mean == pytest.approx(1.0 + 50 * 0.02)
    assert found.finish.sd >= found.start.sd


@pytest.mark.parametrize(
    ("rates", "seen"),
    [
        (Rates([]), line(0, 50)),
        (Rates([]), line(0, 0, inflight=0)),
        (Rates([worker(tiers={})]), line(0, 50)),
        (Rates([worker(jobs=3.0)]), line(0, 50)),
        (Rates([worker(busy_s=0.5)]), line(0, 50)),
        (Rates([worker()]), Line(line(0, 5000).queues, 1, None)),
        (Rates([worker()]), Line(line(0, 0, inflight=0).queues, 1, None)),
        (Rates([worker()]), Line(line(0, 50).queues, 1, 50, is_suspended=True)),
    ],
    ids=[
        "no worker",
        "no worker, no line",
        "no tier",
        "few jobs",
        "short time",
        "no position",
        "just gone",
        "suspended",
    ],
)
def test_where_too_little_is_known_nothing_is_said(rates: Rates, seen: Line) -> None:
    assert forecast(seen, rates, SIZE, "batch") is None


def test_where_nobody_waits_the_capacity_need_not_be_known() -> None:
    found = forecast(line(0, 0, inflight=0), Rates([worker(busy_s=0.0)]), SIZE, "batch")

    assert found
    assert found.start.mean == 0


@pytest.mark.parametrize("scores", [(), (0.0, 1.0), LATE], ids=["none", "few", "many"])
def test_quantiles_are_ordered_and_never_past(scores: list[float]) -> None:
    found = [quantile_s(Span(1.0, 2.0), scores, share) for share in SHARES]

    assert found == sorted(found)
    assert found[0] >= 0


def test_scores_move_the_quantiles_to_where_they_held() -> None:
    assert quantile_s(Span(10, 2), LATE, 0.5) == pytest.approx(10 + 2 * 5.0, abs=0.2)
    assert quantile_s(Span(10, 2), LATE, 0.9) == pytest.approx(10 + 2 * 9.0, abs=0.2)
    assert quantile_s(Span(10, 2), (), 0.9) == pytest.approx(10 + 2 * 1.28, abs=0.01)


@pytest.mark.parametrize("scores", [(), LATE], ids=["none", "many"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_deadline_at_a_quantile_is_missed_by_the_rest(scores: list[float], share: float) -> None:
    span = Span(100, 10)

    assert miss(span, scores, quantile_s(span, scores, share)) == pytest.approx(1 - share, abs=0.02)


def test_the_worse_of_two_deadlines_counts() -> None:
    outlook = Outlook(1000.0, SIZE, 5, 1.0, 1.0, Forecast(Span(10, 1), Span(60, 1)))

    assert outlook.miss(Deadlines()) == 0
    assert outlook.miss(Deadlines(start_by=1100, finish_by=1200)) < 0.01
    assert outlook.miss(Deadlines(start_by=1005, finish_by=1200)) > 0.99
    assert outlook.miss(Deadlines(start_by=1100, finish_by=1030)) > 0.99


def test_a_promise_is_read_as_it_was_written_and_scored_by_its_deviations() -> None:
    promise = Promise(1000.5, Forecast(Span(10, 2), Span(20, 4)), 13.0, 25.0)

    assert Promise.read(promise.text()) == promise
    assert promise.score(1000.5 + 14, 1000.5 + 16) == (2.0, -1.0)
    assert promise.is_late(1000.5 + 14, 1000.5 + 16) == (True, False)
    assert promise.is_late(1000.5 + 13, 1000.5 + 26) == (False, True)
    for damaged in ("nonsense", "1.0 2.0 3.0 4.0 5.0", "1 2 3 4 5 6 7 8", None):
        assert Promise.read(damaged) is None


def test_a_p90_is_the_share_of_the_scores_that_was_learnt() -> None:
    wide = Scores(LATE, LATE, start_p90=0.98, finish_p90=0.8)
    outlook = Outlook(0.0, SIZE, 5, 1.0, 1.0, Forecast(Span(10, 2), Span(20, 2)), wide)

    assert outlook.start_s(0.9) == pytest.approx(10 + 2 * 9.8, abs=0.2)
    assert outlook.start_s(0.5) == pytest.approx(10 + 2 * 5.0, abs=0.2)
    assert outlook.finish_s(0.9) == pytest.approx(20 + 2 * 8.0, abs=0.2)
    assert outlook.promise
    assert (outlook.promise.start_p90_s, outlook.promise.finish_p90_s) == (
        outlook.start_s(0.9),
        outlook.finish_s(0.9),
    )


PLACES = [Place(n, 10 * n, 10, "low") for n in range(5001)]


@pytest.mark.parametrize(
    ("waiting", "index", "place", "mark", "position"),
    [
        (50, 7, None, None, 7),
        (4000, None, PLACES[2001], PLACES[1001], 2000),
        (2500, None, PLACES[3001], PLACES[1001], 2000),
        (4000, None, None, PLACES[1001], None),
        (4000, None, PLACES[900], PLACES[1001], None),
        (4000, None, PLACES[2001], None, None),
    ],
    ids=["near", "far", "half of them gone", "plain", "put at the end again", "no mark"],
)
def test_far_from_both_ends_the_position_is_interpolated(
    waiting: int, index: int | None, place: Place | None, mark: Place | None, position: int | None
) -> None:
    queue = QueueView("low", waiting, 0, 4000, 40_000, PLACES[1])

    assert Line([queue], 0, index, place, mark).position == position
