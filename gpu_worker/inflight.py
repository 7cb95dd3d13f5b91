"""Jobs in flight: claimed, not ended, one task each on the worker's event loop.

A task ends in one of four ways: it passes its ending on; it is stopped, because its caller
cancelled the job, and passes that on; it is dropped, because the lease is lost or handed back, and
passes on nothing; or the engine dies under it.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from gpu_worker.engine import EngineDead
from gpu_worker.inference import Ending, Runner, Stopped
from scheduler.claim import Claim


@dataclass(frozen=True, slots=True)
class Callbacks:
    """Whom the tasks tell, on the event loop."""

    ended: Callable[[Claim, Ending], None]
    engine_died: Callable[[EngineDead], None]
    left: Callable[[], None]


class Inflight:
    """The jobs one worker has in flight."""

    def __init__(self, runner: Runner, tell: Callbacks) -> None:
        self._runner = runner
        self._tell = tell
        self._jobs: dict[str, tuple[Claim, asyncio.Task[None]]] = {}
        self._stopping: set[str] = set()

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def claims(self) -> list[Claim]:
        """The claims of all jobs in flight."""
        return [claim for claim, _ in self._jobs.values()]

    def launch(self, claim: Claim) -> None:
        """Run a job that was just claimed."""
        task = asyncio.get_running_loop().create_task(self._run(claim))
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
        """Return when no job is in flight."""
        while self._jobs:
            await asyncio.wait([task for _, task in self._jobs.values()])

    async def drop_all(self) -> list[Claim]:
        """Abort every job and return their claims."""
        rest = self.claims
        for claim in rest:
            self.drop(claim)
        await self.until_empty()
        return rest

    async def _run(self, claim: Claim) -> None:
        try:
            ending = await self._runner.run(claim.job)
        except asyncio.CancelledError:
            if claim.execution_id not in self._stopping:
                raise
            ending = Stopped()
        except EngineDead as error:
            self._tell.engine_died(error)
            return
        finally:
            self._stopping.discard(claim.execution_id)
            del self._jobs[claim.execution_id]
            self._tell.left()
        self._tell.ended(claim, ending)
