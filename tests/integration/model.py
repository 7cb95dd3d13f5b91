"""Model: what becomes of jobs, in plain Python; `test_model` holds the scripts to it.

A job stands in one place, which follows from its status: in its queue, or in the registry of that
status. A claim starts it and grants a lease, under the id of an execution; whoever acts under
another execution has lost it and changes nothing. What a job has so far goes from a
release to the next claim, twice at most. A death makes suspects of the jobs in flight, and a dead
letter of one that has died often enough. Who waits past a deadline is never started: a
claim puts it aside, and its turn to be looked at ends it, a dead letter too. What ended stays so,
but for a replay, which counts the deadlines afresh.

Who waits where, and who is claimed next, is `lines`' to say.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from scheduler.cancel import Outcome
from scheduler.claim import Verdict
from scheduler.finish import Written
from scheduler.postpone import Postponed
from scheduler.so_far import MOST_RESUMED
from tests.integration.lines import Lines
from tests.integration.picture import ENDED, PLACES, Job, Lease, Picture

NEXT: dict[str, set[str]] = {
    "queued": {"started", "canceled", "failed"},
    "started": {"queued", "scheduled", "finished", "failed"},
    "scheduled": {"queued", "canceled", "failed"},
    "finished": set(),
    "failed": {"queued"},  # a replay
    "canceled": set(),
}
MOST_RESULTS = 10


@dataclass
class Model:
    """All jobs that were accepted, the order of the queues, and who may end what."""

    max_deliveries: int
    jobs: dict[str, Job] = field(default_factory=dict)
    lines: Lines = field(init=False)
    leases: dict[str, Lease] = field(default_factory=dict)
    """Execution -> its lease, in the order of the claims."""
    announced: list[str] = field(default_factory=list)
    """Jobs that ended since this was last cleared."""

    def __post_init__(self) -> None:
        self.lines = Lines(self.jobs)

    def picture(self) -> Picture:
        """Return what Redis should hold now."""
        executions = {lease.job_id: [execution] for execution, lease in self.leases.items()}
        places = {
            job_id: [f"{'aside' if job.is_aside else PLACES[job.status]}:{job.line or job.queue}"]
            for job_id, job in self.jobs.items()
        }
        return Picture(
            {name: ids for name, ids in self.lines.lists.items() if ids},
            {queue: turns.turns for queue, turns in self.lines.turns.items() if turns.turns},
            {queue: turns.weights for queue, turns in self.lines.turns.items() if turns.weights},
            places,
            self.jobs,
            self.leases,
            executions,
        )

    def waiting(self, queue: str) -> list[str]:
        """Return the jobs that stand in the lists of a queue."""
        ids = self.of("queued")
        return [i for i in ids if self.jobs[i].queue == queue and not self.jobs[i].is_aside]

    def of(self, *statuses: str) -> list[str]:
        """Return the jobs of these statuses."""
        return [job_id for job_id, job in self.jobs.items() if job.status in statuses]

    def submit(
        self, job_id: str, queue: str, retries: int, work: int, home: str, weight: float
    ) -> None:
        """Accept a job of a queue, or of a line in it, which weighs so much from now on."""
        self.jobs[job_id] = Job(queue, retries, home=home)
        self.lines.enter(job_id, work, weight)

    def start(self, execution: str, job_id: str, worker: str) -> None:
        """Let a worker run a job that it claimed."""
        job = self.jobs[job_id]
        _become(job, "started")
        job.worker, job.has_started = worker, True
        job.num_resumed += bool(job.so_far)
        job.so_far = ""
        assert execution not in self.leases
        self.leases[execution] = Lease(job_id, worker, job.is_suspect)

    def renew(self, execution: str) -> Verdict:
        """Extend a lease."""
        if execution not in self.leases:
            return "lost"
        self.leases[execution].expired = False
        job = self._job(execution)
        if job.is_stopping:
            return "stop"
        return "expired" if "finish_by" in job.passed else "held"

    def release(self, so_far: Mapping[str, str]) -> int:
        """Put jobs back in front, in the order given, with what they have; return how many."""
        held = [execution for execution in so_far if execution in self.leases]
        for execution in held:
            job = self._job(execution)
            job.so_far = so_far[execution] if job.num_resumed < MOST_RESUMED else ""
        self._put_in_front([self._end(execution, "queued") for execution in held])
        return len(held)

    def finish(self, executions: Sequence[str]) -> list[Written]:
        """Write results."""
        return [self._finish(execution) for execution in executions]

    def _finish(self, execution: str) -> Written:
        if execution not in self.leases:
            return "lost"
        job_id = self._end(execution, "finished")
        job = self.jobs[job_id]
        job.num_deaths, job.is_suspect, job.num_resumed = 0, False, 0
        job.has_started = job.is_promoted = False
        self._announce(job_id, execution)
        return "written"

    def postpone(self, execution: str) -> Postponed:
        """Let a failed job wait for its retry; a suspect stays one."""
        if execution not in self.leases:
            return "lost"
        if self._job(execution).is_stopping:
            return "stop"
        job = self.jobs[self._end(execution, "scheduled")]
        job.retries_left -= 1
        job.num_resumed, job.work = 0, None
        return "written"

    def come_due(self, job_id: str) -> None:
        """End the wait for a retry."""
        _become(self.jobs[job_id], "queued")
        self.lines.put(job_id)

    def expire(self, execution: str) -> None:
        """Let a lease pass its deadline."""
        self.leases[execution].expired = True

    def let_pass(self, job_id: str, deadline: str) -> None:
        """Let a deadline of a job pass."""
        self.jobs[job_id].passed = self.jobs[job_id].passed | {deadline}

    def end_late(self, queue: str) -> set[str]:
        """End the jobs of a queue that wait past a deadline; return them."""
        waiting = self.of("queued", "scheduled")
        ended = [i for i in waiting if self.jobs[i].queue == queue and self.jobs[i].is_late]
        for job_id in ended:
            self.lines.leave(job_id)
            self.jobs[job_id].is_aside = False
            _become(self.jobs[job_id], "failed")
            self._announce(job_id, "")
        return set(ended)

    def rescue(self, queue: str) -> tuple[set[str], set[str]]:
        """Take back the jobs of a queue whose leases expired: requeued, dead."""
        return self._take_back(
            execution
            for execution, lease in self.leases.items()
            if lease.expired and self._job(execution).queue == queue
        )

    def report_death(self, executions: Collection[str]) -> tuple[set[str], set[str]]:
        """Take back what an engine had in flight when it died: requeued, dead."""
        return self._take_back(execution for execution in self.leases if execution in executions)

    def _take_back(self, executions: Iterable[str]) -> tuple[set[str], set[str]]:
        requeued, dead = [], []
        for execution in list(executions):
            job = self._job(execution)
            job.num_deaths += 1
            if job.num_deaths < self.max_deliveries:
                job.is_suspect = True
                requeued.append(self._end(execution, "queued"))
            else:
                dead.append(self._end(execution, "failed"))
                self._announce(dead[-1], execution)
        self._put_in_front(requeued)
        return set(requeued), set(dead)

    def cancel(self, job_id: str) -> Outcome:
        """Cancel a job that waits, ask for the stop of one that runs."""
        job = self.jobs[job_id]
        if job.status in ENDED:
            return "ended"
        if job.status == "started":
            job.is_stopping = True
            return "stopping"
        if job.status == "queued":
            job.so_far, job.num_resumed = "", 0
        self.lines.leave(job_id)
        job.is_aside = False
        _become(job, "canceled")
        self.announced.append(job_id)
        return "canceled"

    def replay(self, job_id: str, retries: int) -> bool:
        """Put a dead letter back at the end of its queue; a suspect stays one."""
        job = self.jobs[job_id]
        if job.status != "failed":
            return False
        _become(job, "queued")
        job.num_deaths, job.is_stopping, job.so_far, job.num_resumed = 0, False, "", 0
        job.retries_left, job.worker = retries, ""
        job.has_started = job.is_promoted = False
        job.passed, job.work = frozenset(), None
        self.lines.put(job_id)
        return True

    def promote(self, queue: str, job_ids: list[str], max_share: float) -> None:
        """Let waiting jobs go to the front of their queue, in their order, within their share."""
        fronts = self.lines.fronts(queue)
        if not fronts or any(front.is_suspect or front.is_promoted for front in fronts):
            assert job_ids == []
            return
        for job_id in self.of("scheduled"):
            if self.jobs[job_id].queue == queue:
                self.jobs[job_id].is_promoted = False
        for job_id in reversed(job_ids):
            self.lines.promote(job_id)
        promoted = [i for i in self.of("queued", "started") if self.jobs[i].is_promoted]
        num_inflight = sum(self._job(execution).queue == queue for execution in self.leases)
        assert not job_ids or len(promoted) <= max(1, int(max_share * num_inflight))

    def _job(self, execution: str) -> Job:
        return self.jobs[self.leases[execution].job_id]

    def _end(self, execution: str, status: str) -> str:
        """End an execution, and return its job."""
        job_id = self.leases.pop(execution).job_id
        _become(self.jobs[job_id], status)
        return job_id

    def _put_in_front(self, job_ids: list[str]) -> None:
        for job_id in reversed(job_ids):
            self.jobs[job_id].worker = ""
            self.lines.put(job_id, in_front=True)

    def _announce(self, job_id: str, execution: str) -> None:
        job = self.jobs[job_id]
        job.results = [*job.results, (job.status, execution)][-MOST_RESULTS:]
        self.announced.append(job_id)


def _become(job: Job, status: str) -> None:
    """Change the status, lawfully."""
    assert status in NEXT[job.status], f"{job.status} -> {status}"
    job.status = status
    job.expires = status in ENDED
