"""Expiry: a waiting job whose deadline has passed ends as a dead letter, and never runs.

Who waits for `start_by` or `finish_by` stands in `slalom:deadlines:{queue}` under that instant, so
that nothing is searched for in queues. A claim starts no job that is late by Redis's clock: it
takes it out of the queue and lets it stand there with 0, due at once. Here such jobs become RQ's
failed ones, each in one atomic step, and only while its record is still as it was read: any number
of processes may do it at once. A job that runs past its `finish_by` is its worker's to end
(`Claims.renew`), and one that is started, retried or rescued is looked at again.

As with all dead letters that no worker writes, no `on_failure` is called and no webhook sent; jobs
that depend on it and may run without it do.
"""

import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

from redis import Redis
from rq.defaults import DEFAULT_FAILURE_TTL
from rq.utils import utcformat

from scheduler import keys
from scheduler.deadlines import Deadlines
from scheduler.rescue import enqueue_dependents, packed

logger = logging.getLogger(__name__)

STEP = 200
"""Jobs of one call; Redis serves nobody else while it ends them."""
LOOK_AGAIN_S = 5.0
"""The pause after which a late job is looked at again that runs, or waits for another job."""
_FIELDS = ("status", "start_by", "finish_by", "attempts", "deadline_since")
_WAITING = {"queued", "created", "scheduled"}

Record = dict[str, bytes | None]


@dataclass(frozen=True, slots=True)
class Swept:
    """How many jobs were looked at, and the ids of those that have expired."""

    looked_at: int
    expired: list[str]


@dataclass(frozen=True, slots=True)
class End:
    """The job has expired; `text` says why."""

    text: str


@dataclass(frozen=True, slots=True)
class Look:
    """The job has not expired; look again `at` (epoch s)."""

    at: float


@dataclass(frozen=True, slots=True)
class Drop:
    """The job has no deadline any more: it is gone, or has ended, or started in time."""


Decision = End | Look | Drop


def expire(connection: Redis, queue: str) -> Swept:
    """End up to STEP jobs of `queue` that wait past their deadline."""
    key = keys.deadlines(queue)
    seconds, micros = connection.time()
    now = seconds + micros / 1e6
    due = connection.zrangebyscore(key, "-inf", now, start=0, num=STEP, withscores=True)
    if not due:
        return Swept(0, [])
    found = [(job_id.decode(), score) for job_id, score in cast(list[tuple[bytes, float]], due)]
    records = _read(connection, [job_id for job_id, _ in found])
    args: list[Any] = [utcformat(datetime.now(UTC)), DEFAULT_FAILURE_TTL, queue]
    for (job_id, score), record in zip(found, records, strict=True):
        args += _order(job_id, record, decide(record, now, is_passed=score == 0))
    script = keys.script(connection, "expire")
    names = [key, keys.scheduled(queue), keys.failed(queue)]
    reply = script(keys=[*names, keys.promotions(queue)], args=args)
    verdicts = dict(zip((job_id for job_id, _ in found), reply, strict=True))
    return Swept(len(found), _tell(connection, queue, verdicts))


def decide(record: Record, now: float, *, is_passed: bool) -> Decision:
    """Return what becomes of a job whose turn has come; `is_passed`: a claim found it late."""
    status = (record["status"] or b"").decode(errors="replace")
    has_started = record["attempts"] is not None
    deadlines = Deadlines.read(record)
    until = deadlines.waits_until(has_started=has_started)
    if status in _WAITING and (is_passed or (until is not None and until <= now)):
        return End(f"Expired: {deadlines.passed('waiting', has_started=has_started)}")
    if until is None or status not in {*_WAITING, "deferred", "started"}:
        return Drop()
    return Look(until if until > now else now + LOOK_AGAIN_S)


def _read(connection: Redis, job_ids: list[str]) -> list[Record]:
    with connection.pipeline(transaction=False) as pipeline:
        for job_id in job_ids:
            pipeline.hmget(f"rq:job:{job_id}", *_FIELDS)
        replies = pipeline.execute(raise_on_error=False)
    unreadable = [None] * len(_FIELDS)
    values = [unreadable if isinstance(reply, Exception) else reply for reply in replies]
    return [dict(zip(_FIELDS, of_one, strict=True)) for of_one in values]


def _order(job_id: str, record: Record, decision: Decision) -> list[Any]:
    """Return what the script is told to do with one job."""
    seen = b" ".join(record[name] or b"" for name in _FIELDS[:4])
    match decision:
        case End(text):
            return [job_id, seen, "end", *packed(text)]
        case Look(at):
            return [job_id, seen, f"{at:.3f}", "", ""]
        case Drop():
            return [job_id, seen, "drop", "", ""]


def _tell(connection: Redis, queue: str, verdicts: dict[str, bytes]) -> list[str]:
    expired = [job_id for job_id, verdict in verdicts.items() if verdict != b"left"]
    for job_id in expired:
        extra = {"event": "job.expired", "job_id": job_id, "queue": queue}
        logger.warning("job expired", extra=extra)
        if verdicts[job_id] == b"awaited":
            enqueue_dependents(connection, queue, job_id)
    return expired
