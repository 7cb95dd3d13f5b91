"""The autoscaler's loop: read each queue, decide, act, log the decision with its numbers.

TERM or INT drains the workers it added and waits for them. SIGKILL leaves them running; the next
autoscaler adopts them by their records.
"""

import logging
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from config import connections, daemon
from config.settings import Settings
from config.tiers import Autoscale, TierTable
from scheduler import workers
from scheduler.autoscaler.local_pool import LocalPool, PoolWorker
from scheduler.autoscaler.policy import Add, Decision, Drain, Measured, Memory, decide
from scheduler.starting import starting

logger = logging.getLogger("scheduler.autoscaler")

ENDING_S = 5.0
"""Added to a worker's own drain time before it is given up."""


class Autoscaler:
    """Applies each queue's rule to what Redis and the pool say."""

    def __init__(
        self, connection: Redis, tiers: TierTable, pool: LocalPool, num_gpus: int = 0
    ) -> None:
        self._connection = connection
        self._rules = {
            name: queue.autoscale for name, queue in tiers.queues.items() if queue.autoscale
        }
        self._pool = pool
        self._num_gpus = num_gpus
        self._memory: dict[str, Memory] = {}
        self._last: dict[str, Decision] = {}

    def tick(self, now: float) -> None:
        """Decide and act once for every queue that has a rule; `now` is monotonic (s)."""
        for queue, rule in self._rules.items():
            ours = self._pool.workers()
            measured = self._measure(queue, ours)
            decision, self._memory[queue] = decide(
                rule, measured, self._memory.get(queue, Memory()), now
            )
            self._log(queue, measured, decision)
            match decision:
                case Add():
                    self._add(queue, rule, ours)
                case Drain():
                    self._pool.drain(_youngest(queue, ours))

    def close(self, drain_s: float) -> None:
        """Drain every worker of ours and wait for it."""
        for worker in self._pool.workers():
            self._pool.drain(worker)
        for worker in self._pool.wait(drain_s + ENDING_S):
            logger.error(
                "worker does not end", extra={"event": "autoscaler.stuck", "worker": worker.name}
            )

    def _measure(self, queue: str, ours: Sequence[PoolWorker]) -> Measured:
        waiting, in_flight = workers.depth(self._connection, queue)
        registered = {worker.name for worker in workers.alive(self._connection, queue)}
        soon = {w.name for w in ours if queue in w.queues} | starting(self._connection, queue)
        draining = {w.name for w in ours if w.draining}
        drainable = [w for w in ours if w.for_queue == queue and not w.draining]
        return Measured(waiting, in_flight, len((registered | soon) - draining), len(drainable))

    def _add(self, queue: str, rule: Autoscale, ours: Sequence[PoolWorker]) -> None:
        """Start a worker, on a GPU of its own: number 0 is the Procfile's worker's."""
        free = sorted(set(range(1, self._num_gpus)) - {worker.gpu for worker in ours})
        if self._num_gpus and not free:
            logger.warning(
                "no GPU is free for a worker",
                extra={"event": "autoscaler.no_gpu", "gpus": self._num_gpus},
            )
            return
        worker = self._pool.add(queue, rule.workers_serve, gpu=free[0] if free else None)
        logger.info(
            "worker started",
            extra={"event": "autoscaler.started", "worker": worker.name, "pid": worker.pid},
        )

    def _log(self, queue: str, measured: Measured, decision: Decision) -> None:
        """Log every change, and a hold when its reason's kind is new."""
        level = logging.INFO if isinstance(decision, Add | Drain) else logging.DEBUG
        if type(decision) is not type(self._last.get(queue)):
            level = logging.INFO
        self._last[queue] = decision
        logger.log(
            level,
            "%s: %s",
            type(decision).__name__.lower(),
            decision.reason,
            extra={
                "event": "autoscaler.decision",
                "queue": queue,
                "waiting": measured.waiting,
                "in_flight": measured.in_flight,
                "workers": measured.num_workers,
                "depth_per_worker": measured.depth_per_worker,
            },
        )


def _youngest(queue: str, ours: Sequence[PoolWorker]) -> PoolWorker:
    return max(
        (w for w in ours if w.for_queue == queue and not w.draining), key=lambda w: w.started_at
    )


def num_gpus(settings: Settings) -> int:
    """Return how many NVIDIA GPUs answer, 0 where workers need none."""
    if settings.engine == "sim":
        return 0
    try:
        found = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, check=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError):
        return 0
    return sum(line.startswith("GPU ") for line in found.stdout.splitlines())


def run(settings: Settings, stop: threading.Event) -> None:
    """Decide every `autoscale_interval_s` until `stop` is set, then drain."""
    pool = LocalPool(Path(settings.data_dir) / "autoscaler")
    autoscaler = Autoscaler(
        connections.commands(settings.redis), settings.tiers(), pool, num_gpus(settings)
    )
    adopted = [worker.name for worker in pool.workers()]
    logger.info(
        "autoscaler started",
        extra={"event": "autoscaler.ready", "adopted": ",".join(adopted) or "none"},
    )
    while not stop.wait(settings.autoscale_interval_s):
        try:
            autoscaler.tick(time.monotonic())
        except RedisError as error:
            logger.warning(
                "no decision without Redis", extra={"event": "autoscaler.blind", "error": error}
            )
    autoscaler.close(settings.drain_s)


if __name__ == "__main__":
    daemon.main(run)
