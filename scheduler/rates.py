"""Rates: what each worker measures of the work it does, published at its heartbeat.

Sums rather than means, so that those of many workers add up; each fades with time or with every
job. A worker's capacity is measured only while jobs waited for it, for only then is it all used.

    slalom:rates:{worker}   string   JSON of WorkerRates, expires with the worker's record
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Self, cast

from pydantic import TypeAdapter
from redis import Redis

from scheduler import keys

MEMORY_JOBS = 500
MEMORY_S = 60.0
LEAST_BUSY_S = 3.0
LEAST_JOBS = 20
NO_TIER = ""
"""The tier of jobs whose tier is not in the table."""
FLOOR = 0.02
"""The share of the capacity that a queue is thought to get at least, however much is above it."""


@dataclass(slots=True)
class Moments:
    """Mean and variance of the latest MEMORY_JOBS or so values."""

    count: float = 0.0
    total: float = 0.0
    squares: float = 0.0

    def add(self, value: float, weight: float = 1.0) -> None:
        """Take in a value, and let the earlier ones fade."""
        fade = 1 - 1 / MEMORY_JOBS
        self.count = fade * self.count + weight
        self.total = fade * self.total + weight * value
        self.squares = fade * self.squares + weight * value * value

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(
            self.count + other.count, self.total + other.total, self.squares + other.squares
        )

    @property
    def mean(self) -> float | None:
        """The mean; None of nothing."""
        return self.total / self.count if self.count else None

    @property
    def variance(self) -> float:
        """The variance; 0 of nothing."""
        if not self.count:
            return 0.0
        return max(0.0, self.squares / self.count - (self.total / self.count) ** 2)


@dataclass(slots=True)
class TierRates:
    """What the jobs of one tier are like."""

    output: Moments = field(default_factory=Moments)
    """Tokens written."""
    share: Moments = field(default_factory=Moments)
    """Tokens written ÷ `max_tokens`; by weight, so that the mean is that of all tokens."""
    first_token_s: Moments = field(default_factory=Moments)
    """From the claim to the first token."""
    token_s: Moments = field(default_factory=Moments)
    """From each token to the next."""

    def __add__(self, other: "TierRates") -> "TierRates":
        return TierRates(
            self.output + other.output,
            self.share + other.share,
            self.first_token_s + other.first_token_s,
            self.token_s + other.token_s,
        )


@dataclass(slots=True)
class WorkerRates:
    """What one worker measures."""

    most: dict[str, int] = field(default_factory=dict)
    """How many jobs it holds at a time, by queue; all but the first share theirs."""
    refill: int = 1
    """Jobs that leave it before it claims again."""
    busy_s: float = 0.0
    """For how long jobs have waited for it, lately; and what it did meanwhile:"""
    jobs: float = 0.0
    work: float = 0.0
    obtained: dict[str, float] = field(default_factory=dict)
    """Work per second by queue, idle times included."""
    surprise: Moments = field(default_factory=Moments)
    """Work that a job was ÷ work that was expected of it."""
    tiers: dict[str, TierRates] = field(default_factory=dict)


@dataclass(frozen=True)
class Rates:
    """What the workers of one queue measured together; each sum is made once."""

    workers: Sequence[WorkerRates]

    @classmethod
    def of(cls, workers: Sequence[WorkerRates], queue: str) -> Self:
        """Return what those of `workers` measured that serve `queue`."""
        return cls([worker for worker in workers if queue in worker.most])

    @cached_property
    def capacity(self) -> float | None:
        """Work per second of all of them; None where too little was measured.

        One that has measured nothing yet is thought to do what the others do.
        """
        busy = [w for w in self.workers if w.busy_s >= LEAST_BUSY_S and w.jobs >= LEAST_JOBS]
        if not busy:
            return None
        return len(self.workers) * sum(w.work / w.busy_s for w in busy) / len(busy)

    @cached_property
    def mean_work(self) -> float:
        """Work of a job."""
        jobs = sum(worker.jobs for worker in self.workers)
        return sum(worker.work for worker in self.workers) / jobs if jobs else 1.0

    @cached_property
    def surprise(self) -> Moments:
        """Work that a job was ÷ work that was expected of it."""
        return sum((worker.surprise for worker in self.workers), Moments())

    def obtained(self, queues: Sequence[str]) -> float:
        """Work per second that these queues get."""
        return sum(worker.obtained.get(queue, 0.0) for worker in self.workers for queue in queues)

    def left_by(self, queues: Sequence[str]) -> float | None:
        """Work per second that these queues leave to those after them."""
        if self.capacity is None:
            return None
        return max(FLOOR * self.capacity, self.capacity - self.obtained(queues))

    def tier(self, name: str) -> TierRates:
        """What the jobs of a tier are like."""
        known = [worker.tiers[name] for worker in self.workers if name in worker.tiers]
        return sum(known, TierRates())


_JSON = TypeAdapter(WorkerRates)


def publish(connection: Redis, worker: str, rates: WorkerRates, *, ttl_s: int) -> None:
    """Tell what a worker measures."""
    connection.set(keys.rates(worker), _JSON.dump_json(rates), ex=ttl_s)


def published(connection: Redis) -> list[WorkerRates]:
    """Return what every living worker told."""
    records = cast(set[bytes], connection.smembers("rq:workers"))
    names = sorted(record.decode().removeprefix("rq:worker:") for record in records)
    found = connection.mget([keys.rates(name) for name in names]) if names else []
    return [_JSON.validate_json(text) for text in cast(list[bytes | None], found) if text]
