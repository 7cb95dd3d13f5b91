"""Finish: results are written in batches, each only while its lease is held.

One script writes every success of a tick as RQ would write it, key by key. A job that RQ itself
must finish (other jobs depend on it) is left untouched and reported, and the worker uses RQ's own
transaction for it.
"""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, cast

from redis import Redis
from rq.utils import utcformat

from scheduler import keys
from scheduler.claim import Claim
from scheduler.jobs import FUNCTION

Written = Literal["written", "lost", "dependents"]


@dataclass(frozen=True, slots=True)
class Success:
    """A job's return value, and when it ended."""

    claim: Claim
    value: Any
    ended_at: datetime
    result_ttl: int


def write(connection: Redis, worker: str, successes: Sequence[Success]) -> list[Written]:
    """Write all results in one atomic step; return what became of each."""
    if not successes:
        return []
    args = [worker, *(part for success in successes for part in _entry(success))]
    reply = keys.script(connection, "finish")(keys=[keys.worker(worker)], args=args)
    return [cast(Written, verdict.decode()) for verdict in reply]


def _entry(success: Success) -> tuple[str | float | bytes, ...]:
    job, claim = success.claim.job, success.claim
    value = "" if success.value is None else b64encode(job.serializer.dumps(success.value)).decode()
    return (
        claim.queue,
        job.id,
        claim.execution_id,
        utcformat(success.ended_at),
        claim.claimed_at.timestamp(),
        success.ended_at.timestamp(),
        value,
        success.result_ttl,
        job.serializer.dumps(job.meta) if job.func_name == FUNCTION else "",
    )


def holds(connection: Redis, claim: Claim) -> bool:
    """Whether the execution still holds its lease."""
    member = f"{claim.job.id}:{claim.execution_id}"
    return connection.zscore(keys.started(claim.queue), member) is not None
