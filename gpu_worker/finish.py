"""Endings into Redis: what ended in one tick is written in one step, and nothing is given up.

Successes go through `scheduler.finish`, one script for all of them. Failures that are retried later
go through `scheduler.postpone`. What else fails, stops, and successes that RQ must finish itself
(dependents, repeats, webhooks, results that are not kept) go through RQ's own handlers.
All but the first one by one.
"""

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from random import random
from typing import TYPE_CHECKING

from redis import Redis
from rq import Queue, Retry
from rq.defaults import DEFAULT_FAILURE_TTL
from rq.executions import Execution
from rq.job import Job, JobStatus

from config.connections import UNAVAILABLE
from config.tiers import RetryPolicy, TierTable
from gpu_worker.endings import Ending, Failed, Finished, Stopped
from gpu_worker.hooks import Webhooks
from gpu_worker.tokens import Tokens
from scheduler import keys
from scheduler.claim import Claim
from scheduler.events import kept_s
from scheduler.finish import Success, holds, write
from scheduler.jobs import FIRST_TOKEN_AT, FUNCTION, PARTIAL, Failure
from scheduler.open_jobs import settle
from scheduler.postpone import postpone
from scheduler.retry import Again, Never, decide

if TYPE_CHECKING:
    from gpu_worker.worker import GPUWorker

logger = logging.getLogger(__name__)

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0


@dataclass(frozen=True, slots=True)
class Ended:
    """A claim and how it ended."""

    claim: Claim
    ending: Ending
    ended_at: datetime


class Finisher:
    """Writes endings, in the order in which they come, from one thread of its own."""

    def __init__(
        self, worker: "GPUWorker", connection: Redis, tiers: TierTable, tokens: Tokens
    ) -> None:
        self._worker = worker
        self._connection = connection
        self._tiers = tiers
        self._tokens = tokens
        self._webhooks = Webhooks()
        self._ended: asyncio.Queue[Ended] = asyncio.Queue()
        self.num_unwritten = 0
        """Endings put and not yet in Redis."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="finish")

    def put(self, claim: Claim, ending: Ending) -> None:
        """Take over an ending; it is written as soon as Redis lets it."""
        self.num_unwritten += 1
        self._ended.put_nowait(Ended(claim, ending, claim.job.ended_at or datetime.now(UTC)))

    async def settle(self) -> None:
        """Return when everything that was put is written."""
        await self._ended.join()

    def close(self) -> None:
        """Send no more webhooks than are on their way."""
        self._webhooks.close()

    async def run(self) -> None:
        """Write endings until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            batch = [await self._ended.get()]
            while not self._ended.empty():
                batch.append(self._ended.get_nowait())
            await self._persist(loop, batch)
            self.num_unwritten -= len(batch)
            for _ in batch:
                self._ended.task_done()

    async def _persist(self, loop: asyncio.AbstractEventLoop, batch: list[Ended]) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                return await loop.run_in_executor(self._thread, self._write, batch)
            except UNAVAILABLE as error:
                logger.warning(
                    "results wait for Redis",
                    extra={"event": "finish.waiting", "jobs": len(batch), "error": error},
                )
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, LONGEST_PAUSE_S)

    def _write(self, batch: list[Ended]) -> None:
        """Write a batch; safe to repeat, because what is written no longer holds its lease."""
        self._tokens.end([(e.claim, self._log_ttl_s(e)) for e in batch if e.claim.attempt])
        successes = [success for ended in batch if (success := self._as_success(ended))]
        verdicts = write(self._connection, self._worker.name, successes)
        written = {
            (s.claim.job.id, s.claim.execution_id)
            for s, verdict in zip(successes, verdicts, strict=True)
            if verdict != "dependents"
        }
        for ended in batch:
            if (ended.claim.job.id, ended.claim.execution_id) not in written:
                self._attempt(ended)
        self._worker.show_idle()

    def _log_ttl_s(self, ended: Ended) -> int:
        """Return for how long the log of a streamed job is kept: as long as its record."""
        job, worker = ended.claim.job, self._worker
        if isinstance(ended.ending, Finished):
            return kept_s(job.get_result_ttl(worker.default_result_ttl))
        return kept_s(job.failure_ttl or DEFAULT_FAILURE_TTL)

    def _attempt(self, ended: Ended) -> None:
        """Write one ending by RQ; one that cannot be written keeps its lease until rescue."""
        try:
            self._write_by_rq(ended)
        except UNAVAILABLE:
            raise
        except Exception:
            logger.exception(
                "ending not written", extra={"event": "finish.failed", "job_id": ended.claim.job.id}
            )

    def _as_success(self, ended: Ended) -> Success | None:
        """Return what the script can write, None where RQ must."""
        job = ended.claim.job
        ttl = job.get_result_ttl(self._worker.default_result_ttl)
        if not isinstance(ended.ending, Finished) or ttl == 0 or _needs_rq(job):
            return None
        if isinstance(ended.ending.value, Retry):
            return None
        return Success(ended.claim, ended.ending.value, ended.ended_at, ttl)

    def _write_by_rq(self, ended: Ended) -> None:
        """Let RQ's worker code write the ending, unless the lease was lost."""
        claim, job = ended.claim, ended.claim.job
        if not holds(self._connection, claim):
            return
        job.ended_at = ended.ended_at
        job.started_at = job.started_at or claim.claimed_at
        self._worker.execution = _execution(claim, self._connection, self._worker.name)
        self._webhooks.take_over(job)
        self._keep_partial(job, ended.ending)
        queue = self._worker.queue_class(
            claim.queue,
            connection=self._connection,
            serializer=job.serializer,
            job_class=self._worker.job_class,
        )
        try:
            match ended.ending:
                case Finished(Retry() as retry):
                    self._retry(job, queue, retry)
                case Finished(value):
                    self._succeed(job, queue, value)
                case Failed() as failed:
                    self._fail(ended, queue, failed)
                case Stopped():
                    self._stop(job, queue)
        finally:
            self._worker.execution = None
        spent = ["suspect", "worker_deaths"] if claim.alone else []  # it ended by itself
        self._connection.hdel(job.key, "resumed", *spent)
        settle(self._connection, job.id)
        self._connection.publish(keys.ENDED, job.id)

    def _keep_partial(self, job: Job, ending: Ending) -> None:
        """Write what there is of a job that was cut off; it is shown once the job has ended."""
        match ending:
            case Failed(partial=dict(body)) | Stopped(partial=dict(body)):
                self._connection.hset(job.key, PARTIAL, job.serializer.dumps(body))

    def _succeed(self, job: Job, queue: Queue, value: object) -> None:
        job._result = value
        job._status = JobStatus.FINISHED
        if job.func_name == FUNCTION:
            job.save_meta()
        self._worker.handle_job_success(job, queue, queue.started_job_registry)
        job.send_webhooks(JobStatus.FINISHED)

    def _retry(self, job: Job, queue: Queue, retry: Retry) -> None:
        """Run the job again, because its function returned a Retry."""
        assert self._worker.execution is not None
        job._result = retry
        registry = queue.started_job_registry
        self._worker.handle_job_retry(job, queue, retry, registry, self._worker.execution)

    def _fail(self, ended: Ended, queue: Queue, failed: Failed) -> None:
        """Run the job again, later or at once, or make it a dead letter."""
        job = ended.claim.job
        self._report(job, queue, failed)
        decision = decide(
            failed.failure["code"],
            retries_left=job.retries_left or 0,
            pause=self._pause(job),
            draw=random(),
        )
        if isinstance(decision, Again) and decision.delay_s:
            self._postpone(ended, queue, decision.delay_s)
            return
        if isinstance(decision, Never) and job.should_retry:
            job.retries_left = 0  # RQ would retry it
        self._worker.handle_job_failure(job, queue, queue.started_job_registry, failed.exc_string)

    def _report(self, job: Job, queue: Queue, failed: Failed) -> None:
        """Say why the job failed: in the log and in its meta."""
        code = failed.failure["code"]
        extra = {"event": "job.failed", "job_id": job.id, "code": code, "queue": queue.name}
        logger.warning("job failed", extra=extra)
        job._status = JobStatus.FAILED
        if code != "invalid_record":
            _note(job, failed.failure)

    def _pause(self, job: Job) -> RetryPolicy | float:
        """Return the policy of the job's tier, or RQ's interval if it has its own or no tier."""
        tier = self._tiers.tiers.get(str(job.meta.get("tier")))
        if tier and not any(job.retry_intervals or []):
            return tier.retry
        return job.get_retry_interval() if job.should_retry else 0

    def _postpone(self, ended: Ended, queue: Queue, delay_s: float) -> None:
        """Run the job again after `delay_s`, unless its caller has cancelled it meanwhile."""
        job = ended.claim.job
        worker = self._worker.name
        verdict = postpone(
            self._connection, worker, ended.claim, delay_s=delay_s, ended_at=ended.ended_at
        )
        if verdict == "written":
            extra = {"event": "job.postponed", "job_id": job.id, "delay_s": delay_s}
            logger.info("job postponed", extra=extra)
        elif verdict == "stop":
            self._stop(job, queue)

    def _stop(self, job: Job, queue: Queue) -> None:
        self._worker._stopped_job_id = job.id
        self._worker.handle_job_failure(
            job, queue, queue.started_job_registry, "Job stopped by user."
        )


def _needs_rq(job: Job) -> bool:
    """Whether the job has something that only RQ's own transaction does."""
    return bool(job.webhooks or job.repeats_left)


def _note(job: Job, failure: Failure) -> None:
    """Add the cause to the job's meta as it now is in Redis, where others may have written it."""
    noted = {FIRST_TOKEN_AT: job.meta[FIRST_TOKEN_AT]} if FIRST_TOKEN_AT in job.meta else {}
    try:
        meta = job.get_meta(refresh=True)
    except ValueError:  # not of our serializer
        meta = {}
    job.meta = {**meta, **noted, "failure": failure}
    job.save_meta()


def _execution(claim: Claim, connection: Redis, worker: str) -> Execution:
    execution = Execution(claim.execution_id, claim.job.id, connection, worker)
    execution.created_at = claim.claimed_at
    return execution
