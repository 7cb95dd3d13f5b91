"""Configuration of gunicorn for the API and the dashboard.

Threads, not processes, carry the requests: one that waits for its answer holds a thread and no CPU.
The control socket is off because its path is one per user, shared by every gunicorn of that user.
A process told to stop calls the application's `extensions["on_stop"]` first, so that requests
that wait for a job answer at once.
"""

import signal
import sys
from types import FrameType
from typing import Any

from config.settings import SettingsError, load

try:
    settings = load()
except SettingsError as error:
    sys.exit(f"invalid configuration:\n{error}")

bind = f"{settings.host}:{settings.port}"
worker_class = "gthread"
workers = settings.web_processes
threads = settings.web_threads
graceful_timeout = settings.max_wait_s
timeout = 60
keepalive = 5
control_socket_disable = True
accesslog = None
loglevel = settings.log_level.lower()


def post_worker_init(worker: Any) -> None:
    """Call the application when the process gets SIGTERM; gunicorn has no hook for it."""

    def stop(signum: int, frame: FrameType | None) -> None:
        worker_int(worker)
        worker.handle_exit(signum, frame)

    signal.signal(signal.SIGTERM, stop)
    signal.siginterrupt(signal.SIGTERM, False)


def worker_int(worker: Any) -> None:
    """Call the application when the process is told to stop at once."""
    if on_stop := worker.wsgi.extensions.get("on_stop"):
        on_stop()
