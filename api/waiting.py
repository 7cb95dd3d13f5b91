"""Waiting: requests wait for their jobs to end, and one subscription per process wakes them all.

A thread listens to the channel on which scripts and workers announce the jobs that ended, and
wakes the requests that wait for them. Announcements can be missed, while Redis restarts, or never
be sent, by plain RQ workers; hence the thread also asks for the status of all awaited jobs: once
a second, and whenever it has subscribed.

A request registers its job's id *before* it submits the job, so that no end comes too early to be
noticed. The thread starts with the first request that waits, which is after gunicorn's fork.
`close` is for a process that is told to stop: its requests answer at once with their jobs' state,
instead of being cut off.
"""

import logging
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from redis import Redis
from redis.client import PubSub
from rq.job import Job

from scheduler import keys
from scheduler.jobs import ENDED, STATUS

logger = logging.getLogger(__name__)

RECHECK_S = 1.0
TICK_S = 0.25
MAX_PAUSE_S = 2.0

_ENDED = frozenset(status.value for status, word in STATUS.items() if word in ENDED)


class Waiters:
    """The requests of this process that wait for a job."""

    def __init__(self, connection: Redis, listener: Redis, *, capacity: int) -> None:
        """Take two clients, as `config.connections` makes them, and how many may wait."""
        self._connection = connection
        self._listener = listener
        self._capacity = capacity
        self._waiting: dict[str, list[threading.Event]] = {}
        self._num_waiting = 0
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()

    @contextmanager
    def expect(self, job_id: str) -> Iterator[threading.Event | None]:
        """Yield an event that is set when the job ends; None where no more requests may wait."""
        event = self._register(job_id)
        try:
            yield event
        finally:
            if event:
                self._forget(job_id, event)

    def close(self) -> None:
        """Wake everybody and let nobody wait any more."""
        with self._lock:
            self._closed.set()
            waiting = [*self._waiting]
        self._wake(waiting)

    def _register(self, job_id: str) -> threading.Event | None:
        with self._lock:
            if self._closed.is_set() or self._num_waiting >= self._capacity:
                return None
            event = threading.Event()
            self._waiting.setdefault(job_id, []).append(event)
            self._num_waiting += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._listen, name="waiters", daemon=True)
                self._thread.start()
            return event

    def _forget(self, job_id: str, event: threading.Event) -> None:
        with self._lock:
            self._num_waiting -= 1
            self._waiting[job_id].remove(event)
            if not self._waiting[job_id]:
                del self._waiting[job_id]

    def _listen(self) -> None:
        """Follow the channel until closed, whatever becomes of Redis meanwhile."""
        pause_s = TICK_S
        while not self._closed.is_set():
            started = time.monotonic()
            try:
                with self._listener.pubsub() as subscription:
                    self._follow(subscription)
            except Exception as error:  # the thread must outlive any failure
                extra = {"event": "waiters.interrupted", "error": error}
                logger.warning("subscription interrupted", extra=extra)
            lasted = time.monotonic() - started > MAX_PAUSE_S
            pause_s = TICK_S if lasted else min(2 * pause_s, MAX_PAUSE_S)
            self._closed.wait(pause_s)

    def _follow(self, subscription: PubSub) -> None:
        subscription.subscribe(keys.ENDED)
        recheck_at = 0.0
        while not self._closed.is_set():
            message = subscription.get_message(timeout=TICK_S)
            kind = message["type"] if message else None
            if message and kind == "message":
                self._wake(message["data"].decode().split())
            if kind == "subscribe" or time.monotonic() >= recheck_at:
                recheck_at = time.monotonic() + RECHECK_S
                self._wake(self._ended(list(self._waiting)))

    def _wake(self, job_ids: Iterable[str]) -> None:
        for job_id in job_ids:
            for event in [*self._waiting.get(job_id, ())]:
                event.set()

    def _ended(self, job_ids: list[str]) -> list[str]:
        """Return those of `job_ids` that have ended by their records."""
        if not job_ids:
            return []
        with self._connection.pipeline(transaction=False) as pipeline:
            for job_id in job_ids:
                pipeline.hget(Job.key_for(job_id), "status")
            statuses = pipeline.execute()
        found = zip(job_ids, statuses, strict=True)
        return [job_id for job_id, status in found if status and status.decode() in _ENDED]
