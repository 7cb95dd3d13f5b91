"""Suspension: whether `rq suspend` is in force. The claim itself obeys; this is for the record."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

from redis import Redis
from rq.suspension import is_suspended

from config.connections import UNAVAILABLE

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0


class Suspension:
    """Looks once a second; tells when it begins and when it ends."""

    def __init__(self, connection: Redis, on_change: Callable[[], None]) -> None:
        self._connection = connection
        self._on_change = on_change
        self.is_on = False

    async def watch(self, in_thread: Callable[..., Awaitable[None]]) -> None:
        """Look until cancelled."""
        while True:
            with suppress(*UNAVAILABLE):  # the heartbeat tells
                await in_thread(self._look)
            await asyncio.sleep(LOOK_EVERY_S)

    def _look(self) -> None:
        is_on = bool(is_suspended(self._connection))
        if is_on == self.is_on:
            return
        self.is_on = is_on
        event = "suspended" if is_on else "resumed"
        logger.info("worker %s", event, extra={"event": f"worker.{event}"})
        self._on_change()
