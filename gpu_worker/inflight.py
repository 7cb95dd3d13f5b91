"""Jobs in flight: claimed, not ended, one task each on the worker's event loop.

A task ends in one of four ways: it passes its ending on; it is stopped, because its caller
cancelled the job, and passes that on; it is dropped, because the lease is lost or handed back, and
passes on nothing; or the engine dies under it, and it is an orphan until the worker takes it back.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from gpu_worker.engine import EngineDead
from gpu_worker.inference import Ending, Runner, Stopped
from scheduler.claim import Claim

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Callbacks:
    """Whom the tasks tell, on the event loop."""

    ended: Callable[[Claim, Ending], None]
    left: Callable[[], None]


class Inflight:
    """The jobs one worker has in flight."""

    def __init__(self, runner: Runner, tell: Callbacks) -> None:
        self._runner = runner
        self._tell = tell
        self._jobs: dict[str, tuple[Claim, asyncio.Task[Ending]]] = {}
        self._stopping: set[str] = set()
        self._orphans: dict[str, Claim] = {}
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._jobs) + len(self._orphans)

    @property
    def is_exclusive(self) -> bool:
        """Whether a suspect runs, which nothing may run beside."""
        return any(claim.alone for claim, _ in self._jobs.values())

    @property
    def claims(self) -> list[Claim]:
        """The claims of all jobs in flight."""
        return [claim for claim, _ in self._jobs.values()]

    def launch(self, claim: Claim) -> None:
        """Run a job that was just claimed."""
        task = asyncio.get_running_loop().create_task(self._runner.run(claim.job))
        task.add_done_callback(partial(self._on_done, claim))
        self._jobs[claim.execution_id] = (claim, task)

    def stop(self, job_id: str) -> None:
        """Abort a job that its caller cancelled; unknown ids are somebody else's."""
        for claim in self.claims:
            if claim.job.id == job_id:
                self._stopping.add(claim.execution_id)
                self.drop(claim)

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
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return claims

    def _on_done(self, claim: Claim, task: asyncio.Task[Ending]) -> None:
        del self._jobs[claim.execution_id]
        if task.cancelled():
            if claim.execution_id in self._stopping:
                self._tell.ended(claim, Stopped())
        elif error := task.exception():
            self._on_error(claim, error)
        else:
            self._tell.ended(claim, task.result())
        self._stopping.discard(claim.execution_id)
        self._changed.set()
        self._tell.left()

    def _on_error(self, claim: Claim, error: BaseException) -> None:
        if isinstance(error, EngineDead):
            self._orphans[claim.execution_id] = claim
        else:  # a fault of ours: another worker may do better once the lease has expired
            extra = {"event": "job.lost", "job_id": claim.job.id}
            logger.error("job lost by its worker", extra=extra, exc_info=error)
