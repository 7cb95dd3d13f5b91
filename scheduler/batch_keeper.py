"""Batch keeper: the thread of a maintenance process that works off batches.

It holds a lease on each batch that it works on, so that several processes do not do the same; what
keeps lines from being lost or done twice is not the lease but that every step is one transaction
(`scheduler.batch_record`). Each batch has its turn, one small step at a time. The news of jobs that
ended (`slalom:ended`) says which lines to collect; news can be missed, so each step looks at all
open jobs now and then. A thread of its own, so that the other duties never wait for a batch.

    slalom:batch:{id}:lease   string   who works on it, for LEASE_S after its last sign
"""

import logging
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import cast
from uuid import uuid4

from redis import Redis
from redis.client import PubSub
from redis.exceptions import RedisError, WatchError

from config.connections import UNAVAILABLE
from scheduler import keys
from scheduler.batch_advance import Means, Work
from scheduler.batch_record import NoSuchBatch
from scheduler.batch_steps import BatchSteps

logger = logging.getLogger(__name__)

LEASE_S = 10
ROUND_S = 1.0
"""How often leases are taken and renewed."""
TICK_S = 0.1
"""How long to wait for news, and how long the news of one batch gather at most."""
MOST_HELD = 1_000
MOST_NEWS = 1_000
MOST_INSPECTED = 4
"""Files looked through at a time: each takes some megabytes of memory meanwhile."""
PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0


@dataclass(slots=True)
class _Held:
    """A batch that this process works on; instants of the monotonic clock."""

    work: Work
    due_at: float = 0.0
    stepped_at: float = 0.0
    num_failures: int = 0

    def is_due(self, now: float) -> bool:
        """Whether its next step is to be done."""
        if self.work.heard and not self.num_failures:
            return now >= min(self.due_at, self.stepped_at + TICK_S)
        return now >= self.due_at


@dataclass(slots=True)
class BatchKeeper:
    """Works off batches until it is told to stop; `listener` blocks, `means.connection` does not.

    What it holds when its process dies, another takes over after LEASE_S.
    """

    means: Means
    listener: Redis
    _token: str = field(default_factory=lambda: uuid4().hex)
    _held: dict[str, _Held] = field(default_factory=dict)
    _round_at: float = 0.0

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set, whatever becomes of Redis meanwhile."""
        while not stop.is_set():
            try:
                with self.listener.pubsub() as news:
                    news.subscribe(keys.ENDED)
                    self._forget_news()
                    while not stop.is_set():
                        self._hear(news)
                        self.work()
            except RedisError as error:
                extra = {"event": "batches.waiting", "error": error}
                logger.warning("batches wait for Redis", extra=extra)
            except Exception:  # the thread must outlive any failure
                logger.exception("batches interrupted", extra={"event": "batches.interrupted"})
            stop.wait(PAUSE_S)
        self.let_go()

    def work(self) -> None:
        """Do a step of every batch that is due."""
        if time.monotonic() >= self._round_at:
            self._round_at = time.monotonic() + ROUND_S
            self._renew()
            self._take()
        for batch_id, held in list(self._held.items()):
            if not held.is_due(time.monotonic()) or (held.work.is_new and self._is_crowded):
                continue
            if not self._step(held):
                del self._held[batch_id]
                self._release([batch_id])

    @property
    def _is_crowded(self) -> bool:
        """Whether as many files are being looked through as may be at a time."""
        inspecting = [held for held in self._held.values() if held.work.inspection]
        return len(inspecting) >= MOST_INSPECTED

    def let_go(self) -> None:
        """Let other processes go on at once."""
        try:
            self._release(list(self._held))
        except RedisError:  # it is away: the leases expire
            return
        self._held.clear()

    def _step(self, held: _Held) -> bool:
        """Do a step; return whether the batch has more of them."""
        try:
            pause_s = BatchSteps(self.means).step(held.work)
            held.num_failures = 0
        except WatchError:
            pause_s, held.work.look_at = 0.0, 0.0
        except NoSuchBatch:
            self.means.connection.zrem(keys.BATCHES, held.work.batch_id)
            return False
        except UNAVAILABLE:
            raise
        except Exception:  # of one batch: the others go on
            held.num_failures += 1
            held.work.inspection = None
            pause_s = min(PAUSE_S * 2**held.num_failures, LONGEST_PAUSE_S)
            extra = {"event": "batch.failed_step", "batch_id": held.work.batch_id}
            logger.exception("batch waits after a failure", extra=extra)
        held.stepped_at = time.monotonic()
        held.due_at = held.stepped_at + (pause_s or 0.0)
        return pause_s is not None

    def _hear(self, news: PubSub) -> None:
        """Take note of the jobs that ended; wait a little if there is nothing else to do."""
        timeout_s = 0.0 if self._has_work else TICK_S
        for _ in range(MOST_NEWS):
            message = news.get_message(timeout=timeout_s)
            if message is None:
                return
            timeout_s = 0.0
            if message["type"] == "message":
                self._note(message["data"].decode().split())

    def _note(self, job_ids: list[str]) -> None:
        for job_id in job_ids:
            batch_id, _, line = job_id.rpartition("-")
            if (held := self._held.get(batch_id)) and line.isdecimal():
                held.work.heard.add(int(line))

    @property
    def _has_work(self) -> bool:
        now = time.monotonic()
        return any(held.is_due(now) for held in self._held.values())

    def _forget_news(self) -> None:
        """Look at every open job again: news may have been missed."""
        for held in self._held.values():
            held.work.look_at = 0.0

    def _renew(self) -> None:
        """Keep the leases; let go of batches that others have taken over."""
        held = list(self._held)
        tokens = self.means.connection.mget(self._leases(held)) if held else []
        for batch_id, token in zip(held, tokens, strict=True):
            if token != self._token.encode():
                del self._held[batch_id]
        with self.means.connection.pipeline(transaction=False) as pipeline:
            for key in self._leases(self._held):
                pipeline.expire(key, LEASE_S)
            pipeline.execute()

    def _take(self) -> None:
        """Take over batches that nobody works on, the oldest first."""
        known = cast(list[bytes], self.means.connection.zrange(keys.BATCHES, 0, MOST_HELD - 1))
        free = [b for b in (member.decode() for member in known) if b not in self._held]
        with self.means.connection.pipeline(transaction=False) as pipeline:
            for key in self._leases(free):
                pipeline.set(key, self._token, nx=True, ex=LEASE_S)
            taken = pipeline.execute()
        for batch_id, is_mine in zip(free, taken, strict=True):
            if is_mine:
                self._held[batch_id] = _Held(Work(batch_id))

    def _release(self, batch_ids: list[str]) -> None:
        for key in self._leases(batch_ids):
            if self.means.connection.get(key) == self._token.encode():
                self.means.connection.delete(key)

    def _leases(self, batch_ids: Iterable[str]) -> list[str]:
        return [keys.batch(batch_id, "lease") for batch_id in batch_ids]
