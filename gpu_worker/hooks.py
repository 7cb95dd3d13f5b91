"""Hooks: what a job's producer, and whoever started the worker, want to be run at its end.

As in RQ: `on_success` first, and a job whose `on_success` raises has failed; of a failed job
`on_failure`, then the exception handlers of the command line, until one returns False; of a stopped
one `on_stopped`. They run in threads, within RQ's time limits, and while the job still holds its
lease, so that a slow one holds up nobody else. Webhooks go out after the ending is written.
"""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

from rq import Retry
from rq.job import Job, JobStatus

from gpu_worker.endings import Ending, Failed, Finished, Stopped, failed_by, let_pass, traced
from gpu_worker.limit import within
from gpu_worker.threads import Threads

logger = logging.getLogger(__name__)

WEBHOOK_THREADS = 8

Handler = Callable[..., Any]
"""RQ's exception handler: job, type, exception, traceback -> False to keep the next from it."""


class Hooks:
    """Runs the hooks of jobs that ended."""

    def __init__(self, threads: Threads, handlers: Sequence[Handler]) -> None:
        self._threads = threads
        self._handlers = handlers

    async def run(self, job: Job, ending: Ending) -> Ending:
        """Return the ending of `job`, which a hook that raises changes as it does in RQ."""
        if isinstance(ending, Finished):
            ending = await self._on_success(job, ending)
        if isinstance(ending, Failed):
            ending = await self._on_failure(job, ending)
            await self._handle(job, ending.error)
        elif isinstance(ending, Stopped):
            await self._on_stopped(job)
        return ending

    async def _on_success(self, job: Job, ending: Finished) -> Ending:
        if not job._success_callback_name or isinstance(ending.value, Retry):
            return ending
        job._result, job._status = ending.value, JobStatus.FINISHED
        arguments = (job, job.connection, ending.value)
        error = await self._call(job, "success", arguments)
        return ending if error is None else failed_by(error)

    async def _on_failure(self, job: Job, ending: Failed) -> Failed:
        job._status = JobStatus.FAILED
        if not job._failure_callback_name:
            return ending
        arguments = (job, job.connection, *_exc_info(ending.error))
        error = await self._call(job, "failure", arguments)
        if error is None:
            return ending
        error.__context__ = ending.error
        return replace(ending, error=error, exc_string=traced(error))

    async def _on_stopped(self, job: Job) -> None:
        if job._stopped_callback_name:
            await self._call(job, "stopped", (job, job.connection))

    async def _call(
        self, job: Job, kind: str, arguments: tuple[object, ...]
    ) -> BaseException | None:
        """Run the callback for `kind` of ending; return what it raised."""
        try:
            callback = await self._threads.run(
                lambda: getattr(job, f"{kind}_callback"), is_interruptible=False
            )
            await within(
                getattr(job, f"{kind}_callback_timeout"),
                self._threads.run(partial(callback, *arguments)),
                what=f"on_{kind}",
            )
        except BaseException as error:
            let_pass(error)
            extra = {"event": "callback.failed", "job_id": job.id, "callback": f"on_{kind}"}
            logger.warning("callback failed", extra=extra, exc_info=error)
            return error
        return None

    async def _handle(self, job: Job, error: BaseException) -> None:
        """Pass `error` to the exception handlers."""
        for handler in self._handlers:
            arguments = (job, *_exc_info(error))
            try:
                verdict = await self._threads.run(partial(handler, *arguments))
            except BaseException as raised:
                let_pass(raised)
                extra = {"event": "exception_handler.failed", "job_id": job.id}
                logger.warning("exception handler failed", extra=extra, exc_info=raised)
                continue
            if verdict is not None and not verdict:
                return


class Webhooks:
    """Sends RQ's webhooks, a few at a time: a slow receiver holds up no other job's ending."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(WEBHOOK_THREADS, thread_name_prefix="webhook")

    def take_over(self, job: Job) -> None:
        """Send what RQ's code will send for `job` from here on, without waiting for it."""
        if not job.webhooks:
            return

        def send_later(status: JobStatus, *, exc_string: str | None = None) -> None:
            self._threads.submit(type(job).send_webhooks, job, status, exc_string=exc_string)

        # On this one job: RQ's handlers call it while they hold up the next ending.
        job.send_webhooks = send_later  # type: ignore[method-assign, assignment]

    def close(self) -> None:
        """Drop what is not yet on its way; the process ends once the rest is out."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _exc_info(error: BaseException) -> tuple[object, ...]:
    return type(error), error, error.__traceback__
