"""Jobs in flight: claimed, not ended, one task each on the worker's event loop.

A task ends in one of five ways: it passes its ending on; it is ended from outside (`end`), because
its caller cancelled the job, its deadline passed or the worker got a kill-horse command, and passes
that on, with the text so far; it is aborted because the worker must stop, and what it has so far
goes back with it (`abort_all`); it is dropped, because the lease is lost, and passes on nothing; or
the engine dies under it, and it is an orphan until the worker takes it back.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from gpu_worker.endings import Ending, Imposed, Stopped, expired, killed
from gpu_worker.engine import Aborted, EngineDead
from gpu_worker.hooks import Hooks
from gpu_worker.inference import Runner
from gpu_worker.tokens import Tokens
from scheduler.claim import Claim

logger = logging.getLogger(__name__)

ABORT_S = 2.0
"""How long the engine has to hand over what a job has so far; then it is cancelled without."""

Task = asyncio.Task[Ending | Aborted]


@dataclass(frozen=True, slots=True)
class Callbacks:
    """Whom the tasks tell, on the event loop."""

    ended: Callable[[Claim, Ending], None]
    left: Callable[[], None]


class Inflight:
    """The jobs one worker has in flight."""

    def __init__(
        self,
        runner: Runner,
        hooks: Hooks,
        tell: Callbacks,
        *,
        show_descriptions: bool,
        tokens: Tokens | None = None,
    ) -> None:
        self._runner = runner
        self._tokens = tokens
        self._show_descriptions = show_descriptions
        self._hooks = hooks
        self._tell = tell
        self._jobs: dict[str, tuple[Claim, Task]] = {}
        self._imposed: dict[str, Imposed | None] = {}
        """Endings from outside, by execution; None once it takes its course."""
        self._alarms: dict[str, asyncio.TimerHandle] = {}
        """What ends jobs at their `finish_by`, by execution."""
        self._aborts: set[asyncio.Task[None]] = set()
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
        self._start(claim, self._run(claim))
        if (finish_by := claim.deadlines.finish_by) is not None:
            left_s = max(0.0, finish_by - time.time())
            alarm = asyncio.get_running_loop().call_later(left_s, self.expire, claim)
            self._alarms[claim.execution_id] = alarm

    def stop(self, job_id: str) -> bool:
        """End a job that its caller cancelled; return whether it is one of these."""
        claims = [claim for claim in self.claims if claim.job.id == job_id]
        for claim in claims:
            self.end(claim, Stopped())
        return bool(claims)

    def expire(self, claim: Claim) -> None:
        """End a job whose deadline has passed."""
        self.end(claim, expired(claim.deadlines))

    def kill_all(self) -> None:
        """Fail every job."""
        for claim in self.claims:
            self.end(claim, killed())

    def end(self, claim: Claim, ending: Imposed) -> None:
        """Abort a job, and let `ending` take its course, with the text so far, unless another does.

        A job that just ends by itself, does.
        """
        entry = self._jobs.get(claim.execution_id)
        if entry and self._imposed.setdefault(claim.execution_id, ending) is ending:
            abort = asyncio.get_running_loop().create_task(self._abort([entry]))
            self._aborts.add(abort)
            abort.add_done_callback(self._aborts.discard)

    def drop(self, claim: Claim) -> None:
        """Abort a job and write nothing of it."""
        if entry := self._jobs.get(claim.execution_id):
            entry[1].cancel()

    async def until_empty(self) -> None:
        """Return when no job is in flight, and no orphan waits to be taken back."""
        while self:
            self._changed.clear()
            await self._changed.wait()

    async def abort_all(self) -> list[Claim]:
        """Abort every job; return the claims of those that had not ended, with what they have."""
        jobs = list(self._jobs.values())
        for claim, _ in jobs:
            self._imposed.pop(claim.execution_id, None)
        await self._abort(jobs)
        return [left for claim, task in jobs if (left := _left(claim, task))]

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

    async def _abort(self, jobs: list[tuple[Claim, Task]]) -> None:
        """End tasks: in the engine, for what there is; those not inside, and late ones, without."""

        async def leave_engine(claim: Claim, task: Task) -> None:
            if await self._runner.engine.abort(claim.job.id):
                await asyncio.wait({task})
            else:
                task.cancel()

        with suppress(TimeoutError):
            async with asyncio.timeout(ABORT_S):
                leaving = (leave_engine(claim, task) for claim, task in jobs)
                await asyncio.gather(*leaving, return_exceptions=True)
        for _, task in jobs:
            task.cancel()
        await asyncio.gather(*(task for _, task in jobs), return_exceptions=True)

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

    async def _run(self, claim: Claim) -> Ending | Aborted:
        keep = self._tokens.begin(claim) if self._tokens else None
        outcome = await self._runner.run(claim.job, claim.so_far, keep)
        if isinstance(outcome, Aborted):
            return outcome
        return await self._hooks.run(claim.job, outcome)

    def _start(self, claim: Claim, course: Coroutine[Any, Any, Ending | Aborted]) -> None:
        task = asyncio.get_running_loop().create_task(course)
        task.add_done_callback(partial(self._on_done, claim))
        self._jobs[claim.execution_id] = (claim, task)

    def _on_done(self, claim: Claim, task: Task) -> None:
        outcome = _outcome(task)
        if isinstance(outcome, Aborted) and (ending := self._imposed.get(claim.execution_id)):
            self._imposed[claim.execution_id] = None
            ending = replace(ending, partial=outcome.body)
            self._start(claim, self._hooks.run(claim.job, ending))
            return
        del self._jobs[claim.execution_id]
        self._imposed.pop(claim.execution_id, None)
        if alarm := self._alarms.pop(claim.execution_id, None):
            alarm.cancel()
        if isinstance(outcome, BaseException):
            self._on_error(claim, outcome)
        elif not isinstance(outcome, Aborted):
            self._tell.ended(claim, outcome)
        self._changed.set()
        self._tell.left()

    def _on_error(self, claim: Claim, error: BaseException) -> None:
        if isinstance(error, EngineDead):
            self._orphans[claim.execution_id] = claim
        else:  # a fault of ours: another worker may do better once the lease has expired
            extra = {"event": "job.lost", "job_id": claim.job.id}
            logger.error("job lost by its worker", extra=extra, exc_info=error)


def _outcome(task: Task) -> Ending | Aborted | BaseException:
    """Return how a task ended; one that was cancelled is one that was aborted with nothing."""
    if task.cancelled():
        return Aborted(None, None)
    return task.exception() or task.result()


def _left(claim: Claim, task: Task) -> Claim | None:
    """Return what to hand back of a job that was aborted; None if it ended by itself.

    The engine that did not say what it has, had at least what it was given.
    """
    if task.cancelled():
        return claim
    outcome = _outcome(task)
    return replace(claim, so_far=outcome.so_far) if isinstance(outcome, Aborted) else None
