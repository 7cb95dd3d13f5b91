"""Workers: who serves which queue, by RQ's own worker records.

A record expires unless its worker renews it (a GPUWorker within a minute of its death), so a record
is a worker.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import cast

from redis import Redis
from rq import Queue
from rq.job import Job
from rq.worker import Worker
from rq.worker_registration import clean_worker_registry

from scheduler import keys


@dataclass(frozen=True, slots=True)
class WorkerView:
    """A registered worker."""

    name: str
    pid: int | None
    hostname: str | None
    queues: tuple[str, ...]


class _Record(Worker):
    """A worker's record, to read."""

    def _set_connection(self, connection: Redis) -> Redis:
        """Leave the client's timeouts alone: RQ would raise them to those of a working worker."""
        return connection


def alive(connection: Redis, queue: str) -> list[WorkerView]:
    """Return the workers that serve `queue`."""
    rq_queue = Queue(queue, connection=connection)
    clean_worker_registry(rq_queue)
    return [
        WorkerView(worker.name, worker.pid, worker.hostname, tuple(worker.queue_names()))
        for worker in _Record.all(queue=rq_queue)
    ]


def depth(connection: Redis, queue: str) -> tuple[int, int]:
    """Return how many jobs of `queue` wait, in all of its lines, and how many are in flight."""
    waiting, inflight = keys.script(connection, "depth")(
        keys=[keys.queue(queue), keys.turns(queue), keys.started(queue)]
    )
    return int(waiting), int(inflight)


def next_waits_s(connection: Redis, queue: str) -> float | None:
    """Return how long the next job of `queue` has waited; None where none does, or nobody knows."""
    lines = cast(list[bytes], connection.zrange(keys.turns(queue), 0, 0))
    line = lines[0].decode() if lines else queue
    next_id = cast(bytes | None, connection.lindex(keys.queue(line), 0))
    if next_id is None:
        return None
    since = cast(bytes | None, connection.hget(Job.key_for(next_id.decode()), "enqueued_at"))
    try:
        waited = datetime.now(UTC) - datetime.fromisoformat(since.decode()) if since else None
    except (ValueError, TypeError):  # a record that RQ did not write
        return None
    return max(0.0, waited.total_seconds()) if waited else None
