"""Scores: how late jobs were against what they were promised, and what a p90 is made of.

A score says by how many deviations a job was late. The quantiles of recent scores make the p50 and
p90 of the next jobs. Jobs that wait together are late together, so a run of luck can last for
hundreds of them; therefore the share of the scores that a p90 is moves with every job: up a little
if the job was later than its p90, down if not, so that over any long time a tenth of them are later
(adaptive conformal inference, Gibbs and Candès 2021).

    slalom:scores:{queue}   list   "start finish", latest first
    slalom:p90:{queue}      hash   start, finish -> the share of the scores that a p90 is now
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from redis import Redis
from redis.client import Pipeline

from scheduler import keys

MEMORY_SCORES = 500
MOST_SCORES = 50
"""Of one report: neighbours are late together, and a memory of many reports says more."""
P90 = 0.9
LEARNING = 1 / 2000
"""How far one job moves the share."""
LEAST, MOST = 0.8, 0.98
"""Bounds of the share: what was learnt in an hour of overload is unlearnt in some minutes."""
PARTS = ("start", "finish")


@dataclass(frozen=True, slots=True)
class Scores:
    """Recent scores of one queue, each list in order; and which share of them is a p90."""

    start: Sequence[float] = field(default_factory=tuple)
    finish: Sequence[float] = field(default_factory=tuple)
    start_p90: float = P90
    finish_p90: float = P90


@dataclass(slots=True)
class Scored:
    """What one worker notes of the jobs of a queue from report to report."""

    scores: list[tuple[float, float]] = field(default_factory=list)
    late: tuple[int, int] = (0, 0)
    """How many started, and how many finished, later than their p90."""

    def add(self, score: tuple[float, float], is_late: tuple[bool, bool]) -> None:
        """Note a job."""
        self.scores.append(score)
        self.late = (self.late[0] + is_late[0], self.late[1] + is_late[1])

    def write(self, pipeline: Pipeline, queue: str) -> None:
        """Add it to what is known of the queue; the last two replies are the new shares."""
        thinned = self.scores[:: math.ceil(len(self.scores) / MOST_SCORES)]
        pipeline.lpush(keys.scores(queue), *(f"{s:.3f} {f:.3f}" for s, f in thinned))
        pipeline.ltrim(keys.scores(queue), 0, MEMORY_SCORES - 1)
        for part in PARTS:
            pipeline.hsetnx(keys.p90(queue), part, str(P90))
        for part, num_late in zip(PARTS, self.late, strict=True):
            moved = LEARNING * (num_late - (1 - P90) * len(self.scores))
            pipeline.hincrbyfloat(keys.p90(queue), part, moved)


def publish(connection: Redis, scored: Mapping[str, Scored]) -> None:
    """Tell how late jobs were, by queue."""
    for queue, found in scored.items():
        with connection.pipeline() as pipeline:
            found.write(pipeline, queue)
            *_, start, finish = pipeline.execute()
        for part, share in zip(PARTS, (start, finish), strict=True):
            if share != _bounded(share):
                connection.hset(keys.p90(queue), part, str(_bounded(share)))


def read(connection: Redis, queues: Sequence[str]) -> dict[str, Scores]:
    """Return what is known of each queue."""
    with connection.pipeline(transaction=False) as pipeline:
        for queue in queues:
            pipeline.lrange(keys.scores(queue), 0, -1)
            pipeline.hmget(keys.p90(queue), PARTS)
        found = pipeline.execute()
    return {q: _scores(*found[2 * n : 2 * n + 2]) for n, q in enumerate(queues)}


def _scores(texts: Sequence[bytes], p90: Sequence[bytes | None]) -> Scores:
    pairs = [tuple(map(float, text.split())) for text in texts]
    start, finish = (_bounded(float(share)) if share else P90 for share in p90)
    return Scores(
        sorted(pair[0] for pair in pairs), sorted(pair[1] for pair in pairs), start, finish
    )


def _bounded(share: float) -> float:
    return min(max(share, LEAST), MOST)
