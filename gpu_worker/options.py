"""Options: what RQ's command line means for this worker, where that takes a word (docs/rq.md)."""

import logging
import pickle
import signal
import sys
from typing import Any

from redis import Redis
from rq.defaults import (
    DEFAULT_LOGGING_DATE_FORMAT,
    DEFAULT_LOGGING_FORMAT,
    DEFAULT_SERIALIZER_CLASS,
    DEFAULT_WORKER_TTL,
)
from rq.logutils import ColorizingStreamHandler
from rq.serializers import DefaultSerializer, JSONSerializer, resolve_serializer
from rq.worker import DequeueStrategy

from config import logs

ECHO_S = 1.0
RECORD_GRACE_S = 60
"""How long RQ keeps a worker's record beyond its `--worker-ttl`."""


def serializer(given: Any) -> Any:
    """Return the serializer to use, JSON by default; SystemExit if pickle was asked for.

    A pickle in Redis lets whoever writes to Redis run code in the worker.
    """
    if given in (None, DEFAULT_SERIALIZER_CLASS, DefaultSerializer):  # RQ's default: nobody chose
        return JSONSerializer
    if resolve_serializer(given).loads is pickle.loads:
        sys.exit(f"--serializer {given}: whoever writes to Redis could run code here; use json")
    return given


def refuse_strategy(strategy: DequeueStrategy | str) -> None:
    """End with one line unless queues are to be served in rank order."""
    if strategy != DequeueStrategy.DEFAULT:
        name = DequeueStrategy(strategy).value
        sys.exit(f"--dequeue-strategy {name}: tiers are served in rank order only")


def refuse_taken_name(connection: Redis, key: str, name: str) -> None:
    """End with one line if a living worker has this name, before the engine starts."""
    if connection.exists(key) and not connection.hexists(key, "death"):
        sys.exit(f"--name {name}: a worker of this name is registered; it expires if it is dead")


def configure_logs(
    level: str | int | None, default_level: str, log_format: str, date_format: str
) -> None:
    """Send the log to standard error, unless DICT_CONFIG or the program has set it up already."""
    rq = logging.getLogger("rq.worker")
    for handler in [h for h in rq.handlers if isinstance(h, ColorizingStreamHandler)]:
        rq.removeHandler(handler)  # RQ's command line adds them
    wanted = level.upper() if isinstance(level, str) else level
    root = logging.getLogger()
    if not root.handlers:
        logs.configure(
            wanted or default_level,
            _chosen(log_format, DEFAULT_LOGGING_FORMAT),
            _chosen(date_format, DEFAULT_LOGGING_DATE_FORMAT),
        )
    elif wanted:
        root.setLevel(wanted)


def heartbeat_s(job_monitoring_interval: int, lease_s: float) -> float:
    """Return the pause between heartbeats: as asked, and often enough to keep the leases."""
    return min(max(1, job_monitoring_interval), lease_s / 3)


def record_s(worker_ttl: int, lease_s: float) -> int:
    """Return for how long the record outlives a heartbeat: two leases, or as asked."""
    return int(2 * lease_s) if worker_ttl == DEFAULT_WORKER_TTL else worker_ttl + RECORD_GRACE_S


def is_echo(signum: int, since_s: float) -> bool:
    """Whether a signal repeats the last: a terminal and `rq worker-pool` both send INT."""
    return signum == signal.SIGINT and since_s < ECHO_S


def _chosen(value: str, default: str) -> str | None:
    return None if value == default else value
