"""Line: how many jobs, and how much work, stand before a job, at a price that does not grow.

Work is what a job is expected to cost (`scheduler.work`). An odometer per queue counts the jobs and
the work that ever entered. A job keeps what it read then, its place: the difference of two places
is what entered between them, and thus the mean work of a job there. How many jobs stand before one
is exact within REACH of either end of the queue; further inside it is interpolated between places,
so that jobs that left in between, or that plain RQ put there, count in proportion. A job that plain
RQ enqueued has no place; nor has one that was put at the end again, for a retry or a replay. One
that was put back in front keeps its own.

    slalom:line:{queue}   hash   jobs, work: how much ever entered         written by enter
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from redis import Redis
from redis.client import Pipeline

from scheduler import keys

REACH = 1000


@dataclass(frozen=True, slots=True)
class Place:
    """What the odometer of `queue` showed when a job came; `before` is without its own work."""

    number: int
    before: int
    work: int
    queue: str

    @classmethod
    def read(cls, text: bytes | str | None) -> Self | None:
        """Return the place in a job's record; None where there is none that can be read."""
        decoded = text.decode() if isinstance(text, bytes) else text or ""
        try:
            number, before, work, queue = decoded.split(" ", 3)
            return cls(int(number), int(before), int(work), queue)
        except ValueError:
            return None


@dataclass(frozen=True, slots=True)
class QueueView:
    """A queue at one instant; `head` is the place of the first in line."""

    name: str
    waiting: int
    inflight: int
    jobs: int
    work: int
    head: Place | None

    def work_waiting(self, mean_work: float) -> float:
        """Return the work of all that wait; `mean_work` is that of a job nothing is known of."""
        return self.waiting * (self.mean_work() or mean_work)

    def mean_work(self, until: Place | None = None) -> float | None:
        """Return the mean work of a job before `until`, else of all; None if none ever entered."""
        jobs, work = (until.number, until.before) if until else (self.jobs + 1, self.work)
        if self.head and self.head.number < jobs:
            return (work - self.head.before) / (jobs - self.head.number)
        return self.work / self.jobs if self.jobs else None


@dataclass(frozen=True, slots=True)
class Line:
    """What stands before one job: `queues` in rank order, its own at `own`.

    `index` is None where it is not known; `mark` is the place at index REACH.
    """

    queues: Sequence[QueueView]
    own: int
    index: int | None
    place: Place | None = None
    mark: Place | None = None
    is_suspended: bool = False

    @property
    def ahead(self) -> int | None:
        """How many jobs of its own queue stand before the job."""
        if self.index is not None:
            return self.index
        queue = self.queues[self.own]
        if not self.place or not self.mark or self.mark.number > self.place.number:
            return None
        share = (self.place.number - self.mark.number) / (queue.jobs + 1 - self.mark.number)
        return REACH + round(share * (queue.waiting - REACH))

    @property
    def position(self) -> int | None:
        """How many jobs are claimed before it by the order of the queues as they are now."""
        above = sum(queue.waiting for queue in self.queues[: self.own])
        return None if self.ahead is None else above + self.ahead

    def work_ahead(self, mean_work: float) -> float | None:
        """Return the work of those jobs; `mean_work` is that of a job of which nothing is known."""
        if self.ahead is None:
            return None
        means = [queue.mean_work() or mean_work for queue in self.queues[: self.own]]
        above = sum(q.waiting * mean for q, mean in zip(self.queues, means, strict=False))
        return above + self.ahead * (self.queues[self.own].mean_work(self.place) or mean_work)

    def to(self, queue: str) -> Self:
        """Return the line as it is before a job that is about to come to `queue`."""
        own = [view.name for view in self.queues].index(queue)
        return replace(self, own=own, index=self.queues[own].waiting, place=None, mark=None)

    def joined(self, work: int) -> Self:
        """Return the line once such a job with so much work has come."""
        view = self.queues[self.own]
        longer = replace(view, waiting=view.waiting + 1, jobs=view.jobs + 1, work=view.work + work)
        queues = [longer if queue is view else queue for queue in self.queues]
        return replace(self, queues=queues, index=longer.waiting)


def enter(pipeline: Pipeline, job_key: str, queue: str, work: int) -> None:
    """Add to the transaction that queues a job what gives it its place."""
    pipeline.eval(keys.source("enter").decode(), 2, job_key, keys.line(queue), str(work), queue)


def look(connection: Redis, queues: Sequence[str], queue: str, job_id: str = "") -> Line:
    """Return the line as it is before a job of `queue`, or before one that is about to come."""
    own = queues.index(queue)
    reply = keys.script(connection, "line")(
        keys=[key for q in queues for key in (keys.queue(q), keys.line(q), keys.started(q))],
        args=[own + 1, job_id, REACH],
    )
    suspended, views, index, place, mark = reply
    return Line(
        [_view(name, view) for name, view in zip(queues, views, strict=True)],
        own,
        None if index < 0 else int(index),
        _of(queue, place),
        _of(queue, mark),
        bool(suspended),
    )


def _view(name: str, reply: list[Any]) -> QueueView:
    waiting, inflight, jobs, work, head = reply
    return QueueView(name, int(waiting), int(inflight), int(jobs), int(work), _of(name, head))


def _of(queue: str, text: bytes) -> Place | None:
    """Return a place in this queue's line; a job may stand in another queue than it came to."""
    place = Place.read(text)
    return place if place and place.queue == queue else None
