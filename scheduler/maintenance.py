"""Maintenance: the process that does every queue's periodic duties, each surviving its own failure.

rescue       jobs of dead workers, twice a second    scheduler.rescue; a lease after Redis was away,
                                                     so that workers can renew theirs first
expire       waiting jobs past their deadline        scheduler.expiry
promote      waiting jobs that will be late soon     scheduler.promotion
schedule     retries and scheduled jobs when due     a tenant's scheduler.fair_share, others RQ's
                                                     scheduler, which locks out a second one
registries   ended jobs past their time              RQ's clean-up
lists        jobs that are gone, in tenants' lists   scheduler.job_pages
sweep        tenants' open jobs that are gone        scheduler.open_jobs
batches      what files of requests ask for          scheduler.batch_keeper, in a thread

python -m scheduler.maintenance
"""

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import cast

from redis import Redis
from redis.exceptions import RedisError
from rq import Queue
from rq.registry import CanceledJobRegistry, FailedJobRegistry, FinishedJobRegistry
from rq.scheduler import RQScheduler
from rq.serializers import JSONSerializer

from config import connections, daemon
from config.settings import Settings
from config.tiers import Promotion
from scheduler import expiry, job_pages, keys
from scheduler.batch_advance import Means
from scheduler.batch_allowance import TenantAllowance
from scheduler.batch_keeper import BatchKeeper
from scheduler.batch_lines import MAX_CUSTOM_ID
from scheduler.expiry import expire
from scheduler.fair_share import requeue_due
from scheduler.open_jobs import Sweep
from scheduler.promotion import promote
from scheduler.rescue import rescue
from scheduler.submit import Submitter

logger = logging.getLogger("scheduler.maintenance")

TICK_S = 0.5
REGISTRIES_EVERY_S = 60.0
MOST_STEPS = 5
"""Calls of `expire` for one queue in one tick."""
MOST_TRIMS = 200
"""Stretches of tenants' lists that are looked through in one minute."""


@dataclass
class Maintenance:
    """The duties, over all queues of the SLA table."""

    connection: Redis
    queues: list[str]
    max_deliveries: int
    lease_s: float
    promotions: Mapping[str, Promotion] = field(default_factory=dict)
    """Queues whose jobs may be promoted, and how."""
    _scheduler: RQScheduler = field(init=False)
    _open_jobs: Sweep = field(init=False)
    _until_registries_s: float = field(init=False, default=0.0)
    _until_rescue_s: float = field(init=False, default=0.0)
    _lists: dict[str, int] = field(init=False, default_factory=dict)
    """Tenants whose lists are still to be looked through, and from which cursor on."""

    def __post_init__(self) -> None:
        self._open_jobs = Sweep(self.connection)
        self._scheduler = RQScheduler(
            self.queues,
            connection=self.connection,
            interval=1,
            serializer=JSONSerializer,
            logging_level="WARNING",
        )

    def upkeep(self) -> None:
        """Do every duty that is due; called every TICK_S."""
        self._until_rescue_s -= TICK_S
        if self._until_rescue_s <= 0 and not self._attempt(self._rescue):
            self._until_rescue_s = self.lease_s
        self._attempt(self._expire)
        self._attempt(self._promote)
        self._attempt(self._schedule)
        self._until_registries_s -= TICK_S
        if self._until_registries_s <= 0:
            self._until_registries_s = REGISTRIES_EVERY_S
            self._attempt(self._trim)
            self._attempt(self._trim_lists)
            self._attempt(self._sweep)

    def close(self) -> None:
        """Let another process schedule at once."""
        self._attempt(self._scheduler.release_locks)

    def _rescue(self) -> None:
        for queue in self.queues:
            rescue(self.connection, queue, max_deliveries=self.max_deliveries)

    def _expire(self) -> None:
        for queue in self.queues:
            for _ in range(MOST_STEPS):
                if expire(self.connection, queue).looked_at < expiry.STEP:
                    break

    def _promote(self) -> None:
        for queue, policy in self.promotions.items():
            promote(self.connection, queue, policy)

    def _schedule(self) -> None:
        for queue in self.queues:
            requeue_due(self.connection, queue)
        self._scheduler.acquire_locks()
        self._scheduler.enqueue_scheduled_jobs()

    def _sweep(self) -> None:
        self._open_jobs.step()

    def _trim(self) -> None:
        for queue in self.queues:
            rq_queue = Queue(queue, connection=self.connection, serializer=JSONSerializer)
            FinishedJobRegistry(queue=rq_queue).cleanup()
            FailedJobRegistry(queue=rq_queue).cleanup()
            self._trim_canceled(CanceledJobRegistry(queue=rq_queue))

    def _trim_canceled(self, registry: CanceledJobRegistry) -> None:
        """Drop ids of canceled jobs whose record has expired, which RQ never does."""
        oldest = registry.get_job_ids(0, 999, cleanup=False)
        gone = [job for job in oldest if not self.connection.exists(f"rq:job:{job}")]
        if gone:
            self.connection.zrem(registry.key, *gone)

    def _trim_lists(self) -> None:
        """Look through every list in turn, over as many minutes as that takes."""
        if not self._lists:
            listed = cast(set[bytes], self.connection.smembers(keys.LISTED))
            self._lists = {name.decode(): 0 for name in listed}
        for _ in range(MOST_TRIMS):
            tenant = next(iter(self._lists), None)
            if tenant is None:
                return
            self._lists[tenant] = job_pages.trim(self.connection, tenant, self._lists[tenant])
            if not self._lists[tenant]:
                del self._lists[tenant]

    def _attempt(self, duty: Callable[[], object]) -> bool:
        """Whether the duty was done."""
        try:
            duty()
        except RedisError as error:
            logger.warning(
                "duty failed",
                extra={"event": "maintenance.failed", "duty": duty.__name__, "error": error},
            )
            return False
        return True


def run(settings: Settings, stop: threading.Event) -> None:
    """Do the duties until `stop` is set."""
    queues = settings.tiers().queues
    maintenance = Maintenance(
        connections.commands(settings.redis),
        list(queues),
        settings.max_deliveries,
        settings.lease_s,
        {name: policy.promotion for name, policy in queues.items() if policy.promotion},
    )
    logger.info(
        "maintenance started",
        extra={"event": "maintenance.started", "queues": ",".join(maintenance.queues)},
    )
    keeper = _keeper(settings)
    batches = threading.Thread(target=keeper.run, args=(stop,), name="batches", daemon=True)
    batches.start()
    while not stop.wait(TICK_S):
        maintenance.upkeep()
    maintenance.close()
    batches.join()


def _keeper(settings: Settings) -> BatchKeeper:
    connection, tiers = connections.commands(settings.redis), settings.tiers()
    means = Means(
        connection,
        Submitter(connection, tiers),
        tiers,
        settings.served_model,
        ahead=settings.batch_ahead,
        max_lines=settings.max_batch_lines,
        max_line_bytes=settings.max_body_bytes + MAX_CUSTOM_ID,
        record_ttl_s=settings.file_ttl_s,
        allowance=TenantAllowance(connection, tiers),
    )
    return BatchKeeper(means, connections.listener(settings.redis))


if __name__ == "__main__":
    daemon.main(run)
