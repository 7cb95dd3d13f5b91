"""Scheduling: `--with-scheduler`, RQ's scheduler in a thread of the worker.

RQ forks a process for it, which a worker with an engine, threads and sockets should not do, and
which outlives a worker that is killed. Locks in Redis see to it that a queue has one scheduler.
"""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rq.scheduler import RQScheduler

from config.connections import commands_like

if TYPE_CHECKING:
    from gpu_worker.worker import GPUWorker

logger = logging.getLogger(__name__)


@contextmanager
def scheduling(worker: "GPUWorker", is_asked: bool, burst: bool) -> Iterator[None]:
    """Schedule the worker's queues while the context lasts; in a burst once, at its start."""
    if is_asked and burst:
        worker._start_scheduler(burst=True)
    if not is_asked or burst:
        yield
        return
    worker.scheduler = RQScheduler(
        worker.queues,
        connection=commands_like(worker.connection),
        serializer=worker.serializer,
        logging_level="WARNING",
    )
    thread = _Thread(worker.scheduler)
    thread.start()
    try:
        yield
    finally:
        thread.stop()


class _Thread(threading.Thread):
    """Puts jobs that are due into their queues: at once, then every second until stopped."""

    def __init__(self, scheduler: RQScheduler) -> None:
        super().__init__(name="scheduler", daemon=True)
        self._scheduler = scheduler
        self._stopped = threading.Event()

    def run(self) -> None:
        """Look every second."""
        while True:
            self._attempt()
            if self._stopped.wait(self._scheduler.interval):
                return

    def stop(self) -> None:
        """Let another scheduler take over at once."""
        self._stopped.set()
        self.join()
        try:
            self._scheduler.stop()
        except Exception as error:
            _warn(error)

    def _attempt(self) -> None:
        try:
            if not self._scheduler.last_heartbeat:
                self._scheduler.register_birth()
            if self._scheduler.should_reacquire_locks:
                self._scheduler.acquire_locks()
            self._scheduler.heartbeat()
            self._scheduler.enqueue_scheduled_jobs()
        except Exception as error:
            _warn(error)


def _warn(error: Exception) -> None:
    extra = {"event": "scheduler.failed", "error": error}
    logger.warning("scheduling failed", extra=extra)
