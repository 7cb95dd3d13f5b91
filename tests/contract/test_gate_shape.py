"""What the gate relies on in vLLM's scheduler is still there, and still means the same."""

import hashlib
import inspect
from typing import Any

import pytest

pytestmark = pytest.mark.vllm

OF_SCHEDULER = {
    "running": "who is in every step: low ones are taken out for one, and put back",
    "waiting": "who waits, next first",
    "max_num_active_reqs": "how many may run; lowered for a step, so that low ones do not start",
    "max_num_running_reqs": "seats, of which an eighth is the reserve",
    "max_num_scheduled_tokens": "tokens of a step; lowered for one, so that few low ones start",
    "num_spec_tokens": "speculative decoding: the tokens of a step are not lowered then",
    "num_lookahead_tokens": "speculative decoding: tokens that also need blocks",
    "requires_kv_delivery": "whether the output of a preempted request must be dropped",
    "block_size": "tokens in a KV block",
    "kv_cache_config": "its groups, each of which takes blocks of its own",
    "kv_cache_manager": "which blocks are free",
    "_preempt_request": "makes a running request wait",
    "_request_blocks_can_be_freed": "whether a preemption gives blocks at once",
    "_free_request": "called once for every request that ended or was aborted",
}
OF_REQUEST = {
    "request_id": "its name",
    "priority": "smaller is more urgent",
    "arrival_time": "`time.time()`, as the API process had it",
    "status": "says whether a grammar is being compiled for it",
    "structured_output_request": "holds that grammar once it is there",
    "num_tokens_with_spec": "prompt and output, with drafts",
    "num_computed_tokens": "how many of them the model has seen or will have seen",
    "num_output_placeholders": "tokens that the steps on their way will give",
    "num_output_tokens": "tokens that came",
    "num_preemptions": "how often it was preempted",
    "num_stale_output_tokens": "tokens on their way to a preempted request, which waits for them",
    "drop_stale_output": "whether those are dropped instead",
    "is_prefill_chunk": "whether a part of the prompt is still to come",
}
SCHEDULES = {"da4f2cf2fc39c39e"}
"""Beginnings of the hashes of the `schedule` methods that this was checked against."""
RE_CHECK = """vLLM's Scheduler.schedule is not one of those that the gate was checked against.
Re-check in its source, then add {digest} to SCHEDULES:
- a running request that is left out of `self.running` for a step keeps its blocks and goes on later
- `self.running` grows nowhere else: between two steps it only loses some
- waiting requests start while `len(running) < max_num_active_reqs`, the most urgent first
- after a preemption inside `schedule`, no waiting request starts in that step
- what is asserted at the end: at most max_num_running_reqs run, at most max_num_scheduled_tokens
- a request that was preempted since the last step may be scheduled again in this one
- which waiting requests are passed over: those that `gpu_worker.gate._can_start` must say no to
"""


@pytest.fixture(scope="module")
def scheduler() -> Any:
    from tests.contract.stepping import Stepping

    return Stepping().scheduler


@pytest.mark.parametrize("name", OF_SCHEDULER)
def test_the_scheduler_still_has(scheduler: Any, name: str) -> None:
    assert hasattr(scheduler, name), f"{name} is gone from vLLM's scheduler: {OF_SCHEDULER[name]}"


@pytest.mark.parametrize("name", OF_REQUEST)
def test_a_request_still_has(name: str) -> None:
    from tests.contract.stepping import HIGH, Stepping

    request = Stepping().add(HIGH, prompt=4, output=4)

    assert hasattr(request, name), f"{name} is gone from vLLM's requests: {OF_REQUEST[name]}"


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("schedule", ["throttle_prefills"]),
        ("add_request", ["request"]),
        ("update_from_output", ["scheduler_output", "model_runner_output"]),
        ("_preempt_request", ["request", "timestamp", "drop_stale_output"]),
        ("_free_request", ["request", "delay_free_blocks"]),
        ("_request_blocks_can_be_freed", ["request"]),
    ],
)
def test_a_method_that_the_gate_overrides_or_calls_takes_what_it_took(
    method: str, parameters: list[str]
) -> None:
    from vllm.v1.core.sched.async_scheduler import AsyncScheduler

    taken = list(inspect.signature(getattr(AsyncScheduler, method)).parameters)

    assert taken == ["self", *parameters]


def test_the_cache_manager_tells_of_all_blocks_of_free_ones_and_of_those_to_keep(
    scheduler: Any,
) -> None:
    pool = scheduler.kv_cache_manager.block_pool
    assert pool.num_gpu_blocks >= pool.get_num_free_blocks() > 0
    assert scheduler.kv_cache_manager.watermark_blocks == 0


def test_the_most_urgent_request_that_waits_is_the_first(scheduler: Any) -> None:
    from tests.contract.stepping import HIGH, LOW, Stepping

    engine = Stepping()
    engine.add(LOW, prompt=4, output=4)
    engine.add(HIGH, prompt=4, output=4)
    engine.add(HIGH, prompt=4, output=4)

    waiting = engine.scheduler.waiting
    assert waiting.peek_request().request_id == "high-1"
    assert [r.request_id for r in waiting] == ["high-1", "high-2", "low-0"]
    assert len(waiting) == 3


def test_schedule_is_one_that_the_gate_was_checked_against() -> None:
    from vllm.v1.core.sched.scheduler import Scheduler

    digest = hashlib.sha256(inspect.getsource(Scheduler.schedule).encode()).hexdigest()[:16]

    assert digest in SCHEDULES, RE_CHECK.format(digest=digest)
