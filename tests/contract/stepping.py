"""A GatedScheduler without a model: it schedules, and made-up outputs come back.

The next token of a request is its place in the output, so that one that is lost, doubled or out of
order shows. Every step is held to what must be true of each.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any

import torch
from vllm import SamplingParams
from vllm.engine.arg_utils import EngineArgs
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus
from vllm.v1.structured_output import StructuredOutputManager

from config.settings import ROOT
from gpu_worker.gate import MOST_EVICTIONS, GatedScheduler
from gpu_worker.gate_policy import Gate, GateOptions, High

HIGH, LOW = 0, 100
BLOCK = 4
STRICT = GateOptions(mode="strict", floor=0)


class Clock:
    """Stands in for the gate's `time`."""

    now = 1000.0

    def time(self) -> float:
        return self.now

    monotonic = time


CLOCK = Clock()


@cache
def config() -> Any:
    """Return vLLM's configuration, which each scheduler changes for itself."""
    init_none_hash(sha256)
    arguments = EngineArgs(
        model=str(ROOT / "models" / "adder"),
        dtype="float32",
        scheduling_policy="priority",
        max_num_seqs=4,
        max_num_batched_tokens=256,
    )
    return arguments.create_engine_config()


class NotedGate(Gate):
    """Remembers whether it opened the latest step, if it was asked."""

    opened: bool = False

    def opens(self, now: float, highs: Iterable[High], num_tokens: int) -> bool:
        self.opened = Gate.opens(self, now, highs, num_tokens)
        return self.opened


class Watched(GatedScheduler):
    """Checks each preemption."""

    is_preparing = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.evicted: list[str] = []

    def _prepare(self, now: float) -> list[Request]:
        self._gate.opened = False
        self.is_preparing = True
        try:
            return super()._prepare(now)
        finally:
            self.is_preparing = False

    def _preempt_request(self, victim: Request, *args: Any, **kwargs: Any) -> None:
        low = [r for r in self.requests.values() if r.priority == LOW]
        running = [r for r in low if r.status == RequestStatus.RUNNING]
        assert victim in low or not running, "high preempted, while low held blocks"
        if self.is_preparing:
            assert victim.num_preemptions < MOST_EVICTIONS or all(
                r.num_preemptions >= MOST_EVICTIONS for r in running
            ), "evicted often, while others were not"
            self.evicted.append(victim.request_id)
        super()._preempt_request(victim, *args, **kwargs)


@dataclass
class Stepping:
    """The scheduler, the clock, and the steps on their way."""

    options: GateOptions = STRICT
    seats: int = 4
    active: int | None = None
    """The operator's `--max-num-active-seqs`."""
    most_tokens: int = 64
    num_blocks: int = 200
    watermark: float = 0.0
    caches: bool = False
    depth: int = 1
    """Steps on their way at a time; more than one is asynchronous scheduling."""
    requests: dict[str, Request] = field(default_factory=dict)
    aborted: set[str] = field(default_factory=set)
    idle_steps: int = 0
    """Steps without a token since the last one with any."""

    def __post_init__(self) -> None:
        vllm = config()
        vllm.scheduler_config.max_num_seqs = self.seats
        vllm.scheduler_config.max_num_active_seqs = self.active
        vllm.scheduler_config.max_num_batched_tokens = self.most_tokens
        vllm.scheduler_config.watermark = self.watermark
        vllm.scheduler_config.async_scheduling = self.depth > 1
        vllm.cache_config.num_gpu_blocks = self.num_blocks
        vllm.cache_config.enable_prefix_caching = self.caches
        vllm.additional_config = {"slalom_gate": asdict(self.options)}
        spec = FullAttentionSpec(block_size=BLOCK, num_kv_heads=1, head_size=1, dtype=torch.float)
        kv = KVCacheConfig(self.num_blocks, [], [KVCacheGroupSpec(["layer"], spec)])
        self.scheduler = Watched(vllm, kv, StructuredOutputManager(vllm), block_size=BLOCK)
        self.scheduler._gate = NotedGate(self.options)
        self.limits = self._limits()
        self.free = self._num_free()
        self._on_their_way: deque[tuple[SchedulerOutput, ModelRunnerOutput]] = deque()

    def add(self, priority: int, prompt: int, output: int, **params: Any) -> Request:
        """Send a request with a prompt of so many tokens; all prompts begin alike."""
        name = f"{'high' if priority == HIGH else 'low'}-{len(self.requests)}"
        sampling = SamplingParams(max_tokens=output, ignore_eos=True, temperature=0, **params)
        hasher = get_request_block_hasher(BLOCK, sha256) if self.caches else None
        request = Request(
            name,
            [3] * prompt,
            sampling,
            None,
            priority=priority,
            arrival_time=CLOCK.now + len(self.requests) * 1e-6,
            block_hasher=hasher,
        )
        self.requests[name] = request
        self.scheduler.add_request(request)
        return request

    def abort(self, name: str) -> None:
        self.aborted.add(name)
        self.scheduler.finish_requests(name, RequestStatus.FINISHED_ABORTED)

    def step(self, took_s: float = 0.01) -> set[str]:
        """Make a step; return the requests that were in it."""
        scheduler, now = self.scheduler, CLOCK.now
        is_vllms_own, num_evicted = scheduler._is_stuck, len(scheduler.evicted)
        startable = self._startable()
        output = scheduler.schedule()
        CLOCK.now += took_s
        scheduled = set(output.num_scheduled_tokens)
        self.idle_steps = 0 if scheduled else self.idle_steps + 1

        if not is_vllms_own and (startable or scheduler._high_at == now):
            has_low = any(name.startswith("low") for name in scheduled)
            assert scheduler._gate.opened or not has_low, f"low ones in {scheduled}"
            assert scheduled.isdisjoint(scheduler.evicted[num_evicted:]), "evicted for nothing"
        assert startable <= scheduled, f"{startable - scheduled} could have started"
        assert len(scheduler.running) <= (self.active or self.seats)
        assert self._limits() == self.limits
        there = [r.request_id for r in (*scheduler.running, *scheduler.waiting)]
        assert sorted(there) == sorted(scheduler.requests)

        self._on_their_way.append((output, self._made_up(output)))
        if len(self._on_their_way) >= self.depth or not scheduled:
            self._update()
        return scheduled

    def finish(self) -> None:
        """Step until everything has ended; check what each got, and that nothing stays behind."""
        while self.scheduler.has_unfinished_requests():
            self.step()
            assert self.idle_steps <= 2 + self.depth, "nothing moves any more"
        while self._on_their_way:
            self._update()
        for name, request in self.requests.items():
            tokens = list(request.output_token_ids)
            assert tokens == list(range(len(tokens)))
            assert name in self.aborted or len(tokens) == request.max_tokens
        assert self.scheduler._unanswered == self.scheduler._first_token_at == {}
        assert self.scheduler.requests == {}
        assert self._num_free() == self.free

    @property
    def low_seats(self) -> int:
        return sum(r.priority == LOW for r in self.scheduler.running)

    def _update(self) -> None:
        self.scheduler.update_from_output(*self._on_their_way.popleft())

    def _made_up(self, output: SchedulerOutput) -> ModelRunnerOutput:
        tokens = []
        names = list(output.num_scheduled_tokens)
        for request in map(self.requests.__getitem__, names):
            place = request.num_output_tokens + request.num_output_placeholders - 1
            tokens.append([] if request.is_prefill_chunk else [place])
        return ModelRunnerOutput(names, {name: n for n, name in enumerate(names)}, tokens)

    def _startable(self) -> set[str]:
        """Return the waiting high requests for which the low ones can make room."""
        high = [r for r in self.requests.values() if r.priority == HIGH and not r.is_finished()]
        waiting = {RequestStatus.WAITING, RequestStatus.PREEMPTED}
        tokens = sum(r.num_tokens + 1 for r in high)
        blocks = sum(-(-(r.num_tokens + 1) // BLOCK) + 1 for r in high)
        num_stale = sum(r.num_stale_output_tokens for r in high)
        if num_stale or len(high) > (self.active or self.seats) or blocks >= self.free:
            return set()
        if tokens + self.seats > self.most_tokens:
            return set()
        return {r.request_id for r in high if r.status in waiting}

    def _limits(self) -> tuple[int, int]:
        return self.scheduler.max_num_active_reqs, self.scheduler.max_num_scheduled_tokens

    def _num_free(self) -> int:
        return int(self.scheduler.kv_cache_manager.block_pool.get_num_free_blocks())
