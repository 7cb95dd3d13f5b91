"""Figures: what is simulated at which load, and what came of it.

capacity    tokens, of prompts and outputs, per second of the engine fed with a backlog of the mix,
            from the instant at which a tenth of the jobs have ended to that at which nine have
load        tokens submitted per second over capacity
attainment  of all jobs that were submitted: refused and expired ones missed
goodput     jobs that met every objective of their tier, per second of the time of submission
"""

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.simulation.feasible import late_jobs
from benchmarks.simulation.jobs import Job, Promise
from benchmarks.simulation.loop import Loop, Outcome, Start
from benchmarks.simulation.policies import Ungated
from benchmarks.simulation.slalom import Limits, Slalom
from benchmarks.simulation.workload import SHARES, Workload, draw, mean_tokens

BACKLOG = 6000
STATIC_LIMITS = (16, 32, 64, 128)
DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Result:
    """One policy at one load."""

    policy: str
    outcomes: dict[str, Outcome]
    met: bytearray
    goodput: float
    num_preemptions: int


@dataclass(frozen=True, slots=True)
class Simulation:
    """The traffic that every policy gets: the same jobs at the same instants."""

    seed: int
    span_s: float
    limits: Limits = DEFAULT_LIMITS

    @property
    def promises(self) -> dict[str, Promise]:
        """What each tier is promised."""
        return Promise.of_all(self.span_s)

    def capacity(self) -> float:
        """Return the tokens per second of the saturated engine."""
        rng = random.Random(f"{self.seed} backlog")
        weights = [SHARES[tier] / mean_tokens(tier) for tier in SHARES]
        tiers = rng.choices(list(SHARES), weights, k=BACKLOG)
        jobs = [draw(rng, self.promises[tier]) for tier in tiers]
        Loop(iter(jobs), lambda batch: Ungated(batch, by_priority=False), until=1.0).run()
        jobs.sort(key=lambda job: job.finished_at)
        begin, end = BACKLOG // 10, BACKLOG * 9 // 10
        tokens = sum(job.num_all_tokens for job in jobs[begin:end])
        return tokens / (jobs[end].finished_at - jobs[begin].finished_at)

    def traffic(self, tokens_per_s: float) -> Iterator[Job]:
        """Return the jobs, without end."""
        return Workload(self.seed, tokens_per_s, self.promises, SHARES).jobs()

    def run(self, policy: str, tokens_per_s: float) -> Result:
        """Return what came of a policy; of `static`, of the limit with the best goodput."""
        if policy == "static":
            results = [self._run(f"static {n}", tokens_per_s, _static(n)) for n in STATIC_LIMITS]
            return max(results, key=lambda result: result.goodput)
        starts: dict[str, Start] = {
            "fcfs": lambda batch: Ungated(batch, by_priority=False),
            "priority": lambda batch: Ungated(batch, by_priority=True),
            "slalom": lambda batch: Slalom(batch, self.promises, self.limits),
        }
        return self._run(policy, tokens_per_s, starts[policy])

    def _run(self, name: str, tokens_per_s: float, start: Start) -> Result:
        loop = Loop(self.traffic(tokens_per_s), start, self.span_s).run()
        goodput = sum(outcome.met for outcome in loop.outcomes.values()) / self.span_s
        return Result(name, loop.outcomes, loop.met, goodput, loop.batch.num_preemptions)

    def num_feasible_missed(self, result: Result, tokens_per_s: float, capacity: float) -> int:
        """Return how many low jobs missed what a clairvoyant would have met."""
        until = self.span_s + self.span_s
        known = itertools.takewhile(
            lambda job: job.submitted_at < until, self.traffic(tokens_per_s)
        )
        late = late_jobs(known, capacity)
        measured = zip(result.met, self.traffic(tokens_per_s), strict=False)
        return sum(
            not is_met and not job.promise.is_high and index not in late
            for index, (is_met, job) in enumerate(measured)
        )


def _static(max_low: int) -> Start:
    return lambda batch: Ungated(batch, by_priority=True, max_low=max_low)
