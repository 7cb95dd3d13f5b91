"""Waiting: requests wait for their jobs to end, and the hub of the process wakes them all.

A request registers its job's id *before* it submits the job, so that no end comes too early to be
noticed. Of a process that is told to stop, the requests answer at once with their jobs' state,
instead of being cut off.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from api.hub import Hub
from scheduler.events import Entry


class _Waiter:
    """One request that waits for its job to end."""

    def __init__(self) -> None:
        self.woken = threading.Event()

    def on_entry(self, entry: Entry) -> None:
        """Wait on: only the end counts."""

    def on_status(self, status: str | None, *, has_ended: bool) -> None:
        """Wake at the end."""
        if has_ended:
            self.woken.set()

    def on_doubt(self) -> None:
        """Wait on: the hub asks for the status itself."""

    def on_close(self) -> None:
        """Wake: the process stops."""
        self.woken.set()


class Waiters:
    """The requests of this process that wait for a job."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    @contextmanager
    def expect(self, job_id: str) -> Iterator[threading.Event | None]:
        """Yield an event that is set when the job ends; None where no more requests may wait."""
        waiter = _Waiter()
        if not self._hub.add(job_id, waiter):
            yield None
            return
        try:
            yield waiter.woken
        finally:
            self._hub.remove(job_id, waiter)

    def close(self) -> None:
        """Wake everybody and let nobody wait any more."""
        self._hub.close()
