"""Callables: any function that a job names besides `generate`.

Coroutine functions run on the worker's loop, plain ones in a pool of threads, many at a time.
`rq.get_current_job()` is right in each of them: RQ keeps the current job per thread, which many
jobs share on one loop, so its stack is replaced by one per context.

A thread that must stop (a timeout, a stop command) gets an exception at its next bytecode, as RQ's
own TimerDeathPenalty does; C code that does not return cannot be stopped.
"""

import inspect
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import rq.job
from rq.job import Job

from gpu_worker.threads import Threads


class _ContextStack:
    """RQ's stack of current jobs, one per context."""

    def __init__(self) -> None:
        self._jobs: ContextVar[tuple[Job, ...]] = ContextVar("current_jobs", default=())

    def push(self, job: Job) -> None:
        """Make `job` the current one."""
        self._jobs.set((*self._jobs.get(), job))

    def pop(self) -> Job:
        """Remove and return the current job."""
        *rest, job = self._jobs.get()
        self._jobs.set(tuple(rest))
        return job

    @property
    def top(self) -> Job | None:
        """The current job, None outside of any."""
        jobs = self._jobs.get()
        return jobs[-1] if jobs else None


_stack = _ContextStack()
rq.job._job_stack = _stack  # type: ignore[assignment]  # the same interface


class Callables:
    """Runs the functions of jobs, plain ones in `threads`."""

    def __init__(self, threads: Threads) -> None:
        self._threads = threads
        self._imported: set[str] = set()

    async def call(self, job: Job) -> Any:
        """Return what the job's function returns; cancelling interrupts the function."""
        _stack.push(job)  # in this task's own context
        function = await self._resolve(job)
        if inspect.iscoroutinefunction(function):
            return await function(*job.args, **job.kwargs)
        value = await self._threads.run(lambda: function(*job.args, **job.kwargs))
        return await value if inspect.iscoroutine(value) else value

    async def _resolve(self, job: Job) -> Callable[..., Any]:
        """Return the job's function; importing its module does not block the loop."""
        module = str(job.func_name).rpartition(".")[0]
        if module in self._imported or job.instance is not None:
            return _function(job)
        found: Callable[..., Any] = await self._threads.run(
            lambda: _function(job), is_interruptible=False
        )
        self._imported.add(module)
        return found


def _function(job: Job) -> Callable[..., Any]:
    function = job.func
    if function is None:
        raise ValueError("the job names no function")
    found: Callable[..., Any] = function
    return found
