"""Inference: one claimed job, from its request to its ending.

`generate` is the function an inference job names; GPUWorker gives it to the engine, and any other
worker that picks the job up fails it with a plain sentence.
"""

from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rq import Queue, Retry
from rq.job import Job
from rq.utils import utcformat

from config.tiers import TierTable
from gpu_worker.callables import Callables
from gpu_worker.endings import Ending, Finished, failed_by, let_pass
from gpu_worker.engine import (
    Aborted,
    Chunk,
    Engine,
    EngineDead,
    FirstToken,
    InvalidRequest,
    Response,
)
from gpu_worker.limit import within
from scheduler import promotion
from scheduler.jobs import FIRST_TOKEN_AT, FUNCTION, Request
from scheduler.so_far import SoFar

Keep = Callable[[str], None]


def generate(request: Request) -> None:
    """Run an OpenAI request on the engine of a GPUWorker; RuntimeError in any other worker."""
    raise RuntimeError(
        f"{FUNCTION} runs only in `rq worker -w gpu_worker.GPUWorker`: "
        f"this worker has no engine for {request.get('endpoint')}"
    )


@dataclass(frozen=True, slots=True)
class Runner:
    """What jobs run on."""

    engine: Engine
    tiers: TierTable
    callables: Callables

    async def run(
        self, job: Job, so_far: SoFar | None = None, keep: Keep | None = None
    ) -> Ending | Aborted:
        """Return how `job` ended, or what there is of one that was aborted in the engine.

        With `keep`, that is given each chunk of the output as it comes. Raises EngineDead, and
        CancelledError when it is cancelled.
        """
        ending: Ending | Aborted
        try:
            limit_s = job.timeout or Queue.DEFAULT_TIMEOUT
            outcome = await within(limit_s, self._perform(job, so_far, keep))
            ending = outcome if isinstance(outcome, Aborted) else Finished(outcome)
        except EngineDead:
            raise
        except BaseException as error:  # SystemExit too: a job must not end the worker
            let_pass(error)
            ending = failed_by(error)
        job.ended_at = datetime.now(UTC)
        return ending

    async def _perform(self, job: Job, so_far: SoFar | None, keep: Keep | None) -> Any:
        if job.func_name == FUNCTION:
            return await self._infer(job, so_far, keep)
        return _storable(job, await self.callables.call(job))

    async def _infer(
        self, job: Job, so_far: SoFar | None, keep: Keep | None
    ) -> dict[str, Any] | Aborted:
        """Return the OpenAI response, the instant of the first token noted in `job.meta`."""
        priority = _priority(job, self.tiers)
        events = self.engine.run(
            request_of(job),
            job_id=job.id,
            priority=priority,
            so_far=so_far,
            stream=keep is not None,
        )
        async with aclosing(events):
            async for event in events:
                match event:
                    case FirstToken(at):
                        job.meta[FIRST_TOKEN_AT] = utcformat(at)
                    case Chunk(body) if keep:
                        keep(body)
                    case Response(body):
                        return body
                    case Aborted():
                        return event
        raise AssertionError("an engine's last event is a Response, or Aborted")


def _storable(job: Job, value: Any) -> Any:
    """Return what a function returned; raises what the serializer says against it."""
    if not isinstance(value, Retry):
        job.serializer.dumps(value)
    return value


def request_of(job: Job) -> Request:
    """Return the job's request; InvalidRequest if its one argument is none."""
    match list(job.args), job.kwargs:
        case [{"endpoint": str(endpoint), "body": dict(body)}], {}:
            return Request(endpoint=endpoint, body=body)
    raise InvalidRequest(f'{FUNCTION} takes one argument, {{"endpoint": "/v1/…", "body": {{…}}}}')


def _priority(job: Job, tiers: TierTable) -> int:
    """Return the tier's priority; without a known tier, the least urgent of its queue."""
    if tier := tiers.tiers.get(str(job.meta.get("tier"))):
        return promotion.priority(tier, tiers) if promotion.is_promoted(job) else tier.priority
    same_queue = [t.priority for t in tiers.tiers.values() if t.queue == job.origin]
    return max(same_queue or [t.priority for t in tiers.tiers.values()])
