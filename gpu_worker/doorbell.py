"""Doorbell: an idle worker learns at once that a job stands in one of its queues.

One thread per queue blocks in `BLMOVE queue queue LEFT LEFT`: the head of the list is put back
where it was, in the same atomic step, so this waits for a job without taking it. It works for any
producer, plain RQ's included, and for jobs that a rescue or a retry put back.
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


class Doorbell:
    """Calls `ring`, from a thread, when a queue has a job; once for every `arm`."""

    def __init__(self, listener: Redis, queues: Sequence[str], ring: Callable[[], None]) -> None:
        self._listener = listener
        self._ring = ring
        self._armed = [threading.Event() for _ in queues]
        self._stopped = False
        self._threads = [
            threading.Thread(target=self._listen, args=(queue, armed), daemon=True)
            for queue, armed in zip(queues, self._armed, strict=True)
        ]
        for thread in self._threads:
            thread.start()

    def arm(self, num_queues: int | None = None) -> None:
        """Ring at the next job, in the first so many queues only."""
        for armed in self._armed[:num_queues]:
            armed.set()

    def stop(self) -> None:
        """Let the threads end; they ring no more."""
        self._stopped = True
        self.arm()

    def _listen(self, queue: str, armed: threading.Event) -> None:
        key = keys.queue(queue)
        while armed.wait() and not self._stopped:
            try:
                found = self._listener.blmove(key, key, LISTEN_S, "LEFT", "LEFT")
            except RedisError as error:
                if not self._stopped:
                    extra = {"event": "doorbell.interrupted", "queue": queue, "error": error}
                    logger.warning("waiting for jobs interrupted", extra=extra)
                    time.sleep(PAUSE_S)
                continue
            if found is not None and not self._stopped:
                armed.clear()
                self._ring()
