"""The loop: jobs arrive, a policy feeds the engine, the engine steps, the clock moves.

Measured are the jobs submitted before `until`; traffic goes on after it until the last of them has
ended, so that none of them finds an engine emptier than it would be, or until the last deadline.
"""

import math
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Self, cast

from benchmarks.simulation.engine import ENGINE, STEP_COST
from benchmarks.simulation.jobs import Job
from benchmarks.simulation.policies import Policy
from gpu_worker.step_model import FREE, ContinuousBatch

Start = Callable[[ContinuousBatch], Policy]


@dataclass(slots=True)
class Outcome:
    """What came of one tier's measured jobs, refused and expired ones among the missed."""

    submitted: int = 0
    met: int = 0
    refused: int = 0
    expired: int = 0

    ttfts: "array[float]" = field(default_factory=lambda: array("d"))
    """Of those that finished, s."""

    @property
    def ttft_p99_s(self) -> float:
        """The 99th percentile of the times to the first token."""
        return sorted(self.ttfts)[len(self.ttfts) * 99 // 100] if self.ttfts else math.nan

    @property
    def attainment(self) -> float:
        """The share of all that met every objective."""
        return self.met / self.submitted if self.submitted else 1.0


class Loop:
    """One run: the clock, the engine, and what came of the measured jobs."""

    def __init__(self, arrivals: Iterator[Job], start: Start, until: float) -> None:
        self.batch = ContinuousBatch(ENGINE, STEP_COST)
        self.outcomes: dict[str, Outcome] = defaultdict(Outcome)
        self.met = bytearray()
        """Of each measured job, in the order of submission, whether it met every objective."""
        self.now = 0.0
        self.num_steps = 0
        self._policy = start(self.batch)
        self._arrivals = arrivals
        self._next = next(arrivals, None)
        self._until = until
        self._num_open = 0
        self._last_deadline = 0.0

    def run(self) -> Self:
        """Go on until every measured job has ended."""
        while True:
            self._arrive()
            for job in self._policy.feed(self.now):
                self._end(job, "expired")
            if self._is_over():
                return self
            if not self._step():
                assert self._next, "jobs wait that nothing will start"
                self.now = self._next.submitted_at

    def _is_over(self) -> bool:
        if self._next and self._next.submitted_at < self._until:
            return False
        return not self._num_open or self.now > self._last_deadline

    def _arrive(self) -> None:
        while (job := self._next) and job.submitted_at <= self.now:
            self._next = next(self._arrivals, None)
            if job.submitted_at < self._until:
                self._measure(job)
            if not self._policy.submit(job, job.submitted_at):
                self._end(job, "refused")

    def _measure(self, job: Job) -> None:
        job.index = len(self.met)
        self.met.append(False)
        self.outcomes[job.promise.tier].submitted += 1
        self._num_open += 1
        if job.expires_at < math.inf:
            self._last_deadline = max(self._last_deadline, job.expires_at)

    def _step(self) -> bool:
        """Make one step; return whether there was anything to do."""
        rule = self._policy.rule(self.now)
        took_s = self.batch.plan(rule)
        if took_s is None and rule != FREE:  # never idle beside work
            took_s = self.batch.plan()
        if took_s is None:
            return False
        self.now += took_s
        self.num_steps += 1
        first, finished = cast("tuple[list[Job], list[Job]]", self.batch.complete())
        for job in first:
            job.first_token_at = self.now
        for job in finished:
            job.finished_at = self.now
            self._end(job, "finished")
        self._policy.stepped(took_s, first, finished, self.now)
        return True

    def _end(self, job: Job, how: str) -> None:
        if job.index is None:
            return
        outcome = self.outcomes[job.promise.tier]
        if how == "finished":
            outcome.ttfts.append(job.first_token_at - job.submitted_at)
        outcome.refused += how == "refused"
        outcome.expired += how == "expired"
        self.met[job.index] = job.is_met
        outcome.met += job.is_met
        self._num_open -= 1
