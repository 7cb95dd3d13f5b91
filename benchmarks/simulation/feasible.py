"""Feasible: the low jobs whose deadlines could have been met by one who knew every length.

The engine is taken as a fluid that does `rate` tokens per second, always, and serves one job at a
time, high ones first, then by earliest deadline: prompts by the TTFT objective, outputs by the end.
Where all deadlines can be met, this order meets them; no real engine is that divisible, so a job
that is late even here could not be promised.
"""

import heapq
from collections.abc import Iterable

from benchmarks.simulation.jobs import Job

Part = tuple[float, int, float]
"""Due at, index of its job, tokens."""


def late_jobs(jobs: Iterable[Job], rate: float) -> set[int]:
    """Return the indices of the jobs that are late even so; jobs come as they were submitted."""
    queue: list[Part] = []
    late: set[int] = set()
    now = 0.0
    for index, job in enumerate(jobs):
        now = _serve(queue, now, job.submitted_at, rate, late)
        for part in _parts(index, job):
            heapq.heappush(queue, part)
    _serve(queue, now, float("inf"), rate, late)
    return late


def _parts(index: int, job: Job) -> list[Part]:
    if job.promise.is_high:
        return [(0.0, index, job.num_all_tokens)]
    first, last = job.submitted_at + job.promise.ttft_s, job.expires_at
    return [(min(first, last), index, job.prompt_tokens), (last, index, job.output_tokens)]


def _serve(queue: list[Part], now: float, until: float, rate: float, late: set[int]) -> float:
    """Work on what is due first until `until`."""
    while queue and now < until:
        due_at, index, tokens = queue[0]
        if now + tokens / rate > until:
            heapq.heapreplace(queue, (due_at, index, tokens - (until - now) * rate))
            break
        heapq.heappop(queue)
        now += tokens / rate
        if due_at and now > due_at:
            late.add(index)
    return until if until < float("inf") else now
