"""Estimate: when a waiting job will start and finish, with p50 and p90 that are held to account.

A fluid limit: before a job starts, the workers must end as much work as stands before it, at the
rate that the queues above its own leave them. A worker claims in gulps, which is allowed for. The
deviation comes from how far jobs were from what was expected of them, and from a drift of the rate.

That is a forecast: a mean and a deviation. A job keeps the one of its submission as its promise;
once it has ended, its worker notes by how many deviations it was late, its score. The quantiles of
recent scores, not those of a bell curve, turn later forecasts into p50 and p90 (normalised
conformal prediction): `scheduler.scores`.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Self

from scheduler.deadlines import Deadlines
from scheduler.line import Line, QueueView
from scheduler.rates import Rates
from scheduler.scores import P90, Scores
from scheduler.work import Size

DRIFT = 0.05
"""Deviation of the rate between now and then, as a share of it."""
LEAST_SD_S = 0.02
LEAST_SCORES = 50
LEAST_SEEN = 5
TOGETHER = 10
"""Scores that say no more than one, for jobs that wait together are late together. So many are
added to the rank of a quantile where conformal prediction adds one."""
_BELL = NormalDist()


@dataclass(frozen=True, slots=True)
class Span:
    """Seconds from now, as far as they are known."""

    mean: float
    sd: float


@dataclass(frozen=True, slots=True)
class Forecast:
    """When a job will start and finish."""

    start: Span
    finish: Span


@dataclass(frozen=True, slots=True)
class Promise:
    """The forecast of a job's submission at `made_at` (epoch s), which it keeps in its record."""

    made_at: float
    forecast: Forecast
    start_p90_s: float
    finish_p90_s: float

    @classmethod
    def read(cls, text: bytes | str | None) -> Self | None:
        """Return the promise in a job's record; None where there is none that can be read."""
        decoded = text.decode() if isinstance(text, bytes) else text or ""
        try:
            at, *spans = map(float, decoded.split())
            start, start_sd, finish, finish_sd, *p90s = spans
            return cls(at, Forecast(Span(start, start_sd), Span(finish, finish_sd)), *p90s)
        except (TypeError, ValueError):
            return None

    def text(self) -> str:
        """Return what to write into the job's record."""
        start, finish = self.forecast.start, self.forecast.finish
        p90s = self.start_p90_s, self.finish_p90_s
        numbers = (self.made_at, start.mean, start.sd, finish.mean, finish.sd, *p90s)
        return " ".join(f"{number:.3f}" for number in numbers)

    def score(self, started_at: float, finished_at: float) -> tuple[float, float]:
        """Return by how many deviations the job started and finished late."""
        start, finish = self.forecast.start, self.forecast.finish
        return (
            (started_at - self.made_at - start.mean) / max(start.sd, LEAST_SD_S),
            (finished_at - self.made_at - finish.mean) / max(finish.sd, LEAST_SD_S),
        )

    def is_late(self, started_at: float, finished_at: float) -> tuple[bool, bool]:
        """Return whether the job started, and finished, later than its p90."""
        started_s, finished_s = started_at - self.made_at, finished_at - self.made_at
        return started_s > self.start_p90_s, finished_s > self.finish_p90_s


def quantile_s(span: Span, scores: Sequence[float], share: float) -> float:
    """Return the seconds within which it will have happened with probability `share`."""
    if len(scores) < LEAST_SCORES:
        score = _BELL.inv_cdf(share)
    else:
        rank = math.ceil((len(scores) + TOGETHER) * share)
        score = scores[min(len(scores), rank) - 1]
    return max(0.0, span.mean + score * span.sd)


def miss(span: Span, scores: Sequence[float], within_s: float) -> float:
    """Return the probability that it has not happened within so many seconds."""
    score = (within_s - span.mean) / span.sd
    if len(scores) < LEAST_SCORES:
        return 1 - _BELL.cdf(score)
    return 1 - bisect_right(scores, score) / len(scores)


def forecast(line: Line, rates: Rates, size: Size, tier: str) -> Forecast | None:
    """Return when a job of `tier` will start and finish; None where too little is known."""
    if line.is_suspended or not rates.workers:
        return None
    start, service = _start(line, rates), _service(rates, size, tier)
    if start is None or service is None:
        return None
    finish = Span(start.mean + service.mean, math.hypot(start.sd, service.sd))
    return Forecast(start, finish)


def _start(line: Line, rates: Rates) -> Span | None:
    """Return the span until the claim; jobs that will come to queues above make it longer."""
    above = [queue.name for queue in line.queues[: line.own]]
    position, ahead = line.position, line.work_ahead(rates.mean_work)
    room, capacity, left = _room(line, rates), rates.capacity, rates.left_by(above)
    if position is None or ahead is None:
        return None
    if room > 0 and not any(queue.waiting for queue in line.queues[: line.own + 1]):
        return Span(0.0, LEAST_SD_S)  # taken at once
    if not capacity or not left:
        return None
    jobs = _jobs_to_end(position * capacity / left, max(0, room), rates)
    job_s = (ahead / position if position else rates.mean_work) / capacity
    surprise = rates.surprise
    relative = math.sqrt(surprise.variance) / (surprise.mean or 1.0)
    gulps = math.sqrt(sum(worker.refill**2 for worker in rates.workers) / 12)
    spread = math.hypot(math.sqrt(jobs) * relative, gulps, DRIFT * jobs) * job_s
    return Span(jobs * job_s, max(LEAST_SD_S, spread))


def _room(line: Line, rates: Rates) -> int:
    """Return how many more jobs the workers hold; the first queue's limit is its own."""
    own = line.queues[line.own]
    sharing = line.queues[1:] if line.own else line.queues[:1]
    most = sum(worker.most[own.name] for worker in rates.workers)
    return most - sum(queue.inflight for queue in sharing)


def _jobs_to_end(position: float, room: int, rates: Rates) -> float:
    """Return how many jobs must end before the one at `position` is claimed.

    A worker claims once `refill` jobs have left it. With several workers only the mean is known.
    """
    gulps = [worker.refill for worker in rates.workers]
    if len(gulps) == 1:
        return max(0.0, (position // gulps[0] + 1) * gulps[0] - room)
    return max(0.0, position + 1 + sum(gulps) / 2 - room)


def _service(rates: Rates, size: Size, tier: str) -> Span | None:
    """Return the span from the claim to the end; None for a tier that hardly ran yet."""
    learnt = rates.tier(tier)
    if learnt.output.count < LEAST_SEEN:
        return None
    token_s = learnt.token_s.mean or 0.0
    mean = (learnt.first_token_s.mean or 0.0) + token_s * size.output
    return Span(
        mean, math.hypot(math.sqrt(learnt.first_token_s.variance), token_s * size.output_sd)
    )


@dataclass(frozen=True, slots=True)
class Outlook:
    """What may be said at `at` (epoch s) of a job that waits, or is about to."""

    at: float
    size: Size
    position: int | None = None
    work_ahead: float | None = None
    rate: float | None = None
    forecast: Forecast | None = None
    scores: Scores = field(default_factory=Scores)
    queue: QueueView | None = None
    """The queue of its tier at that moment."""

    def start_s(self, share: float) -> float | None:
        """Return the seconds within which it will start with probability `share`."""
        if self.forecast is None:
            return None
        level = _level(share, self.scores.start_p90)
        return quantile_s(self.forecast.start, self.scores.start, level)

    def finish_s(self, share: float) -> float | None:
        """Return the seconds within which it will finish with probability `share`."""
        if self.forecast is None:
            return None
        level = _level(share, self.scores.finish_p90)
        finish = quantile_s(self.forecast.finish, self.scores.finish, level)
        return max(finish, self.start_s(share) or 0.0)

    def miss(self, deadlines: Deadlines) -> float:
        """Return the probability that a deadline is missed; 0 where nothing is known."""
        if self.forecast is None:
            return 0.0
        chances = [0.0]
        if deadlines.start_by is not None:
            within_s = deadlines.start_by - self.at
            chances.append(miss(self.forecast.start, self.scores.start, within_s))
        if deadlines.finish_by is not None:
            within_s = deadlines.finish_by - self.at
            chances.append(miss(self.forecast.finish, self.scores.finish, within_s))
        return max(chances)

    @property
    def promise(self) -> Promise | None:
        """What the job is to keep of it."""
        start_s, finish_s = self.start_s(P90), self.finish_s(P90)
        if self.forecast is None or start_s is None or finish_s is None:
            return None
        return Promise(self.at, self.forecast, start_s, finish_s)


def _level(share: float, p90: float) -> float:
    """Return the share of the scores for a quantile: `p90` of them for 0.9, half for the median."""
    return 0.5 + (share - 0.5) * (p90 - 0.5) / (P90 - 0.5)
