"""Estimator: reads what an estimate needs; one step in Redis per job, the rates once a second."""

import time
from dataclasses import dataclass, field

from redis import Redis
from rq.job import Job

from config.tiers import TierTable
from scheduler import scores
from scheduler.estimate import Outlook, forecast
from scheduler.fair_share import line_of
from scheduler.jobs import FUNCTION, Request
from scheduler.line import Line, look
from scheduler.rates import NO_TIER, Rates, published
from scheduler.scores import Scores
from scheduler.tenants import ANYBODY, Tenant
from scheduler.work import size

FRESH_S = 1.0


@dataclass(frozen=True, slots=True)
class _Measured:
    rates: dict[str, Rates]
    scores: dict[str, Scores]
    read_at: float


@dataclass(slots=True)
class Estimator:
    """What may be said of jobs; safe to share between threads."""

    connection: Redis
    tiers: TierTable
    _measured: _Measured | None = field(default=None, init=False)

    def look(self, queue: str, tenant: Tenant = ANYBODY) -> Line:
        """Return the line as it is before a job that is about to come to `queue`."""
        joins = line_of(queue, tenant.name)
        weight = tenant.weight if joins else 1.0
        return look(self.connection, list(self.tiers.queues), queue, joins=joins, weight=weight)

    def before(self, request: Request, tier: str, line: Line | None = None) -> Outlook:
        """Return the outlook of a request, were it submitted to `tier` now, or behind `line`."""
        return self._outlook(line or self.look(self.tiers.tiers[tier].queue), request, tier)

    def of(self, job: Job) -> Outlook | None:
        """Return the outlook of a job that waits; None where it stands in no queue of ours."""
        if job.origin not in self.tiers.queues:
            return None
        line = look(self.connection, list(self.tiers.queues), job.origin, job.id)
        tier = str((job.meta or {}).get("tier"))
        return self._outlook(line, _request(job), tier if tier in self.tiers.tiers else NO_TIER)

    def rates(self, queue: str) -> Rates:
        """Return what the workers of `queue` measure."""
        return self._fresh().rates[queue]

    def _outlook(self, line: Line, request: Request, tier: str) -> Outlook:
        queue = line.queues[line.own].name
        rates = self.rates(queue)
        expected = size(request, rates.tier(tier))
        return Outlook(
            time.time(),
            expected,
            line.position,
            line.work_ahead(rates.mean_work),
            rates.left_by([view.name for view in line.queues[: line.own]]),
            forecast(line, rates, expected, tier),
            self._fresh().scores[queue],
            line.queues[line.own],
        )

    def _fresh(self) -> _Measured:
        """Return what the workers measured, a second ago at most."""
        measured = self._measured
        if measured is None or time.monotonic() - measured.read_at > FRESH_S:
            measured = self._measured = self._read()
        return measured

    def _read(self) -> _Measured:
        workers = published(self.connection)
        rates = {queue: Rates.of(workers, queue) for queue in self.tiers.queues}
        return _Measured(
            rates, scores.read(self.connection, list(self.tiers.queues)), time.monotonic()
        )


def _request(job: Job) -> Request:
    """Return the request of an inference job; an empty one for any other callable."""
    if job.func_name == FUNCTION and job.args and isinstance(job.args[0], dict):
        return Request(endpoint="", body=job.args[0].get("body") or {})
    return Request(endpoint="", body={})
