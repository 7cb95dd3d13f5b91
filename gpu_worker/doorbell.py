"""Doorbell: an idle worker takes a job at the instant at which it comes.

One thread per queue blocks in `BLMOVE queue queue LEFT LEFT`: the head of the list is put back
where it was, in the same atomic step, so this waits for a job without taking it. It works for any
producer, plain RQ's included, and for jobs that a rescue or a retry put back. A second one does the
same on the queue's bell, which has an entry while jobs wait in lines of tenants, however many lines
there are. The thread that sees a job claims at once, itself: going through the event loop first
would cost as much again.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence

from redis import Redis
from redis.exceptions import RedisError

from scheduler import keys

logger = logging.getLogger(__name__)

LISTEN_S = 5
"""How long one call blocks; then it is made anew, or the thread ends."""
PAUSE_S = 1.0
LISTS = (keys.queue, keys.bell)
"""What to listen to, of each queue."""

Answer = Callable[[], None]
"""What to do for a job; called in a thread of the doorbell's."""


class Doorbell:
    """Has one thread answer when a queue has a job; once for every `arm`."""

    def __init__(self, listener: Redis, queues: Sequence[str]) -> None:
        self._listener = listener
        self._lock = threading.Lock()
        self._answer: Answer | None = None
        lists = [key(queue) for queue in queues for key in LISTS]
        self._armed = [threading.Event() for _ in lists]
        self._stopped = False
        self._threads = [
            threading.Thread(target=self._listen, args=(key, armed), daemon=True)
            for key, armed in zip(lists, self._armed, strict=True)
        ]
        for thread in self._threads:
            thread.start()

    def arm(self, answer: Answer, num_queues: int) -> None:
        """Answer the next job in the first so many queues."""
        with self._lock:
            self._answer = answer
        for armed in self._armed[: num_queues * len(LISTS)]:
            armed.set()

    def disarm(self) -> bool:
        """Answer nothing more; False if the last answer is on its way already."""
        return self._take_answer() is not None

    def stop(self) -> None:
        """Let the threads end."""
        self._stopped = True
        self.disarm()
        for armed in self._armed:
            armed.set()

    def _take_answer(self) -> Answer | None:
        with self._lock:
            answer, self._answer = self._answer, None
        return answer

    def _listen(self, key: str, armed: threading.Event) -> None:
        while armed.wait() and not self._stopped:
            try:
                found = self._listener.blmove(key, key, LISTEN_S, "LEFT", "LEFT")
            except RedisError as error:
                if not self._stopped:
                    extra = {"event": "doorbell.interrupted", "list": key, "error": error}
                    logger.warning("waiting for jobs interrupted", extra=extra)
                    time.sleep(PAUSE_S)
                continue
            if found is not None:
                armed.clear()
                if answer := self._take_answer():
                    answer()
