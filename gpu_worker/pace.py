"""Pace: what the worker learns from every job that ends, for those who estimate.

Capacity counts only while jobs wait for the worker: from one ending to the next, if its last claim
before either may have left some behind.
"""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Collection
from copy import deepcopy
from datetime import datetime
from typing import Any

from gpu_worker.admission import Admission
from gpu_worker.endings import Ending, Finished
from scheduler.claim import Claim
from scheduler.jobs import FIRST_TOKEN_AT, FUNCTION
from scheduler.rates import MEMORY_S, NO_TIER, TierRates, WorkerRates
from scheduler.scores import Scored
from scheduler.work import actual, max_tokens


class Pace:
    """Measures one worker, on its event loop."""

    def __init__(
        self,
        admission: Admission,
        tiers: Collection[str],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._admission = admission
        self._tiers = tiers
        self._rates = WorkerRates()
        self._clock = clock
        self._began_at = self._ended_at = self._faded_at = clock()
        self._was_backlogged = False
        self._done: dict[str, float] = defaultdict(float)
        """Work by queue, fading with time."""
        self._scored: dict[str, Scored] = defaultdict(Scored)

    def ended(self, claim: Claim, ending: Ending, *, is_backlogged: bool) -> None:
        """Learn from a job; `is_backlogged`: more jobs wait than the worker may hold."""
        if claim.job.func_name != FUNCTION or not isinstance(ending, Finished):
            return
        usage = ending.value.get("usage") or {}
        prompt = usage.get("prompt_tokens") or usage.get("input_tokens") or 0
        output = usage.get("completion_tokens") or usage.get("output_tokens") or 0
        self._learn_tier(claim, output)
        work = actual(prompt, output)
        if claim.place:
            self._rates.surprise.add(work / claim.place.work, claim.place.work)
        self._learn_capacity(claim.queue, work, self._was_backlogged and is_backlogged)
        self._was_backlogged = is_backlogged
        self._note_score(claim)

    def report(self) -> tuple[WorkerRates, dict[str, Scored]]:
        """Return what is known by now, and by queue how late jobs were since the last report."""
        self._fade()
        age_s = self._faded_at - self._began_at
        span_s = MEMORY_S * (1 - math.exp(-age_s / MEMORY_S))
        obtained = {queue: work / span_s for queue, work in self._done.items() if span_s}
        self._rates.obtained = obtained
        self._rates.most = self._limits(self._faded_at)
        self._rates.refill = self._admission.refill(self._faded_at)
        scored, self._scored = self._scored, defaultdict(Scored)
        return deepcopy(self._rates), dict(scored)

    def _limits(self, now: float) -> dict[str, int]:
        """Return how many jobs of each queue the worker holds."""
        queues = self._admission.queues
        return dict(zip(queues, self._admission.rooms(0, 0, now), strict=True))

    def _fade(self) -> None:
        """Let work of the past fade."""
        before, self._faded_at = self._faded_at, self._clock()
        for queue in self._done:
            self._done[queue] *= math.exp((before - self._faded_at) / MEMORY_S)

    def _learn_capacity(self, queue: str, work: float, is_busy: bool) -> None:
        self._fade()
        self._done[queue] += work
        passed_s, self._ended_at = self._faded_at - self._ended_at, self._faded_at
        if is_busy:
            rates, fade = self._rates, math.exp(-passed_s / MEMORY_S)
            rates.busy_s = fade * rates.busy_s + passed_s
            rates.jobs = fade * rates.jobs + 1
            rates.work = fade * rates.work + work

    def _learn_tier(self, claim: Claim, output: int) -> None:
        job = claim.job
        name = str(job.meta.get("tier"))
        known = name if name in self._tiers else NO_TIER
        tier = self._rates.tiers.setdefault(known, TierRates())
        tier.output.add(output)
        body: dict[str, Any] = job.args[0]["body"]
        if asked := max_tokens(body):
            tier.share.add(output / asked, asked)
        if first := job.meta.get(FIRST_TOKEN_AT):
            first_at = datetime.fromisoformat(first)
            tier.first_token_s.add((first_at - claim.claimed_at).total_seconds())
            if output > 1 and job.ended_at:
                tier.token_s.add((job.ended_at - first_at).total_seconds() / (output - 1))

    def _note_score(self, claim: Claim) -> None:
        """Note how late a job was; one that was to be taken at once says nothing of waiting."""
        promise, ended_at = claim.promise, claim.job.ended_at
        if promise and promise.forecast.start.mean > 0 and ended_at:
            times = claim.claimed_at.timestamp(), ended_at.timestamp()
            self._scored[claim.queue].add(promise.score(*times), promise.is_late(*times))
