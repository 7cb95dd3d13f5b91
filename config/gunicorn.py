"""Configuration of gunicorn for the API and the dashboard.

Threads, not processes, carry the requests: one that waits for its answer holds a thread and no CPU
(`config.web_worker`). Beside them, IDLE connections may be open that have no request.
The control socket is off because its path is one per user, shared by every gunicorn of that user.
A process told to stop calls the application's `extensions["on_stop"]` first, so that requests
that wait for a job answer at once. A reload (SIGHUP) with settings that are wrong changes nothing.
"""

import resource
import sys
from typing import Any

from config.settings import SettingsError, load
from config.web_worker import WebWorker, end_waits

IDLE = 1024
SPARE_FILES = 256
"""File descriptors for what is no client's connection: Redis, logs, libraries."""

try:
    settings = load()
except SettingsError as error:
    sys.exit(f"invalid configuration:\n{error}")


def _allowed_files(wanted: int) -> int:
    """Return how many files a process may open, raised to `wanted` as far as is permitted."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


bind = f"{settings.host}:{settings.port}"
worker_class = WebWorker
workers = settings.web_processes
threads = settings.web_threads
worker_connections = _allowed_files(threads + IDLE + SPARE_FILES) - SPARE_FILES
graceful_timeout = settings.max_wait_s
timeout = 60
keepalive = 5
control_socket_disable = True
accesslog = None
loglevel = settings.log_level.lower()


def when_ready(server: Any) -> None:
    """Reload only to settings that are right: with others the new processes would not start."""
    reload = server.handle_hup

    def reload_if_valid() -> None:
        try:
            load().tiers()
        except SettingsError as error:
            server.log.error("not reloaded, invalid configuration:\n%s", error)
        else:
            reload()

    server.handle_hup = reload_if_valid


def worker_int(worker: Any) -> None:
    """End the waits also when the process is told to stop at once."""
    end_waits(worker)
