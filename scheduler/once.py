"""Once: a request that comes with a key of its own makes one job, however often it is sent.

The key is written in the transaction that queues the job, and that transaction takes place only if
the key is still free: WATCH before, EXEC after. So a key stands there if and only if its job was
queued. Whatever dies in between leaves nothing behind, and of many that come at once one is first
and the others find its job. What a request asks for is kept as a fingerprint: the same key with
another request is refused.

    slalom:once:{tenant}:{digest}   string   "{job} {fingerprint}", expires after `kept_s`
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from redis import Redis
from redis.client import Pipeline
from redis.exceptions import ConnectionError, WatchError

from scheduler import keys
from scheduler.deadlines import DatedJob

TRIES = 10
"""Each loses to another that was first, or to a connection that broke."""


class AlreadyMade(Exception):
    """The request has made its job before: `job_id`."""

    def __init__(self, job_id: str) -> None:
        super().__init__(job_id)
        self.job_id = job_id


class OtherRequest(Exception):
    """The key was used before, for a request that asked for something else."""


@dataclass(frozen=True, slots=True)
class Once:
    """A tenant's key for one request, kept for `kept_s` seconds once its job is queued."""

    tenant: str
    key: str
    fingerprint: str
    kept_s: int

    def check(self, connection: Redis) -> None:
        """Raise AlreadyMade or OtherRequest where the key is used."""
        self._compare(connection.get(self._name))

    def make(self, connection: Redis, queue: Callable[[Pipeline], DatedJob]) -> DatedJob:
        """Return the job that `queue` adds to the transaction, in which the key is taken.

        AlreadyMade or OtherRequest where the key is used. A reply that was lost is no doubt here:
        the key tells whether the transaction took place.
        """
        job = None
        for _ in range(TRIES):
            with connection.pipeline() as pipeline:
                try:
                    pipeline.watch(self._name)
                    self._compare(pipeline.get(self._name))
                    pipeline.multi()
                    job = queue(pipeline)
                    pipeline.set(self._name, f"{job.id} {self.fingerprint}", ex=self.kept_s)
                    pipeline.execute()
                    return job
                except WatchError:
                    continue
                except AlreadyMade as made:
                    if job and made.job_id == job.id:
                        return job
                    raise
        raise ConnectionError("the transaction was disturbed too often")

    @property
    def _name(self) -> str:
        return keys.once(self.tenant, hashlib.sha256(self.key.encode()).hexdigest())

    def _compare(self, value: Any) -> None:
        if value is None:
            return
        job_id, fingerprint = value.decode().split(" ")
        raise AlreadyMade(job_id) if fingerprint == self.fingerprint else OtherRequest


def fingerprint(route: str, wanted: Any) -> str:
    """Return what tells one request from another: JSON values, whatever their order and spacing."""
    text = json.dumps([route, wanted], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
