"""Jobs in flight: claimed, not ended, one task each on the worker's event loop.

A task ends in one of four ways: it passes its ending on; it is ended from outside, because its
caller cancelled the job, its deadline passed or the worker got a kill-horse command, and passes
that on; it is dropped, because the lease is lost or handed back, and passes on nothing; or the
engine dies under it, and it is an orphan until the worker takes it back.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any

from rq.job import Job

from gpu_worker.endings import Ending, Stopped, expired, killed
from gpu_worker.engine import EngineDead
from gpu_worker.hooks import Hooks
from gpu_worker.inference import Runner
from scheduler.claim import Claim

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Callbacks:
    """Whom the tasks tell, on the event loop."""

    ended: Callable[[Claim, Ending], None]
    left: Callable[[], None]


class Inflight:
    """The jobs one worker has in flight."""

    def __init__(
        self, runner: Runner, hooks: Hooks, tell: Callbacks, *, show_descriptions: bool
    ) -> None:
        self._runner = runner
        self._show_descriptions = show_descriptions
        self._hooks = hooks
        self._tell = tell
        self._jobs: dict[str, tuple[Claim, asyncio.Task[Ending]]] = {}
        self._imposed: dict[str, Ending | None] = {}
        """Endings from outside, by execution; None once it takes its course."""
        self._orphans: dict[str, Claim] = {}
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._jobs) + len(self._orphans)

    def num_of(self, queue: str | None) -> int:
        """Return how many jobs of `queue` are in flight."""
        claims = (*self.claims, *self._orphans.values())
        return sum(claim.queue == queue for claim in claims)

    @property
    def is_exclusive(self) -> bool:
        """Whether a suspect runs, which nothing may run beside."""
        return any(claim.alone for claim, _ in self._jobs.values())

    @property
    def claims(self) -> list[Claim]:
        """The claims of all jobs in flight."""
        return [claim for claim, _ in self._jobs.values()]

    @property
    def latest(self) -> Claim | None:
        """The claim of the job that was launched last; safe to ask from any thread."""
        jobs = list(self._jobs.values())
        return jobs[-1][0] if jobs else None

    def launch(self, claim: Claim) -> None:
        """Run a job that was just claimed."""
        claim.job.ended_at = None  # an earlier attempt's
        self._log(claim)
        self._start(claim, self._run(claim.job))

    def stop(self, job_id: str) -> None:
        """Abort a job that its caller cancelled; unknown ids are somebody else's."""
        for claim in self.claims:
            if claim.job.id == job_id:
                self._impose(claim, Stopped())

    def expire(self, claim: Claim) -> None:
        """Abort a job whose deadline has passed."""
        self._impose(claim, expired(claim.deadlines))

    def kill_all(self) -> None:
        """Fail every job."""
        for claim in self.claims:
            self._impose(claim, killed())

    def drop(self, claim: Claim) -> None:
        """Abort a job and write nothing of it."""
        if entry := self._jobs.get(claim.execution_id):
            entry[1].cancel()

    async def until_empty(self) -> None:
        """Return when no job is in flight, and no orphan waits to be taken back."""
        while self:
            self._changed.clear()
            await self._changed.wait()

    async def drop_all(self) -> list[Claim]:
        """Abort every job and return their claims."""
        return await self._drop(self.claims)

    async def orphans(self, job_ids: frozenset[str]) -> list[Claim]:
        """Abort these jobs; return their claims and those of all whom the engine died under."""
        for claim in await self._drop([c for c in self.claims if c.job.id in job_ids]):
            self._orphans[claim.execution_id] = claim
        return list(self._orphans.values())

    def forget(self, orphans: list[Claim]) -> None:
        """Let go of orphans that were taken back."""
        for claim in orphans:
            del self._orphans[claim.execution_id]
        self._changed.set()
        self._tell.left()

    async def _drop(self, claims: list[Claim]) -> list[Claim]:
        """Abort jobs, and return their claims once the last of them is gone."""
        tasks = [self._jobs[claim.execution_id][1] for claim in claims]
        for claim in claims:
            self._imposed.pop(claim.execution_id, None)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return claims

    def _log(self, claim: Claim) -> None:
        extra = {"event": "job.claimed", "job_id": claim.job.id, "queue": claim.queue}
        if self._show_descriptions:
            extra["description"] = str(claim.job.description)
        logger.debug("job claimed", extra=extra)

    async def _run(self, job: Job) -> Ending:
        return await self._hooks.run(job, await self._runner.run(job))

    def _start(self, claim: Claim, course: Coroutine[Any, Any, Ending]) -> None:
        task = asyncio.get_running_loop().create_task(course)
        task.add_done_callback(partial(self._on_done, claim))
        self._jobs[claim.execution_id] = (claim, task)

    def _impose(self, claim: Claim, ending: Ending) -> None:
        """Abort a job, and let `ending` take its course, unless another does already."""
        if self._imposed.setdefault(claim.execution_id, ending) is ending:
            self.drop(claim)

    def _on_done(self, claim: Claim, task: asyncio.Task[Ending]) -> None:
        if task.cancelled() and (ending := self._imposed.get(claim.execution_id)):
            self._imposed[claim.execution_id] = None
            self._start(claim, self._hooks.run(claim.job, ending))
            return
        del self._jobs[claim.execution_id]
        self._imposed.pop(claim.execution_id, None)
        if task.cancelled():
            pass
        elif error := task.exception():
            self._on_error(claim, error)
        else:
            self._tell.ended(claim, task.result())
        self._changed.set()
        self._tell.left()

    def _on_error(self, claim: Claim, error: BaseException) -> None:
        if isinstance(error, EngineDead):
            self._orphans[claim.execution_id] = claim
        else:  # a fault of ours: another worker may do better once the lease has expired
            extra = {"event": "job.lost", "job_id": claim.job.id}
            logger.error("job lost by its worker", extra=extra, exc_info=error)
