"""Policies: what is taken from the queues into the engine, and when; here the baselines.

fcfs       one queue, all of it handed to vLLM in the order of arrival
priority   all of it handed to vLLM, which orders what waits by the tier's priority
static     the same with at most so many low jobs in the engine at a time
"""

import heapq
import itertools
import math
from typing import Protocol

from benchmarks.simulation.jobs import Job
from gpu_worker.step_model import FREE, ContinuousBatch, Rule


class Policy(Protocol):
    """What the loop asks of a policy."""

    def submit(self, job: Job, now: float) -> bool:
        """Take a job in; return False to refuse it."""
        ...

    def feed(self, now: float) -> list[Job]:
        """Hand to the engine what may enter it now; return what expired in the queue."""
        ...

    def rule(self, now: float) -> Rule:
        """Return what gated ones may do in the next step."""
        ...

    def stepped(self, took_s: float, first: list[Job], finished: list[Job], now: float) -> None:
        """Learn what a step did."""
        ...


class Ungated:
    """Hand over everything, low ones up to a limit; vLLM does the rest."""

    def __init__(
        self, batch: ContinuousBatch, *, by_priority: bool, max_low: float = math.inf
    ) -> None:
        self._batch = batch
        self._by_priority = by_priority
        self._room = max_low
        self._orders = itertools.count()
        self._low: list[tuple[int, float, int, Job]] = []

    def submit(self, job: Job, now: float) -> bool:
        """Take it in."""
        if self._by_priority:
            job.priority = job.promise.priority
        if job.promise.is_high or math.isinf(self._room):
            self._batch.add(job)
        else:
            heapq.heappush(self._low, (job.priority, now, next(self._orders), job))
        return True

    def feed(self, now: float) -> list[Job]:
        """Fill the low ones' places."""
        while self._room and self._low:
            self._batch.add(heapq.heappop(self._low)[3])
            self._room -= 1
        return []

    def rule(self, now: float) -> Rule:
        """Nothing is gated."""
        return FREE

    def stepped(self, took_s: float, first: list[Job], finished: list[Job], now: float) -> None:
        """Free the low ones' places."""
        self._room += sum(not job.promise.is_high for job in finished)
