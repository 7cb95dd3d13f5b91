"""Web worker: gunicorn's `gthread`, made fit for thousands of clients that wait at once.

A request that waits holds a thread, and a thread that waits costs no CPU; threads start when they
are needed. What is different from gunicorn's own class:

- The application hears of SIGTERM (`extensions["on_stop"]`), so that who waits is answered then.
- A connection that ends is closed by the thread that served it. gunicorn does that in the one
  thread that accepts, and waits there up to two seconds until the client has closed its end.
- Where the machine lets no more threads start, those there are serve on, and the log says so.
  gunicorn's process would end.
"""

import logging
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import Any

from gunicorn.workers.gthread import TConn, ThreadWorker

logger = logging.getLogger(__name__)


def end_waits(worker: Any) -> None:
    """Have the application of a gunicorn worker answer those who wait, if it is loaded yet."""
    application = getattr(worker, "wsgi", None)
    if application and (on_stop := application.extensions.get("on_stop")):
        on_stop()


class WebWorker(ThreadWorker):
    """One web process."""

    def get_thread_pool(self) -> ThreadPoolExecutor:
        """Return the threads that serve."""
        return _Threads(self.cfg.threads, thread_name_prefix="web")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End the waits of the application, then serve what is under way."""
        end_waits(self)
        super().handle_exit(sig, frame)

    def handle(self, conn: TConn) -> Any:
        """Serve a request; whether the connection stays open for another."""
        stays = super().handle(conn)
        if not stays:
            conn.close(graceful=True)
            conn.close = _closed  # not once more where connections are accepted
        return stays


class _Threads(ThreadPoolExecutor):
    """Threads that are fewer than was allowed, where the machine has no more."""

    def _adjust_thread_count(self) -> None:
        try:
            super()._adjust_thread_count()
        except RuntimeError:
            if not self._threads:
                raise
            self._max_workers = len(self._threads)
            extra = {"event": "web.threads_exhausted", "threads": self._max_workers}
            logger.error("no more threads: set SLALOM_WEB_THREADS to fewer", extra=extra)


def _closed(graceful: bool = False) -> None:
    """Do nothing: it is closed."""
