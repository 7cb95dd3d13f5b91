"""Upkeep: what RQ's workers do for their queues at start and every `--maintenance-interval`.

RQ's clean-up of the registries, of dead workers' records and of groups; and just before it, rescue
of what that clean-up would fail: jobs whose lease ran out more than `keys.RQ_GRACE_S` ago, because
no `scheduler.maintenance` is there to take them back in time. What waits past its deadline ends.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from redis import Redis
from rq import SimpleWorker
from rq.group import Group

from gpu_worker.hooks import Handler
from scheduler.expiry import expire
from scheduler.rescue import rescue

logger = logging.getLogger(__name__)

SHORTEST_S = 1.0


class Upkeep:
    """One worker's turn at the queues; RQ's locks keep others out meanwhile."""

    def __init__(
        self,
        connection: Redis,
        worker: str,
        queues: list[str],
        *,
        serializer: Any,
        handlers: list[Handler],
        max_deliveries: int,
    ) -> None:
        self._connection = connection
        self._rq = SimpleWorker(
            queues,
            name=worker,
            connection=connection,
            serializer=serializer,
            exception_handlers=handlers,
            prepare_for_work=False,
        )
        self._max_deliveries = max_deliveries

    async def keep(self, in_thread: Callable[..., Awaitable[None]], every_s: float) -> None:
        """Do it again after every pause, until cancelled."""
        while True:
            await asyncio.sleep(max(SHORTEST_S, every_s))
            await in_thread(self.once)

    def once(self) -> None:
        """Do everything that is due; a failure is logged."""
        try:
            for queue in self._rq.queue_names():
                rescue(self._connection, queue, max_deliveries=self._max_deliveries, grace_s=0)
                expire(self._connection, queue)
            self._rq.clean_registries()
            Group.clean_registries(self._connection)
        except Exception as error:
            extra = {"event": "upkeep.failed", "error": error}
            logger.warning("upkeep failed", extra=extra)
