"""Claim, renew, release: a worker's rights to jobs, each one atomic script.

A claim grants a lease on each job; heartbeats renew it; `scheduler.rescue` takes the job back once
it has expired; a release hands it back, with what it has so far. There is no instant in which a
claimed job is in no list: leaving the queue and entering the started registry are one step inside
Redis. When the reply to a claim is lost, what it may have taken is found by the prefix of its
executions and put back before the next claim; hence the client of `Claims` must not repeat commands
by itself.

A suspect, a job that was in flight when a worker or an engine died, is claimed alone. One that is
past its deadline is never claimed: `scheduler.expiry`.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, cast
from uuid import uuid4

from redis import Redis
from redis.exceptions import RedisError
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.utils import utcformat

from scheduler import keys, promotion, so_far
from scheduler.deadlines import NONE, Deadlines
from scheduler.estimate import Promise
from scheduler.line import Place
from scheduler.so_far import SoFar

logger = logging.getLogger(__name__)

_INSTANTS = (b"created_at", b"enqueued_at", b"started_at", b"ended_at", b"last_heartbeat")

Verdict = Literal["held", "lost", "stop", "expired"]


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to finish `job`, until its lease expires."""

    job: Job
    execution_id: str
    queue: str
    claimed_at: datetime
    alone: bool = False
    """Whether the job is a suspect, which nothing may run beside."""
    deadlines: Deadlines = NONE
    so_far: SoFar | None = None
    """What an engine has of its output; None: it starts over."""
    place: Place | None = None
    promise: Promise | None = None
    attempt: int | None = None
    """How its events are called, if its tokens are kept as they come."""


@dataclass(slots=True)
class Claims:
    """What one worker may do with the jobs of its queues; `queues` in rank order."""

    connection: Redis
    worker: str
    queues: Sequence[str]
    lease_s: float
    serializer: Any = JSONSerializer
    job_class: type[Job] = Job
    num_open: int = field(default=0, init=False)
    """How many queues, from the first, the last `take` found no suspect in that it had to leave."""
    _unanswered: set[str] = field(default_factory=set)

    def take(
        self, count: int, *, most: Sequence[int] | None = None, is_empty: bool = True
    ) -> list[Claim]:
        """Return up to `count` jobs, started, high queues first.

        No more than `most` come from each queue; while one has more, none come from those behind
        it. A suspect is among them only if the worker `is_empty`, and then it is the only one.
        """
        self._put_back_unanswered()
        prefix = uuid4().hex[:24]
        try:
            limits = most or [count] * len(self.queues)
            claims, is_cut = self._take(count, limits, prefix, is_empty)
            while is_cut and not claims:
                claims, is_cut = self._take(count, limits, prefix, is_empty)
            return claims
        except RedisError:
            self._unanswered.add(prefix)
            raise

    def _take(
        self, count: int, most: Sequence[int], prefix: str, is_empty: bool
    ) -> tuple[list[Claim], bool]:
        """Return the claims, and whether a bound on what is passed over ended the search."""
        queue_keys = [key for q in self.queues for key in (keys.queue(q), keys.started(q))]
        now = datetime.now(UTC)
        num_open, entries, is_cut = keys.script(self.connection, "claim")(
            keys=[*queue_keys, keys.worker(self.worker)],
            args=[
                count,
                self.worker,
                utcformat(now),
                self.lease_s,
                keys.RQ_GRACE_S,
                prefix,
                int(is_empty),
                *most,
            ],
        )
        claims = [self._claim(entry, now) for entry in entries]
        self.num_open = int(num_open)
        return claims, bool(is_cut)

    def _claim(self, entry: list[object], now: datetime) -> Claim:
        job_id, execution, rank, alone, flat = entry
        fields = cast(list[bytes], flat)
        job = self.job_class(_text(job_id), connection=self.connection, serializer=self.serializer)
        record = dict(zip(fields[::2], fields[1::2], strict=True))
        promotion.mark(job, record)
        deadlines = Deadlines.of_record(record)
        place, promise = Place.read(record.get(b"place")), Promise.read(record.get(b"promise"))
        attempt = int(record[b"starts"]) if b"stream" in record else None
        _restore(job, record)
        queue = self.queues[cast(int, rank) - 1]
        kept = record.get(b"so_far")
        before = so_far.loads(kept, job_id=job.id) if kept else None
        return Claim(
            job,
            _text(execution),
            queue,
            now,
            alone=bool(alone),
            deadlines=deadlines,
            so_far=before,
            place=place,
            promise=promise,
            attempt=attempt,
        )

    def _put_back_unanswered(self) -> None:
        """Release what earlier claims took and never told us of."""
        while self._unanswered:
            prefix = next(iter(self._unanswered))
            for queue in self.queues:
                self._release([(queue, *ids, "") for ids in self._executions(queue, prefix)])
            self._unanswered.discard(prefix)

    def _executions(self, queue: str, prefix: str) -> list[tuple[str, str]]:
        """Return job and execution ids of `queue`, claimed under `prefix`, in their order."""
        members = self.connection.zrange(keys.started(queue), 0, -1)
        split = (_text(member).rpartition(":") for member in members)
        ours = [(job, execution) for job, _, execution in split if execution.startswith(prefix)]
        return sorted(ours, key=lambda ids: ids[1])

    def renew(self, claims: Sequence[Claim]) -> list[Verdict]:
        """Extend the leases, and say what became of the jobs.

        'lost': another may run it; 'stop': its caller cancelled it; 'expired': `finish_by` passed.
        """
        if not claims:
            return []
        now = utcformat(datetime.now(UTC))
        args: list[Any] = [self.lease_s, keys.RQ_GRACE_S, now, *_flat(claims)]
        reply = keys.script(self.connection, "renew")(args=args)
        return [cast(Verdict, _text(verdict)) for verdict in reply]

    def release(self, claims: Sequence[Claim]) -> int:
        """Put jobs back in front of their queues, uncharged; return how many were still ours.

        The next claim finds in each what it has so far.
        """
        return self._release(
            [
                (c.queue, c.job.id, c.execution_id, so_far.dumps(c.so_far, job_id=c.job.id))
                for c in claims
            ]
        )

    def _release(self, executions: Sequence[tuple[str, str, str, str]]) -> int:
        if not executions:
            return 0
        args = [so_far.MOST_RESUMED, *(part for execution in executions for part in execution)]
        return int(keys.script(self.connection, "release")(args=args))


def _restore(job: Job, fields: dict[bytes, bytes]) -> None:
    """Fill `job` from its record; one that cannot be read gets no data, and fails for that."""
    try:
        instants = {name: fields.pop(name) for name in _INSTANTS if name in fields}
        job.restore(fields)
        for name, text in instants.items():  # RQ's own strptime takes longer than all the rest
            setattr(job, name.decode(), datetime.fromisoformat(text.decode()) if text else None)
        if not isinstance(job.meta, dict):
            raise ValueError("its meta is no JSON object")
        if "unserialized" in job.meta:  # `rq requeue` without `-S json` makes it a pickle
            job.meta = {}
            lost = {"event": "claim.meta_lost", "job_id": job.id}
            logger.warning("a job's meta cannot be read", extra=lost)
    except Exception as error:  # whatever somebody may have written there
        extra = {"event": "claim.unreadable", "job_id": job.id, "error": error}
        logger.error("a job's record cannot be read", extra=extra)
        job.data, job.meta = b"unreadable", {}


def _flat(claims: Sequence[Claim]) -> list[str]:
    return [part for c in claims for part in (c.queue, c.job.id, c.execution_id)]


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
