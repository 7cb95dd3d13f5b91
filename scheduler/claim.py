"""Claim, renew, release: a worker's rights to jobs, each one atomic script.

A claim grants a lease on each job; heartbeats renew it; `scheduler.rescue` takes the job back once
it has expired. There is no instant in which a claimed job is in no list: leaving the queue and
entering the started registry are one step inside Redis.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, cast
from uuid import uuid4

from redis import Redis
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.utils import utcformat

from scheduler import keys

Verdict = Literal["held", "lost", "stop"]


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to finish `job`, until its lease expires."""

    job: Job
    execution_id: str
    queue: str
    claimed_at: datetime


@dataclass(frozen=True, slots=True)
class Claims:
    """What one worker may do with the jobs of its queues; `queues` in rank order."""

    connection: Redis
    worker: str
    queues: Sequence[str]
    lease_s: float
    serializer: Any = JSONSerializer

    def take(self, count: int) -> list[Claim]:
        """Return up to `count` jobs, started, high queues first."""
        queue_keys = [key for q in self.queues for key in (keys.queue(q), keys.started(q))]
        now = datetime.now(UTC)
        reply = keys.script(self.connection, "claim")(
            keys=[*queue_keys, keys.worker(self.worker)],
            args=[
                count,
                self.worker,
                utcformat(now),
                self.lease_s,
                keys.RQ_GRACE_S,
                uuid4().hex[:24],
            ],
        )
        return [self._claim(entry, now) for entry in reply]

    def _claim(self, entry: list[object], now: datetime) -> Claim:
        job_id, execution, place, _deadline, flat = entry
        fields = cast(list[bytes], flat)
        job = Job(_text(job_id), connection=self.connection, serializer=self.serializer)
        job.restore(dict(zip(fields[::2], fields[1::2], strict=True)))
        return Claim(job, _text(execution), self.queues[cast(int, place) - 1], now)

    def renew(self, claims: Sequence[Claim]) -> list[Verdict]:
        """Extend the leases; 'lost': another may run the job; 'stop': its caller cancelled it."""
        if not claims:
            return []
        now = utcformat(datetime.now(UTC))
        args: list[Any] = [self.lease_s, keys.RQ_GRACE_S, now, *_flat(claims)]
        reply = keys.script(self.connection, "renew")(args=args)
        return [cast(Verdict, _text(verdict)) for verdict in reply]

    def release(self, claims: Sequence[Claim]) -> int:
        """Put jobs back in front of their queues, uncharged; return how many were still ours."""
        return int(keys.script(self.connection, "release")(args=_flat(claims))) if claims else 0


def _flat(claims: Sequence[Claim]) -> list[str]:
    return [part for c in claims for part in (c.queue, c.job.id, c.execution_id)]


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
