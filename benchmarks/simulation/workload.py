"""Workload: arrivals and lengths after published statistics, seeded.

Conversation and code are Azure's LLM inference trace of 2023 (Splitwise, ISCA '24): lengths by the
inverse of the distribution through its quantiles, log-linear between them, input and output
independent (their correlation is -0.1 and 0.0). Conversation arrives as a Poisson process, code as
a gamma renewal process with the trace's coefficient of variation, 3.2. Batch jobs come by the
thousand, of 512 tokens and a lognormal output of 500 ± 400: llm-d's batch gateway benchmark.
"""

import bisect
import functools
import heapq
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.simulation.jobs import Job, Promise

TIERS = ("premium", "standard", "batch")
SHARES = {"premium": 0.4, "standard": 0.4, "batch": 0.2}  # of the tokens
CODE_CV = 3.2
BATCH_SIZE = 1000


@dataclass(frozen=True, slots=True)
class Quantiles:
    """A distribution of lengths, known at some of its points; the ends are minimum and maximum."""

    points: tuple[tuple[float, int], ...]

    def at(self, probability: float) -> int:
        """Return the length that a share `probability` of all does not exceed."""
        i = bisect.bisect_right(self.points, probability, 1, len(self.points) - 1, key=_first)
        (p0, low), (p1, high) = self.points[i - 1], self.points[i]
        return int(low * (high / low) ** ((probability - p0) / (p1 - p0)) + 0.5)

    def draw(self, rng: random.Random) -> int:
        """Return one length."""
        return self.at(rng.random())


@dataclass(frozen=True, slots=True)
class Lognormal:
    """A distribution of lengths of given mean and deviation, cut at `most`."""

    mean: float
    deviation: float
    most: int

    def draw(self, rng: random.Random) -> int:
        """Return one length."""
        variance = math.log(1 + (self.deviation / self.mean) ** 2)
        mu = math.log(self.mean) - variance / 2
        return min(self.most, max(1, round(rng.lognormvariate(mu, math.sqrt(variance)))))


def _first(point: tuple[float, int]) -> float:
    return point[0]


def _azure(*lengths: int) -> Quantiles:
    at = (0.0, 0.05, 0.10, 0.25, 0.50, 0.75, 0.90, 0.95, 0.99, 1.0)
    return Quantiles(tuple(zip(at, lengths, strict=True)))


# The minima are ours: the trace's are not published with its quantiles.
CONVERSATION_INPUT = _azure(90, 181, 207, 396, 1020, 1189, 2734, 4083, 4142, 14050)
CONVERSATION_OUTPUT = _azure(20, 41, 54, 85, 129, 395, 424, 451, 601, 1000)
CODE_INPUT = _azure(40, 75, 147, 578, 1469, 2744, 5188, 7303, 7436, 7437)
CODE_OUTPUT = _azure(3, 6, 7, 9, 13, 24, 55, 90, 252, 1899)
BATCH_INPUT = Quantiles(((0.0, 512), (1.0, 512)))
BATCH_OUTPUT = Lognormal(500, 400, 4096)

LENGTHS: dict[str, tuple[Quantiles, Quantiles | Lognormal]] = {
    "premium": (CONVERSATION_INPUT, CONVERSATION_OUTPUT),
    "standard": (CODE_INPUT, CODE_OUTPUT),
    "batch": (BATCH_INPUT, BATCH_OUTPUT),
}


@dataclass(frozen=True, slots=True)
class Workload:
    """Traffic without end: `tokens_per_s` of all tiers together, in their shares."""

    seed: int
    tokens_per_s: float
    promises: dict[str, Promise]
    shares: dict[str, float]

    def jobs(self) -> Iterator[Job]:
        """Yield the jobs in the order of their submission."""
        return heapq.merge(*map(self._tier, self.shares), key=lambda job: job.submitted_at)

    def rate(self, tier: str) -> float:
        """Return the tier's jobs per second."""
        return self.shares[tier] * self.tokens_per_s / mean_tokens(tier)

    def _tier(self, tier: str) -> Iterator[Job]:
        rng = random.Random(f"{self.seed} {tier}")
        instants = {"premium": _poisson, "standard": _bursts, "batch": _dumps}[tier]
        if self.shares[tier]:
            for submitted_at in instants(rng, self.rate(tier)):
                yield draw(rng, self.promises[tier], submitted_at)


def draw(rng: random.Random, promise: Promise, submitted_at: float = 0.0) -> Job:
    """Return a job of the tier with lengths of its distribution."""
    prompt, output = LENGTHS[promise.tier]
    return Job(prompt.draw(rng), output.draw(rng), promise=promise, submitted_at=submitted_at)


@functools.cache
def mean_tokens(tier: str) -> float:
    """Return the mean of prompt and output together."""
    rng = random.Random(0)
    prompt, output = LENGTHS[tier]
    return sum(prompt.draw(rng) + output.draw(rng) for _ in range(20_000)) / 20_000


def _poisson(rng: random.Random, rate: float) -> Iterator[float]:
    now = 0.0
    while True:
        yield (now := now + rng.expovariate(rate))


def _bursts(rng: random.Random, rate: float) -> Iterator[float]:
    now, shape = 0.0, CODE_CV**-2
    while True:
        yield (now := now + rng.gammavariate(shape, 1 / (rate * shape)))


def _dumps(rng: random.Random, rate: float) -> Iterator[float]:
    period = BATCH_SIZE / rate
    now = period * rng.random()
    while True:
        yield from [now] * BATCH_SIZE
        now += period
