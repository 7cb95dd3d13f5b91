"""The step gate: vLLM's scheduler, with high and low requests.

vLLM orders what waits by priority, but never displaces a running request for a waiting one, and
every running request is in every step. `GatedScheduler` adds, before each of vLLM's own steps:

step      While a high request runs or waits, low ones are set aside in the steps that `gate_policy`
          does not open to them. They keep their KV blocks; vLLM copes with running requests that
          get no tokens in a step.
seats     While high requests come and go, low ones leave `reserve` seats and some KV blocks free
          and start few at a time; a high request that finds no seat takes a low one's.
KV        A high request that would find no free blocks takes those of low ones: otherwise vLLM
          would look for a victim among the high ones only, since the low ones are set aside.

A request whose place is taken is preempted as vLLM does it: it waits, keeps its tokens, and goes on
later. At most twice, while there are others.

It runs in EngineCore's process. vLLM calls this interface unstable: `vllm_flags.GATED_RELEASES`
names the releases for which `tests/contract/test_gate.py` has held it.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, takewhile
from typing import Any, Self

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.request import Request, RequestStatus

from gpu_worker.gate_policy import Gate, GateOptions, High

HOLD_S = 1.0
"""How long after the last high request seats and blocks stay reserved for the next one."""
STARTS = 4
"""Low requests without a first token while high ones come and go."""
KEPT_BLOCKS = 0.125
"""Share of the KV blocks that must be free for a low request to start meanwhile."""
HEADROOM = 4
"""Seats that stay free for the next high request, however many run."""
START_TOKENS, START_SHARE = 64, 0.25
"""Prompt tokens of low requests in one step meanwhile: at least; and as a share of what a step may
have, where no objective says how long it may take."""
MOST_EVICTIONS = 2
"""Of one request, as long as others can be evicted."""


@dataclass(frozen=True, slots=True)
class Parts:
    """A scheduler's `running`, which between two steps at most loses some.

    A look at 60 low requests takes as long as a hundredth of a short step, so that those who are
    set aside step after step are looked at once.
    """

    running: list[Request]
    num: int
    high: list[Request]
    low: list[Request]
    reading: list[Request]
    """Low ones of whose prompt a part is still to come."""

    @classmethod
    def of(cls, running: list[Request], high_priority: int) -> Self:
        """Look at each."""
        high = [r for r in running if r.priority <= high_priority]
        low = [r for r in running if r.priority > high_priority]
        return cls(running, len(running), high, low, [r for r in low if r.is_prefill_chunk])

    def are_of(self, running: list[Request]) -> bool:
        """Whether these are still its parts."""
        return running is self.running and len(running) == self.num


class GatedScheduler(AsyncScheduler):  # type: ignore[misc]  # vLLM is not typed
    """vLLM's scheduler, which lets high requests through."""

    running: list[Request]
    max_num_active_reqs: int
    max_num_scheduled_tokens: int

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        options = GateOptions(**self.vllm_config.additional_config["slalom_gate"])
        self._gate = Gate(options)
        self._parts = Parts.of([], 0)
        self._unanswered: dict[str, Request] = {}
        """High requests without a token; all others are in `_first_token_at`."""
        self._first_token_at: dict[str, float] = {}
        self._high_at = float("-inf")
        self._is_stuck = False

    def schedule(self, *args: Any, **kwargs: Any) -> SchedulerOutput:
        """Schedule a step."""
        now = time.time()
        limits = self.max_num_active_reqs, self.max_num_scheduled_tokens
        aside: list[Request] = []
        try:
            aside = self._prepare(now)
            output: SchedulerOutput = super().schedule(*args, **kwargs)
        finally:
            self.max_num_active_reqs, self.max_num_scheduled_tokens = limits
            if aside and self.running == self._parts.high:
                self.running = self._parts.running
            else:
                self.running.extend(aside)
                self._parts = Parts.of([], 0)
        self._is_stuck = bool(aside) and not output.total_num_scheduled_tokens
        if output.total_num_scheduled_tokens:
            self._gate.steps.scheduled(now, output.total_num_scheduled_tokens)
        return output

    def update_from_output(self, scheduler_output: SchedulerOutput, *args: Any) -> Any:
        """Take in what a step gave, and note when high requests got their first token."""
        outputs = super().update_from_output(scheduler_output, *args)
        now = time.time()
        if scheduler_output.total_num_scheduled_tokens:
            self._gate.steps.done(now)
        for request in [r for r in self._unanswered.values() if r.num_output_tokens]:
            self._first_token_at[request.request_id] = now
            del self._unanswered[request.request_id]
        return outputs

    def add_request(self, request: Request) -> None:
        """Take a request in."""
        super().add_request(request)
        if self._is_high(request):
            self._unanswered[request.request_id] = request

    def _free_request(self, request: Request, *args: Any, **kwargs: Any) -> Any:
        self._unanswered.pop(request.request_id, None)
        self._first_token_at.pop(request.request_id, None)
        return super()._free_request(request, *args, **kwargs)

    def _is_high(self, request: Request) -> bool:
        return bool(request.priority <= self._gate.options.high_priority)

    def _prepare(self, now: float) -> list[Request]:
        """Set limits for the next step; take low requests out of `running` and return them."""
        if not self._unanswered and not self._first_token_at:
            self._pass_freely(now)
            return []
        parts = self._parted()
        come = self._coming_high()
        is_evicting = bool(parts.low) and self._lacks_room(parts.high, come)
        if is_evicting:
            self._make_room(parts, come)
            parts = self._parted()
        high = parts.high
        if high or come:
            self._high_at = now
        if self._is_stuck:  # a step that vLLM makes alone frees what is in the way
            return []
        if not high and not come:
            self._pass_freely(now)
            return []
        stay, aside, may_start = self._choose(now, parts, come)
        self.running = high + stay
        if may_start and not is_evicting:  # who was just evicted would start
            self._limit_low(now, high, len(come))
        else:
            room = self.max_num_active_reqs - len(aside)
            self.max_num_active_reqs = min(len(self.running) + len(come), room)
            if stay and not come:
                self._limit_tokens(now, high)
        return aside

    def _pass_freely(self, now: float) -> None:
        """Let low ones alone have the step."""
        self._limit_low(now, [], 0)
        if self.running:
            self._gate.passed_freely()

    def _choose(
        self, now: float, parts: Parts, come: list[Request]
    ) -> tuple[list[Request], list[Request], bool]:
        """Return which low requests stay, which are set aside, and whether more may start."""
        high, low, reading = parts.high, parts.low, parts.reading
        starting = bool(come) or any(r.is_prefill_chunk for r in high)
        starting = starting and not self._gate.owes  # else low ones would never begin
        num_waiting = len(self.waiting) - len(come)
        if not low and num_waiting <= 0:
            return [], [], not starting
        num_tokens = (len(low) - len(reading)) * (1 + self.num_spec_tokens)
        if not starting:  # else the prompts of high ones need the step's tokens
            num_tokens += min(sum(map(_num_next, reading)), START_TOKENS)
        num_tokens += sum(map(_num_next, (*high, *come)))
        num_tokens = min(num_tokens, self.max_num_scheduled_tokens)
        if not self._gate.opens(now, self._views(high, come), num_tokens):
            return [], low, False
        if starting and reading:
            return [r for r in low if not r.is_prefill_chunk], reading, False
        return low, [], not starting

    def _limit_low(self, now: float, high: list[Request], num_come: int) -> None:
        """Let low requests start, after the high ones, only as far as the reserve allows."""
        if now - self._high_at > HOLD_S:
            return
        reserve = self._gate.options.reserve
        if reserve is None:
            reserve = self.max_num_running_reqs // 8
        kept = max(reserve - len(high), min(reserve, HEADROOM))
        starting = sum(not r.num_output_tokens for r in self.running)
        most = len(self.running) + num_come + max(0, STARTS - starting)
        pool = self.kv_cache_manager.block_pool
        if pool.get_num_free_blocks() < KEPT_BLOCKS * pool.num_gpu_blocks:
            most = num_come
        seats = min(most, self.max_num_active_reqs - kept)
        self.max_num_active_reqs = max(seats, len(self.running))
        self._limit_tokens(now, high)

    def _limit_tokens(self, now: float, high: list[Request]) -> None:
        """Keep the prompts of low requests so short that the step is short, or is in time."""
        if self.num_spec_tokens:
            return
        allowed = self.max_num_scheduled_tokens
        most = START_SHARE * allowed
        if self._gate.options.mode == "slo":
            most = min(allowed, self._gate.most_tokens(now, self._views(high, [])))
        tokens = max(len(self.running) + START_TOKENS, int(most))
        self.max_num_scheduled_tokens = min(allowed, tokens)

    def _coming_high(self) -> list[Request]:
        """Return the high requests that vLLM can start now, next first, no more than seats."""
        if not self.waiting or not self._is_high(self.waiting.peek_request()):
            return []
        high = takewhile(self._is_high, self.waiting)  # in order of priority
        return list(islice(filter(_can_start, high), self.max_num_active_reqs))

    def _views(self, high: list[Request], come: list[Request]) -> Iterator[High]:
        for r in (*high, *come):
            first_token_at = self._first_token_at.get(r.request_id)
            num_tokens = r.num_output_tokens + r.num_output_placeholders
            yield High(r.arrival_time, first_token_at, num_tokens)

    def _parted(self) -> Parts:
        if not self._parts.are_of(self.running):
            self._parts = Parts.of(self.running, self._gate.options.high_priority)
        return self._parts

    def _make_room(self, parts: Parts, come: list[Request]) -> None:
        """Evict low requests until every high one has a seat and blocks."""
        # The last of these is the first to go.
        low = sorted(
            parts.low,
            key=lambda r: (r.num_preemptions < MOST_EVICTIONS, r.priority, r.arrival_time),
        )
        while low and self._lacks_room(parts.high, come):
            victim = low.pop()
            if self._request_blocks_can_be_freed(victim):
                self.running.remove(victim)
                self._preempt_request(
                    victim, time.monotonic(), drop_stale_output=self.requires_kv_delivery
                )

    def _lacks_room(self, high: list[Request], come: list[Request]) -> bool:
        """Whether a high request would find no seat or no blocks."""
        if not high and not come:
            return False
        if len(self.running) + len(come) > self.max_num_active_reqs:
            return True
        num_groups = len(self.kv_cache_config.kv_cache_groups)
        num_tokens = (_num_next(r) + self.num_lookahead_tokens for r in (*high, *come))
        blocks = len(come) + sum(-(-n // self.block_size) for n in num_tokens)
        kept: int = self.kv_cache_manager.watermark_blocks if come else 0
        free: int = self.kv_cache_manager.block_pool.get_num_free_blocks()
        return bool(blocks * num_groups + kept > free)


def _num_next(request: Request) -> int:
    """Return how many tokens of a request the model has yet to see: one, or a prompt's rest."""
    known = request.num_tokens_with_spec + request.num_output_placeholders
    return int(known - request.num_computed_tokens)


def _can_start(request: Request) -> bool:
    """Whether vLLM would start it: no grammar is being compiled, none of its output on its way."""
    if request.status == RequestStatus.WAITING_FOR_STRUCTURED_OUTPUT_GRAMMAR:
        return request.structured_output_request.grammar is not None
    return bool(request.drop_stale_output or not request.num_stale_output_tokens)
