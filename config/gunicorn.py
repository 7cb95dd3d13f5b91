"""Configuration of gunicorn for the API and the dashboard.

Threads, not processes, carry the requests: one that waits for its answer holds a thread and no CPU.
The control socket is off because its path is one per user, shared by every gunicorn of that user.
"""

import sys

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
