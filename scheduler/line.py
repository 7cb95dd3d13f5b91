"""Line: how many jobs, and how much work, stand before a job, at a price that does not grow.

Work is what a job is expected to cost (`scheduler.work`). An odometer per queue counts the jobs and
the work that ever entered. A job keeps what it read then, its place: the difference of two places
is what entered between them, and thus the mean work of a job there. How many jobs stand before one
is exact within REACH of either end of the queue; further inside it is interpolated between places,
so that jobs that left in between, or that plain RQ put there, count in proportion. A job that plain
RQ enqueued has no place; nor has one that was put at the end again, for a retry or a replay. One
that was put back in front keeps its own.

Where tenants have lines of their own (`scheduler.fair_share`), each line has an odometer, and the
index of a job is that in its line. What other lines get before it follows from their turns.

    slalom:line:{queue}   hash   jobs, work: how much ever entered, and lined_jobs, lined_work: that
                                 of its lines                              written by enter
    slalom:line:{line}    hash   jobs, work                                the same
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from redis import Redis
from redis.client import Pipeline

from scheduler import keys
from scheduler.fair_share import Rival, passed_by

REACH = 1000
MOST_LINES, MOST_RIVALS = 1000, 100
"""Lines of a queue that one look counts, and beside which it sees a job: those that come first."""
ODOMETER_S = 86_400
"""How long the odometer of a line is kept after the last job that entered."""


@dataclass(frozen=True, slots=True)
class Place:
    """What the odometer of `queue`, or of a line, showed when a job came.

    `before` is without its own work.
    """

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
    """A queue, or one line of it, at one instant; `head` is the place of the first in line.

    Of those that wait in a queue so many are `lined`, in lines of tenants, with such a mean work.
    """

    name: str
    waiting: int
    inflight: int
    jobs: int
    work: int
    head: Place | None
    lined: int = 0
    lined_mean: float | None = None

    def work_waiting(self, mean_work: float) -> float:
        """Return the work of all that wait; `mean_work` is that of a job nothing is known of."""
        own = (self.waiting - self.lined) * (self.mean_work() or mean_work)
        return own + self.lined * (self.lined_mean or mean_work)

    def mean_work(self, until: Place | None = None) -> float | None:
        """Return the mean work of a job before `until`, else of all; None if none ever entered.

        Those in lines of tenants are not meant.
        """
        jobs, work = (until.number, until.before) if until else (self.jobs + 1, self.work)
        if self.head and self.head.number < jobs:
            return (work - self.head.before) / (jobs - self.head.number)
        return self.work / self.jobs if self.jobs else None


@dataclass(frozen=True, slots=True)
class Line:
    """What stands before one job: `queues` in rank order, its own at `own`.

    `index` is None where it is not known; `mark` is the place at index REACH. Both are of the list
    in which the job waits, `stand`, None where that is all of its queue.
    """

    queues: Sequence[QueueView]
    own: int
    index: int | None
    place: Place | None = None
    mark: Place | None = None
    is_suspended: bool = False
    stand: QueueView | None = None
    weight: float = 1.0
    turn: float = 0.0
    rivals: Sequence[Rival] = ()
    """Other lines of its queue, beside which its own has this `weight` and this `turn`."""

    @property
    def ahead(self) -> int | None:
        """How many jobs of its own line stand before the job."""
        if self.index is not None:
            return self.index
        queue = self._list
        if not self.place or not self.mark or self.mark.number > self.place.number:
            return None
        share = (self.place.number - self.mark.number) / (queue.jobs + 1 - self.mark.number)
        return REACH + round(share * (queue.waiting - REACH))

    @property
    def position(self) -> int | None:
        """How many jobs are claimed before it by the order of the queues as they are now."""
        if self.ahead is None:
            return None
        above = sum(queue.waiting for queue in self.queues[: self.own])
        jobs, _ = self._passed_by(self._own_work(self.ahead, 1.0), 1.0)
        return above + self.ahead + jobs

    def work_ahead(self, mean_work: float) -> float | None:
        """Return the work of those jobs; `mean_work` is that of a job of which nothing is known."""
        if self.ahead is None:
            return None
        above = sum(queue.work_waiting(mean_work) for queue in self.queues[: self.own])
        own = self._own_work(self.ahead, mean_work)
        _, work = self._passed_by(own, mean_work)
        return above + own + work

    def joined(self, queue: str, work: int) -> Self:
        """Return the line once a job of the same tenant has come to `queue`, with so much work."""
        queues = [_longer(view, work) if view.name == queue else view for view in self.queues]
        if queues[self.own].name != queue:
            return replace(self, queues=queues)
        stand = self.stand and _longer(self.stand, work)
        index = (stand or queues[self.own]).waiting
        return replace(self, queues=queues, stand=stand, index=index)

    @property
    def _list(self) -> QueueView:
        return self.stand or self.queues[self.own]

    def _own_work(self, ahead: int, mean_work: float) -> float:
        return ahead * (self._list.mean_work(self.place) or mean_work)

    def _passed_by(self, own_work: float, mean_work: float) -> tuple[int, float]:
        """Return what other lines get before the job: jobs, work."""
        return passed_by(self.rivals, self.turn + own_work / self.weight, mean_work)


def _longer(view: QueueView, work: int) -> QueueView:
    return replace(view, waiting=view.waiting + 1, jobs=view.jobs + 1, work=view.work + work)


def enter(pipeline: Pipeline, job_key: str, queue: str, work: int, line: str = "") -> None:
    """Add to the transaction that queues a job, in `line` perhaps, what gives it its place."""
    lists = [line, queue] if line else [queue]
    odometers = [keys.line(name) for name in lists]
    args = [str(work), lists[0], *([str(ODOMETER_S)] if line else [])]
    source = keys.source("enter").decode()
    pipeline.eval(source, 1 + len(odometers), job_key, *odometers, *args)


def look(
    connection: Redis,
    queues: Sequence[str],
    queue: str,
    job_id: str = "",
    *,
    joins: str = "",
    weight: float = 1.0,
) -> Line:
    """Return the line as it is before a job of `queue`, or before one that is about to come.

    That one `joins` a line of such a weight, or the queue's own list.
    """
    own = queues.index(queue)
    names = (keys.queue, keys.line, keys.started, keys.turns)
    reply = keys.script(connection, "line")(
        keys=[key(q) for q in queues for key in names],
        args=[own + 1, job_id, REACH, joins, MOST_LINES, MOST_RIVALS],
    )
    suspended, views, index, place, mark, line, stand, lines = reply
    stands_in = line.decode() or queue
    alone = Line(
        [_view(name, view) for name, view in zip(queues, views, strict=True)],
        own,
        None if index < 0 else int(index),
        _of(stands_in, place),
        _of(stands_in, mark),
        bool(suspended),
    )
    return _beside(alone, stands_in, stand, lines, weight) if lines else alone


def _view(name: str, reply: list[Any]) -> QueueView:
    waiting, inflight, jobs, work, head, lined, lined_jobs, lined_work = reply
    mean = int(lined_work) / int(lined_jobs) if int(lined_jobs) else None
    view = (name, waiting + lined, int(inflight), int(jobs), int(work), _of(name, head))
    return QueueView(*view, lined, mean)


def _beside(line: Line, name: str, stand: list[Any], lines: list[Any], weight: float) -> Line:
    """Return the line with those beside the one that the job waits in, which has that name."""
    queue = line.queues[line.own]
    waiting, jobs, work, head = stand
    seats = {
        other.decode(): Rival(int(num), float(weighs), float(turn), queue.lined_mean)
        for other, num, weighs, turn in lines
    }
    first = min(seat.turn for seat in seats.values())
    own_list = seats.get(queue.name, Rival(queue.waiting - queue.lined, 1.0, first))
    seats[queue.name] = replace(own_list, mean_work=queue.mean_work())
    mine = seats.pop(name, Rival(0, weight, first))
    return replace(
        line,
        stand=QueueView(name, int(waiting), 0, int(jobs), int(work), _of(name, head)),
        weight=mine.weight,
        turn=mine.turn,
        rivals=[rival for rival in seats.values() if rival.waiting],
    )


def _of(queue: str, text: bytes) -> Place | None:
    """Return a place in this queue or line; a job may stand in another one than it came to."""
    place = Place.read(text)
    return place if place and place.queue == queue else None
