"""Slalom's policy, with the product's own step gate and admission.

High jobs enter the engine at once. Low ones wait in the order of their deadlines, are claimed as
late as `gpu_worker.admission` lets them, and take part in steps as `gpu_worker.gate_policy` grants.
A lower tier passes a higher one only near its deadline, once `scheduler.promotion` says so, in at
most a fifth of the starts. What cannot make its deadline any more goes behind all that can; past
it, it expires.
"""

import heapq
import itertools
from collections import deque
from dataclasses import dataclass

from benchmarks.simulation.door import Door
from benchmarks.simulation.engine import ENGINE
from benchmarks.simulation.jobs import Job, Promise
from config.tiers import Promotion
from gpu_worker.admission import Admission
from gpu_worker.gate_policy import Gate, GateOptions, High, Mode
from gpu_worker.step_model import ASIDE, FREE, ContinuousBatch, Rule, Sequence
from scheduler.deadlines import Deadlines
from scheduler.promotion import promote_at

PROMOTION = Promotion(service_s=30, max_share=0.2)
"""The low queue's, as in config/tiers.yaml."""
MOST_PROMOTIONS = 50.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What low ones may do while high ones come and go; all but `start_tokens` as in the gate."""

    starts: int = 4
    kept_kv: float = 0.125
    hold_s: float = 1.0
    most_evictions: int = 2
    start_tokens: int = ENGINE.step_tokens
    """Prompt tokens in one step."""
    gate: Mode = "slo"
    share: float = 0.0
    """Of `share`."""


class Low:
    """The low jobs that wait, the next one first."""

    def __init__(self, ranks: list[str], policy: Promotion) -> None:
        self._orders = itertools.count()
        self._policy = policy
        self._feasible: dict[str, list[tuple[float, int, Job]]] = {tier: [] for tier in ranks}
        self._late: list[tuple[float, int, Job]] = []
        self._promotions = 0.0

    def __bool__(self) -> bool:
        return bool(self._late) or any(self._feasible.values())

    def add(self, job: Job) -> None:
        """Let it wait."""
        heapq.heappush(self._feasible[job.promise.tier], (job.due_at, next(self._orders), job))

    def is_queued(self, tier: str) -> bool:
        """Whether any of the tier's can still make its deadline."""
        return bool(self._feasible[tier])

    def sift(self, now: float) -> list[Job]:
        """Move what is late behind the others; return what has expired."""
        for jobs in self._feasible.values():
            while jobs and jobs[0][0] < now:
                job = heapq.heappop(jobs)[2]
                heapq.heappush(self._late, (job.expires_at, next(self._orders), job))
        expired = []
        while self._late and self._late[0][0] < now:
            expired.append(heapq.heappop(self._late)[2])
        return expired

    def pop(self, now: float) -> Job:
        """Return the next one."""
        waiting = [jobs for jobs in self._feasible.values() if jobs]
        if not waiting:
            return heapq.heappop(self._late)[2]
        first = waiting[0]
        due = [jobs for jobs in waiting[1:] if self._is_due(jobs[0][2], now)]
        if due and self._promotions >= 1:
            self._promotions -= 1
            first = due[0]
        self._promotions = min(MOST_PROMOTIONS, self._promotions + self._policy.max_share)
        return heapq.heappop(first)[2]

    def _is_due(self, job: Job, now: float) -> bool:
        deadlines = Deadlines(finish_by=job.expires_at, since=job.submitted_at)
        at = promote_at(deadlines, self._policy)
        return at is not None and at <= now


class Highs:
    """High jobs in the engine, as the gate looks at them: only the most urgent ones matter."""

    def __init__(self, batch: ContinuousBatch, options: GateOptions) -> None:
        self._batch = batch
        self._token_s = options.margin * options.tpot_s
        self._starting: deque[Job] = deque()
        self._decoding: list[tuple[float, int, int, Job]] = []

    def add(self, job: Job) -> None:
        """Take in one that waits for its first token."""
        self._starting.append(job)

    def started(self, job: Job) -> None:
        """Its first token is there."""
        ticks = self._batch.open.ticks
        lead = job.first_token_at - ticks * self._token_s
        heapq.heappush(self._decoding, (lead, job.order, ticks, job))

    def views(self) -> list[High]:
        """Return the one whose first token and the one whose next token is due first."""
        while self._starting and self._starting[0].num_tokens:
            self._starting.popleft()
        while self._decoding and not self._decoding[0][3].is_running:
            heapq.heappop(self._decoding)
        views = []
        if self._starting:
            views.append(High(self._starting[0].submitted_at, None, 0))
        if self._decoding:
            _, _, joined, job = self._decoding[0]
            num_tokens = 1 + self._batch.open.ticks - joined
            views.append(High(job.submitted_at, job.first_token_at, num_tokens))
        return views


class Slalom:
    """The whole policy of one worker."""

    def __init__(
        self,
        batch: ContinuousBatch,
        promises: dict[str, Promise],
        limits: Limits = Limits(),
    ) -> None:
        ranks = [p.tier for p in promises.values() if not p.is_high]
        high = next(p for p in promises.values() if p.is_high)
        seats = batch.capacity.seats
        options = GateOptions(
            mode=limits.gate,
            share=limits.share,
            ttft_s=high.ttft_s,
            tpot_s=high.tpot_s,
            reserve=seats // 8,
        )
        self._reserve = seats // 8
        self.gate = Gate(options)
        self.doors = {tier: Door(_horizon_s(promises[tier])) for tier in ranks}
        self.low = Low(ranks, PROMOTION)
        self._batch = batch
        self._limits = limits
        self._admission = Admission(seats, ("high", "low"), "high", self._reserve, is_gated=True)
        self._highs = Highs(batch, options)
        self._num_high = self._num_low = 0
        self._high_at = float("-inf")

    def submit(self, job: Job, now: float) -> bool:
        """Hand a high one to the engine; let a low one wait, or refuse it."""
        job.priority = job.promise.priority
        if job.promise.is_high:
            self._batch.add(job)
            self._highs.add(job)
            self._num_high += 1
            return True
        job.is_gated = True
        if not self.doors[job.promise.tier].admits(job):
            return False
        self.low.add(job)
        return True

    def feed(self, now: float) -> list[Job]:
        """Claim as many low ones as the engine has use for."""
        expired = self.low.sift(now)
        for job in expired:
            self.doors[job.promise.tier].expired(job)
        room = self._admission.rooms(self._num_high, self._num_low, now)[1]
        while room > 0 and self.low:
            self._batch.add(self.low.pop(now))
            self._num_low += 1
            room -= 1
        return expired

    def rule(self, now: float) -> Rule:
        """Return what low ones may do in the next step."""
        if not self._num_high:
            if self._batch.num_running:
                self.gate.passed_freely()
            return self._limited() if now - self._high_at <= self._limits.hold_s else FREE
        self._high_at = now
        self._make_room()
        open_ = self._batch.open
        num_tokens = self._batch.num_running + open_.missing
        if self._num_low and not self.gate.opens(now, self._highs.views(), num_tokens):
            return ASIDE
        if open_.missing:  # a prompt of a high request needs all tokens of the step
            return Rule(prompt_tokens=0)
        return self._limited()

    def stepped(self, took_s: float, first: list[Job], finished: list[Job], now: float) -> None:
        """Learn from a step."""
        self.gate.steps.scheduled(now - took_s, self._batch.num_planned)
        self.gate.steps.done(now)
        for tier, door in self.doors.items():
            door.passed(took_s, is_queued=self.low.is_queued(tier))
        for job in first:
            if job.is_gated:
                tier = job.promise.tier
                self.doors[tier].began(job, is_queued=self.low.is_queued(tier))
            else:
                self._highs.started(job)
        for job in finished:
            self._admission.endings.add(now)
            if job.is_gated:
                self.doors[job.promise.tier].finished(job)
                self._num_low -= 1
            else:
                self._num_high -= 1

    def _limited(self) -> Rule:
        """Let few low ones start, and leave seats free."""
        batch = self._batch
        kept = max(0, self._reserve - batch.open.num_running)
        most = batch.num_running + max(0, self._limits.starts - batch.gated.num_prefilling)
        if batch.kv_used > (1 - self._limits.kept_kv) * batch.capacity.kv_tokens:
            most = 0
        seats = min(most, batch.capacity.seats - kept)
        return Rule(prompt_tokens=self._limits.start_tokens, seats=seats)

    def _victim(self, low: Sequence) -> tuple[bool, int, int]:
        return low.num_preemptions < self._limits.most_evictions, low.priority, low.order

    def _make_room(self) -> None:
        """Evict low ones until every high one has a seat and KV."""
        batch = self._batch
        while batch.gated.num_running and (
            batch.gated.num_running + self._num_high > batch.capacity.seats
            or batch.kv_used + batch.open.missing + self._num_high > batch.capacity.kv_tokens
        ):
            low = [s for s in batch.running if s.is_gated]
            batch.preempt(max(low, key=self._victim))


def _horizon_s(promise: Promise) -> float:
    """Return how long after its submission a job is due."""
    return min(promise.ttft_s, promise.finish_within_s)
