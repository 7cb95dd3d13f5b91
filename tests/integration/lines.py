"""Lines: who waits where, and who is claimed next, in plain Python; a part of `model`.

A tenant's job waits in its home, a line of its queue; any other, and one that is promoted, in the
queue's own list. Promoted jobs go first, then the lines take turns (`turns`).
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.integration.picture import QUEUES, Job
from tests.integration.turns import Turns


@dataclass
class Lines:
    """The lists of all queues; `jobs` is everybody, waiting or not."""

    jobs: dict[str, Job]
    lists: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    turns: dict[str, Turns] = field(init=False)
    weights: dict[str, float] = field(default_factory=dict)
    """Job -> weight of its line when it was submitted."""
    entered: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    """The work of every job that was ever submitted to a queue."""

    def __post_init__(self) -> None:
        self.turns = {queue: Turns(queue, self.lists) for queue in QUEUES}

    def enter(self, job_id: str, work: int, weight: float) -> None:
        """Let a new job wait; its line weighs so much from now on."""
        job = self.jobs[job_id]
        job.work = work
        self.entered[job.queue].append(work)
        self.weights[job_id] = weight
        self.put(job_id)
        if job.home:
            self.turns[job.queue].weights[job.home] = weight

    def put(self, job_id: str, *, in_front: bool = False) -> None:
        """Let a job wait where it belongs."""
        job = self.jobs[job_id]
        if job.home and not job.is_promoted:
            job.line = job.home
            self.turns[job.queue].seat(job.home, self.weights[job_id])
        waiting = self.lists[job.line or job.queue]
        waiting.insert(0 if in_front else len(waiting), job_id)

    def promote(self, job_id: str) -> None:
        """Let a job wait in front of its queue's own list."""
        self.leave(job_id)
        self.jobs[job_id].is_promoted = True
        self.put(job_id, in_front=True)

    def leave(self, job_id: str) -> None:
        """Let a job wait no more, if it does."""
        job = self.jobs[job_id]
        waiting = self.lists[job.line or job.queue]
        if job_id in waiting:
            waiting.remove(job_id)
        job.line = ""

    def fronts(self, queue: str) -> list[Job]:
        """Return who stands in front of the queue's own list, and of the line whose turn it is."""
        first = self.turns[queue].first()
        lists = [self.lists[queue], self.lists[first or queue]]
        return [self.jobs[waiting[0]] for waiting in lists if waiting]

    def claim(self, queues: Sequence[str], count: int, is_empty: bool) -> tuple[list[str], int]:
        """Take jobs, put late ones aside; return who was taken and how many queues stay open."""
        taken: list[str] = []
        for place, queue in enumerate(queues):
            turns = self.turns[queue]
            in_turn, is_open = bool(turns.turns), True
            if in_turn and self.lists[queue]:
                turns.seat(queue)
            while is_open and len(taken) < count and (line := self._next(queue)):
                is_open = self._take_first(line, taken, is_empty, in_turn)
            has_more = turns.next()
            if not is_open:
                return taken, place
            if has_more:
                break
        return taken, len(queues)

    def _next(self, queue: str) -> str | None:
        """Return the list whose first job is claimed next: promoted ones before all turns."""
        first = self.lists[queue][:1]
        if first and self.jobs[first[0]].is_promoted:
            return queue
        return self.turns[queue].next()

    def _take_first(self, line: str, taken: list[str], is_empty: bool, in_turn: bool) -> bool:
        """Take the first job of a list, or leave it; say whether its queue stays open."""
        job_id = self.lists[line][0]
        job = self.jobs[job_id]
        if job.is_suspect and not job.is_late and (taken or not is_empty):
            return False
        self.leave(job_id)
        if job.is_late:
            job.is_aside = True
            return True
        taken.append(job_id)
        if in_turn:
            self._charge(job_id, line)
        return not job.is_suspect

    def _charge(self, job_id: str, line: str) -> None:
        """Let the line of a job pay for it, and the list that it was taken from."""
        job = self.jobs[job_id]
        turns, entered = self.turns[job.queue], self.entered[job.queue]
        work = sum(entered) / len(entered) if job.work is None else job.work
        if job.home:
            turns.seat(job.home, self.weights[job_id])
        turns.charge(job.home or job.queue, work)
        if line != (job.home or job.queue) and not job.is_promoted:
            turns.charge(line, work)
