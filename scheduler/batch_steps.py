"""Batch steps: one small piece of work on one batch, whole or not at all.

A step reads the batch, does a bounded part of what is next, and writes everything that it changes
in one transaction, which takes place only if nobody changed the batch meanwhile.

validating    look through the file: how many lines, which custom_ids come twice
in_progress   collect the jobs that ended, queue as many more as may be queued ahead
past its window, or cancelled: collect, cancel the jobs that are open, write off what was not read
finalizing    make the two files
"""

import logging
import time
from dataclasses import dataclass, replace
from itertools import islice

from redis.client import Pipeline

from scheduler import batch_drafts, cancel, jobs, keys
from scheduler.batch_advance import AT_ONCE, Advance, Means, Work
from scheduler.batch_inspection import Inspection
from scheduler.batch_record import Batch, BatchFault, Progress, editing
from scheduler.files import NoSuchFile
from scheduler.jobs import UnknownJob

logger = logging.getLogger(__name__)

MOST_STOPPED = 50
"""Jobs of one step that are told to stop."""


@dataclass(frozen=True, slots=True)
class BatchSteps:
    """Advances batches."""

    means: Means

    def step(self, work: Work) -> float | None:
        """Do the next step; return the seconds until another is due, None if there is none.

        WatchError: somebody else did it. NoSuchBatch: it is gone.
        """
        work.is_new = False
        with editing(self.means.connection, work.batch_id) as (batch, pipeline):
            if batch.has_ended:
                return None
            batch = self._in_time(batch)
            match batch.progress.status:
                case "validating":
                    return self._inspect(batch, work, pipeline)
                case "finalizing":
                    self._finalize(batch, pipeline)
                    return None
            work.inspection = None
            advance = Advance(self.means, batch, work, pipeline)
            if advance.is_done and batch.progress.status == "cancelling":
                self._finalize(batch, pipeline)
                return None
            pause_s = advance.run()
        self._stop(work, advance)
        return pause_s

    def _in_time(self, batch: Batch) -> Batch:
        """Return the batch; one whose window has passed is on its way to be expired."""
        progress = batch.progress
        if time.time() < batch.order.expires_at or progress.outcome != "completed":
            return batch
        if progress.status == "validating":
            progress = progress.to("in_progress")
        if progress.status == "in_progress":
            progress = replace(progress, outcome="expired")
        return replace(batch, progress=progress)

    def _inspect(self, batch: Batch, work: Work, pipeline: Pipeline) -> float:
        """Look through a part of the file."""
        if work.inspection is None:
            work.inspection = Inspection(self.means.lines(batch), self.means.max_lines)
        found = work.inspection
        try:
            if not found.look_on():
                return AT_ONCE
        except NoSuchFile:
            text = "the input file was deleted or has expired"
            found.fault = BatchFault("input_file_missing", text)
        if found.fault:
            self._end(batch, pipeline, batch.progress.to("failed", faults=(found.fault,)))
            return AT_ONCE
        if found.doubled:
            pipeline.set(batch.key("doubled"), bytes(found.doubled))
        batch.write(pipeline, batch.progress.to("in_progress", total=found.total))
        return AT_ONCE

    def _finalize(self, batch: Batch, pipeline: Pipeline) -> None:
        """Make the files."""
        progress = batch.progress
        output = batch_drafts.seal(self.means.connection, pipeline, batch, "out")
        errors = batch_drafts.seal(self.means.connection, pipeline, batch, "err")
        kept = {
            "output": replace(progress.output, file_id=output.id if output else ""),
            "errors": replace(progress.errors, file_id=errors.id if errors else ""),
            "total": progress.completed + progress.failed,
        }
        self._end(batch, pipeline, progress.to(progress.outcome, **kept))

    def _end(self, batch: Batch, pipeline: Pipeline, progress: Progress) -> None:
        """Write the end of a batch, and leave only its record."""
        batch.write(pipeline, progress)
        pipeline.expire(batch.key(), self.means.record_ttl_s)
        pipeline.delete(*(batch.key(part) for part in ("open", "doubled", "out", "err")))
        pipeline.zrem(keys.BATCHES, batch.id)
        pipeline.srem(keys.active_batches_of(batch.order.tenant), batch.id)
        extra = {"event": "batch.ended", "batch_id": batch.id, "status": progress.status}
        counts = {"completed": progress.completed, "failed": progress.failed}
        logger.info("batch ended", extra={**extra, **counts})

    def _stop(self, work: Work, advance: Advance) -> None:
        """Cancel jobs of a batch that is wound up; those that run are told to stop."""
        for line in islice(advance.to_be_stopped(), MOST_STOPPED):
            work.told.add(line)
            try:
                job = jobs.fetch(self.means.connection, advance.batch.job_id(line))
                cancel.cancel(self.means.connection, job)
            except UnknownJob:
                continue
            work.heard.add(line)
