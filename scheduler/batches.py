"""Batches: many requests in one file, answered in another, when there is room.

A batch is a record (`scheduler.batch_record`); `scheduler.batch_keeper` works it off, inside the
maintenance process, step by step (`scheduler.batch_steps`). A step is one transaction: the jobs
that are queued, the results that are collected, how far the input is read. So it happens whole or
not at all, whatever is killed and however many work on the same batch: no line is lost, none is
done twice. Here is what tenants do with them.

    validating ── in_progress ── finalizing ── completed
        │              │ │                 └── expired      its window has passed
        │              │ │                 └── failed       its input file went away
        └── failed     └─┴── cancelling ── cancelled

However it ends, but for a file that was no use from the start: what was answered until then is in
the output file, and every other line in the error file.

    slalom:batches                   zset   id -> created_at, of those that have not ended
    slalom:batches:of:{tenant}       zset   id -> created_at, of all that are kept
    slalom:batches:active:{tenant}   set    ids of those that have not ended
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import cast

from redis import Redis
from redis.exceptions import WatchError

from scheduler import keys
from scheduler.batch_record import (
    Batch,
    BatchOrder,
    Draft,
    NoSuchBatch,
    Progress,
    Record,
    editing,
    of_record,
)
from scheduler.files import Files
from scheduler.listing import Listed, Listing

MOST_ACTIVE = 100
"""Batches of one tenant that have not ended."""
MOST_TRIES = 50
KEPT_LONGER_S = 86_400
"""How long after its window the input of a batch is kept at least."""


class BatchOver(Exception):
    """The batch has ended, or is about to: there is nothing left to cancel."""


class OtherBatch(Exception):
    """A batch of this id was asked for before, and for something else."""


class TooManyBatches(Exception):
    """The tenant has as many batches in progress as it may have."""


@dataclass(frozen=True, slots=True)
class Batches:
    """The batches, as their tenants see them."""

    connection: Redis

    def create(self, batch_id: str, order: BatchOrder, drafts: tuple[Draft, Draft]) -> Batch:
        """Return a new batch, or the one that this very order made before.

        NoSuchFile, TooManyBatches, OtherBatch.
        """
        files = Files(self.connection)
        source = files.fetch(order.input_file_id, order.tenant)
        self._listing(order.tenant).trim()
        files.trim(order.tenant)
        return self._repeat(lambda: self._create(files, source.id, batch_id, order, drafts))

    def _create(
        self,
        files: Files,
        file_id: str,
        batch_id: str,
        order: BatchOrder,
        drafts: tuple[Draft, Draft],
    ) -> Batch:
        key = keys.batch(batch_id)
        with self.connection.pipeline() as pipeline:
            pipeline.watch(key, keys.active_batches_of(order.tenant))
            if known := of_record(batch_id, cast(Record, pipeline.hgetall(key))):
                if not known.order.is_same(order):
                    raise OtherBatch(batch_id)
                return known
            if pipeline.scard(keys.active_batches_of(order.tenant)) >= MOST_ACTIVE:
                raise TooManyBatches(f"{MOST_ACTIVE} batches are in progress; wait for one to end")
            source = files.fetch(file_id, order.tenant)
            files.keep_until(source, order.expires_at + KEPT_LONGER_S)
            batch = Batch(batch_id, order, Progress(*drafts))
            pipeline.multi()
            pipeline.hset(key, "order", json.dumps(asdict(order)))
            batch.write(pipeline, batch.progress)
            now = time.time()
            pipeline.zadd(keys.BATCHES, {batch_id: now})
            pipeline.zadd(keys.batches_of(order.tenant), {batch_id: now})
            pipeline.sadd(keys.active_batches_of(order.tenant), batch_id)
            pipeline.execute()
        return batch

    def fetch(self, batch_id: str, tenant: str) -> Batch:
        """Return a batch of the tenant's; NoSuchBatch."""
        [found] = self._read([batch_id])
        if found is None or found.order.tenant != tenant:
            raise NoSuchBatch(batch_id)
        return found

    def page(self, tenant: str, *, after: str | None, limit: int) -> Listed[Batch]:
        """Return a page of a tenant's batches, newest first; UnknownCursor."""
        return self._listing(tenant).page(after=after, limit=limit)

    def cancel(self, batch_id: str, tenant: str) -> Batch:
        """Return the batch, being cancelled; NoSuchBatch, BatchOver."""
        return self._repeat(lambda: self._cancel(batch_id, tenant))

    def _cancel(self, batch_id: str, tenant: str) -> Batch:
        with editing(self.connection, batch_id) as (batch, pipeline):
            if batch.order.tenant != tenant:
                raise NoSuchBatch(batch_id)
            if batch.progress.status in {"cancelling", "cancelled"}:
                return batch
            if batch.progress.status not in {"validating", "in_progress"}:
                raise BatchOver(f"the batch is {batch.progress.status}")
            progress = batch.progress.to("cancelling", outcome="cancelled")
            batch.write(pipeline, progress)
        return replace(batch, progress=progress)

    def _repeat(self, attempt: Callable[[], Batch]) -> Batch:
        """Return what `attempt` does once nobody else writes at the same instant."""
        for _ in range(MOST_TRIES):
            try:
                return attempt()
            except WatchError:
                continue
        return attempt()

    def _listing(self, tenant: str) -> Listing[Batch]:
        return Listing(self.connection, keys.batches_of(tenant), keys.batch, self._read)

    def _read(self, batch_ids: list[str]) -> list[Batch | None]:
        with self.connection.pipeline(transaction=False) as pipeline:
            for batch_id in batch_ids:
                pipeline.hgetall(keys.batch(batch_id))
            records = pipeline.execute()
        found = zip(batch_ids, records, strict=True)
        return [of_record(batch_id, record) for batch_id, record in found]
