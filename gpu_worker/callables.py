"""Callables: any function that a job names besides `generate`.

Coroutine functions run on the worker's loop, plain ones in a pool of threads, many at a time.
`rq.get_current_job()` is right in each of them: RQ keeps the current job per thread, which many
jobs share on one loop, so its stack is replaced by one per context.

A thread that must stop (a timeout, a stop command) gets an exception at its next bytecode, as RQ's
own TimerDeathPenalty does; C code that does not return cannot be stopped.
"""

import asyncio
import ctypes
import inspect
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar, copy_context
from typing import Any

import rq.job
from rq.job import Job
from rq.timeouts import JobTimeoutException


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
    """Runs the functions of jobs, up to `threads` plain ones at a time."""

    def __init__(self, threads: int) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="job")

    async def call(self, job: Job) -> Any:
        """Return what the job's function returns; cancelling interrupts the function."""
        _stack.push(job)  # in this task's own context
        function = await self._resolve(job)
        if inspect.iscoroutinefunction(function):
            return await function(*job.args, **job.kwargs)
        return await self._in_thread(lambda: function(*job.args, **job.kwargs))

    async def _resolve(self, job: Job) -> Callable[..., Any]:
        """Return the job's function; importing its module does not block the loop."""
        module = str(job.func_name).rpartition(".")[0]
        if module in sys.modules or job.instance is not None:
            return _function(job)
        return await asyncio.get_running_loop().run_in_executor(self._threads, _function, job)

    async def _in_thread(self, call: Callable[[], Any]) -> Any:
        run = _Interruptible(call)
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._threads, copy_context().run, run)
        except asyncio.CancelledError:
            run.interrupt()
            raise


class _Interruptible:
    """A call in some thread, which another thread may interrupt while it runs."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call
        self._lock = threading.Lock()
        self._thread: int | None = None

    def __call__(self) -> Any:
        with self._lock:
            self._thread = threading.get_ident()
        try:
            return self._call()
        finally:
            with self._lock:
                self._thread = None

    def interrupt(self) -> None:
        """Raise JobTimeoutException in the thread, if the call still runs."""
        with self._lock:
            if self._thread is not None:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(self._thread), ctypes.py_object(JobTimeoutException)
                )


def _function(job: Job) -> Callable[..., Any]:
    function = job.func
    if function is None:
        raise ValueError("the job names no function")
    found: Callable[..., Any] = function
    return found
