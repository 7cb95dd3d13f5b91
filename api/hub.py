"""Hub: the one subscription of a web process, and everybody in it who is told of jobs.

A thread listens to the channels on which scripts and workers announce the jobs that ended and the
events of streamed ones, and tells the watchers of those jobs. Announcements can be missed, while
Redis restarts, or never be sent, by plain RQ workers; hence the thread also asks for the status of
watched jobs: of all whenever it has subscribed, and of LOOKED_AT in turn every second, so that what
thousands cost who wait is the same as of a few. Whenever it has subscribed, it also tells every
watcher to look for himself.

Who watches is registered *before* he looks at the job, or submits it, so that nothing comes too
early to be noticed. The thread starts with the first watcher, which is after gunicorn's fork.
`close` is for a process that is told to stop: its watchers are told, instead of being cut off.
"""

import logging
import threading
import time
from typing import Protocol

from redis import Redis
from redis.client import PubSub
from rq.job import Job

from scheduler import events, keys
from scheduler.events import Entry
from scheduler.jobs import ENDED, STATUS

logger = logging.getLogger(__name__)

RECHECK_S = 1.0
LOOKED_AT = 50
"""Jobs whose status is asked for at a time."""
TICK_S = 0.25
MAX_PAUSE_S = 2.0

_ENDED = frozenset(status.value for status, word in STATUS.items() if word in ENDED)


class Watcher(Protocol):
    """Who is told of a job, by the thread of the hub: never blocks it."""

    def on_entry(self, entry: Entry) -> None:
        """Take an entry of the job's log as it is written."""
        ...

    def on_status(self, status: str | None, *, has_ended: bool) -> None:
        """Take the status (RQ's) as it is found; None where there is none, or it was not said."""
        ...

    def on_doubt(self) -> None:
        """Know that something may have been missed."""
        ...

    def on_close(self) -> None:
        """Know that the process stops."""
        ...


class Hub:
    """Tells the watchers of this process what happens to their jobs."""

    def __init__(self, connection: Redis, listener: Redis, *, capacity: int) -> None:
        """Take two clients, as `config.connections` makes them, and how many may watch."""
        self._connection = connection
        self._listener = listener
        self._capacity = capacity
        self._watchers: dict[str, tuple[Watcher, ...]] = {}
        self._num_watchers = 0
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()
        self._turn = 0

    def add(self, job_id: str, watcher: Watcher) -> bool:
        """Tell `watcher` of a job from now on; False where no more may watch."""
        with self._lock:
            if self._closed.is_set() or self._num_watchers >= self._capacity:
                return False
            self._num_watchers += 1
            self._watchers[job_id] = (*self._watchers.get(job_id, ()), watcher)
            if self._thread is None:
                self._thread = threading.Thread(target=self._listen, name="hub", daemon=True)
                self._thread.start()
            return True

    def remove(self, job_id: str, watcher: Watcher) -> None:
        """Tell `watcher` no more; one that is not there is nobody."""
        with self._lock:
            watchers = self._watchers.get(job_id, ())
            left = tuple(other for other in watchers if other is not watcher)
            self._num_watchers -= len(watchers) - len(left)
            if left:
                self._watchers[job_id] = left
            else:
                self._watchers.pop(job_id, None)

    def close(self) -> None:
        """Tell everybody, and let nobody watch any more."""
        with self._lock:
            self._closed.set()
            everybody = self._everybody()
        for watcher in everybody:
            watcher.on_close()

    def _everybody(self) -> list[Watcher]:
        return [watcher for watchers in list(self._watchers.values()) for watcher in watchers]

    def _listen(self) -> None:
        """Follow the channels until closed, whatever becomes of Redis meanwhile."""
        pause_s = TICK_S
        while not self._closed.is_set():
            started = time.monotonic()
            try:
                with self._listener.pubsub() as subscription:
                    self._follow(subscription)
            except Exception as error:  # the thread must outlive any failure
                extra = {"event": "hub.interrupted", "error": error}
                logger.warning("subscription interrupted", extra=extra)
            lasted = time.monotonic() - started > MAX_PAUSE_S
            pause_s = TICK_S if lasted else min(2 * pause_s, MAX_PAUSE_S)
            self._closed.wait(pause_s)

    def _follow(self, subscription: PubSub) -> None:
        subscription.subscribe(keys.ENDED, keys.EVENTS)
        recheck_at = 0.0
        while not self._closed.is_set():
            message = subscription.get_message(timeout=TICK_S)
            if message:
                self._on_message(message["type"], message["channel"].decode(), message["data"])
            if time.monotonic() >= recheck_at:
                recheck_at = time.monotonic() + RECHECK_S
                self._recheck(self._in_turn())

    def _on_message(self, kind: str, channel: str, data: bytes) -> None:
        if kind == "subscribe":
            for watcher in self._everybody():
                watcher.on_doubt()
            self._recheck(list(self._watchers))
        elif kind == "message" and channel == keys.ENDED:
            for job_id in data.decode().split():
                self._tell_status(job_id, None, has_ended=True)
        elif kind == "message":
            for job_id, entry in events.told(data):
                for watcher in self._watchers.get(job_id, ()):
                    watcher.on_entry(entry)

    def _in_turn(self) -> list[str]:
        """Return the next LOOKED_AT of the watched jobs; after the last comes the first."""
        watched = list(self._watchers)
        first = self._turn if self._turn < len(watched) else 0
        self._turn = first + LOOKED_AT
        return watched[first : self._turn]

    def _tell_status(self, job_id: str, status: str | None, *, has_ended: bool) -> None:
        for watcher in self._watchers.get(job_id, ()):
            watcher.on_status(status, has_ended=has_ended)

    def _recheck(self, job_ids: list[str]) -> None:
        """Tell of jobs what their records say."""
        if not job_ids:
            return
        with self._connection.pipeline(transaction=False) as pipeline:
            for job_id in job_ids:
                pipeline.hget(Job.key_for(job_id), "status")
            found = pipeline.execute()
        for job_id, status in zip(job_ids, found, strict=True):
            word = status.decode() if status else None
            self._tell_status(job_id, word, has_ended=word in _ENDED)
