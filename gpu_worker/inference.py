"""Inference: one claimed job, from its request to its ending.

An ending is a value: what the worker must write, decided without Redis. `generate` is the function
an inference job names; GPUWorker gives it to the engine, and any other worker that picks the job up
fails it with a plain sentence.
"""

import asyncio
import traceback
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from rq import Retry
from rq.exceptions import DeserializationError
from rq.job import Job
from rq.utils import utcformat

from config.tiers import TierTable
from gpu_worker.callables import Callables
from gpu_worker.engine import Engine, EngineDead, EngineError, FirstToken, InvalidRequest, Response
from scheduler.jobs import FUNCTION, Failure, Request


@dataclass(frozen=True, slots=True)
class Finished:
    """The job succeeded with this return value."""

    value: Any


@dataclass(frozen=True, slots=True)
class Failed:
    """The job failed; `exc_string` is for the operator, `failure` for the caller."""

    failure: Failure
    exc_string: str
    error: BaseException


@dataclass(frozen=True, slots=True)
class Stopped:
    """The job's caller cancelled it while it ran."""


UNREADABLE = "the job's record is not JSON; enqueue it with rq.serializers.JSONSerializer"

Ending = Finished | Failed | Stopped


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

    async def run(self, job: Job) -> Ending:
        """Return how `job` ended; raises EngineDead, and CancelledError when it is cancelled."""
        return await _run(job, self)


async def _run(job: Job, runner: Runner) -> Ending:
    try:
        async with asyncio.timeout(_timeout(job)):
            if job.func_name == FUNCTION:
                return Finished(await _infer(job, runner.engine, runner.tiers))
            return Finished(_storable(job, await runner.callables.call(job)))
    except EngineDead:
        raise
    except EngineError as error:
        return _failed(error, error.code, str(error))
    except TimeoutError as error:
        return _failed(error, "timeout", f"the job ran for more than {job.timeout} s")
    except DeserializationError as error:
        return _failed(error, "invalid_record", f"{UNREADABLE}: {error.__cause__ or error}")
    except (Exception, SystemExit, KeyboardInterrupt) as error:  # a job does not end its worker
        return _failed(error, "job_failed", f"{type(error).__name__}: {error}")


def _storable(job: Job, value: Any) -> Any:
    """Return what a function returned; raises what the serializer says against it."""
    if not isinstance(value, Retry):
        job.serializer.dumps(value)
    return value


async def _infer(job: Job, engine: Engine, tiers: TierTable) -> dict[str, Any]:
    """Return the OpenAI response, the instant of the first token noted in `job.meta`."""
    events = engine.run(request_of(job), job_id=job.id, priority=_priority(job, tiers))
    async with aclosing(events):
        async for event in events:
            match event:
                case FirstToken(at):
                    job.meta["first_token_at"] = utcformat(at)
                case Response(body):
                    return body
    raise AssertionError("an engine's last event is a Response")


def request_of(job: Job) -> Request:
    """Return the job's request; InvalidRequest if its one argument is none."""
    match list(job.args), job.kwargs:
        case [{"endpoint": str(endpoint), "body": dict(body)}], {}:
            return Request(endpoint=endpoint, body=body)
    raise InvalidRequest(f'{FUNCTION} takes one argument, {{"endpoint": "/v1/…", "body": {{…}}}}')


def _priority(job: Job, tiers: TierTable) -> int:
    """Return the tier's priority; without a known tier, the least urgent of its queue."""
    if tier := tiers.tiers.get(str(job.meta.get("tier"))):
        return tier.priority
    same_queue = [t.priority for t in tiers.tiers.values() if t.queue == job.origin]
    return max(same_queue or [t.priority for t in tiers.tiers.values()])


def _timeout(job: Job) -> float | None:
    return job.timeout if job.timeout and job.timeout > 0 else None


def _failed(error: BaseException, code: str, message: str) -> Failed:
    expected = isinstance(error, EngineError | DeserializationError)
    text = (
        f"{type(error).__name__}: {message}"
        if expected
        else "".join(traceback.format_exception(error))
    )
    return Failed(Failure(code=code, message=message), text, error)
