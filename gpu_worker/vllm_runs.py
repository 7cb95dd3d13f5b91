"""Runs: what one run of a request through vLLM's serving objects needs beside them.

The serving objects neither take nor tell when the first token came, which tokens there were when a
request was aborted, and which an earlier run had already. Under them lies a `RunningLLM`, an
AsyncLLM that reads and notes this in the `Run` of the current task.

To go on from what an earlier run had, EngineCore gets the prompt with those tokens behind it, and
fewer to make; while vLLM's record of the request in this process, from which all its outputs come,
is of the whole request, its detokenizer having seen the tokens. So text, usage, stop strings and
half characters at the cut are those of a request that was never interrupted. What would change its
meaning, starts over: see `_KEPT`.
"""

import logging
import time
from argparse import Namespace
from collections.abc import AsyncGenerator
from contextlib import aclosing
from contextvars import ContextVar
from copy import copy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from gpu_worker.engine import FirstToken
from scheduler.so_far import SoFar

logger = logging.getLogger(__name__)

_KEPT = {
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",  # counts the prompt as the output
    "logit_bias",
    "allowed_token_ids",
    "stop",
    "stop_token_ids",
    "ignore_eos",
    "max_tokens",
    "min_tokens",
    "detokenize",
    "skip_special_tokens",
    "spaces_between_special_tokens",
    "include_stop_str_in_output",
    "output_kind",
    "stream_interval",
    "skip_clone",
    "skip_reading_prefix_cache",
    "output_text_buffer_length",
    "_eos_token_id",
    "_all_stop_token_ids",
    "_watermarking_skipped",
}
"""Sampling parameters that mean the same where part of the output is in the prompt. With any other,
known or yet to come (more than one output, penalties, structure, log probabilities), a request
starts over."""


@dataclass(eq=False)
class Run:
    """One run of a job's request."""

    job_id: str
    before: SoFar | None
    """What an earlier run had."""
    first_token_at: datetime | None = None
    is_first_told: bool = False
    request_ids: list[str] = field(default_factory=list)
    """Of vLLM's own requests, one for each prompt."""
    is_aborted: bool = False
    was_cut: bool = False
    """Whether the abort came before the end."""
    may_go_on: bool = False
    """Whether another run can go on from where this one ends."""
    token_ids: list[int] = field(default_factory=list)
    text: str = ""

    @property
    def so_far(self) -> SoFar | None:
        """What another run goes on from."""
        if not (self.may_go_on and self.token_ids and len(self.request_ids) == 1):
            return None
        return SoFar(tuple(self.token_ids), self.text)

    def first_token(self) -> FirstToken | None:
        """Return the event of the first token, once, as soon as it is known."""
        if self.is_first_told or not self.first_token_at:
            return None
        self.is_first_told = True
        return FirstToken(self.first_token_at)

    def note(self, output: Any, *, is_delta: bool) -> None:
        """Note what a RequestOutput tells."""
        stats = output.metrics
        if stats is not None and stats.first_token_latency > 0:
            at = datetime.fromtimestamp(stats.arrival_time + stats.first_token_latency, UTC)
            self.first_token_at = min(at, self.first_token_at or at)
        for part in output.outputs:
            self.was_cut = self.was_cut or (self.is_aborted and part.finish_reason == "abort")
            if not is_delta:
                self.token_ids, self.text = [], ""
            self.token_ids.extend(part.token_ids)
            self.text += part.text


current_run: ContextVar[Run | None] = ContextVar("current_run", default=None)
"""The run that the requests of the current task are of; None: nobody's, as in benchmarks."""


def make_llm(args: Namespace) -> Any:
    """Return a RunningLLM; it keeps statistics, which tell of first tokens."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.sampling_params import RequestOutputKind
    from vllm.v1.engine.async_llm import AsyncLLM

    class RunningLLM(AsyncLLM):
        steps = Steps()

        async def generate(
            self, prompt: Any, sampling_params: Any, request_id: str, **more: Any
        ) -> AsyncGenerator[Any]:
            run = current_run.get() or Run("", None)
            run.request_ids.append(request_id)
            is_delta = sampling_params.output_kind == RequestOutputKind.DELTA
            outputs = super().generate(prompt, sampling_params, request_id, **more)
            async with aclosing(outputs):
                async for output in outputs:
                    run.note(output, is_delta=is_delta)
                    yield output

        async def _add_request(self, request: Any, *args: Any) -> None:
            run = current_run.get() or Run("", None)
            run.may_go_on = _may_go_on(self, request)
            if run.before and (seen := _detokenizer(self, request, run)):
                await _add_rest(self, request, run.before, seen, *args)
            else:
                await super()._add_request(request, *args)
            if run.is_aborted:  # before there was anything to abort
                await self.abort(request.request_id, internal=True)

        def __del__(self) -> None:
            """Do nothing: `stop` has shut it down, and AsyncLLM's own fails at interpreter exit."""

    args.disable_log_stats = True
    engine_args = AsyncEngineArgs.from_cli_args(args)
    return RunningLLM.from_engine_args(engine_args, stat_loggers=[_step_clock(RunningLLM.steps)])


def _may_go_on(llm: Any, request: Any) -> bool:
    """Whether a run of `request` means the same when it is made in two parts."""
    from vllm.sampling_params import SamplingParams

    params = request.sampling_params
    if params is None or request.prompt_token_ids is None or request.prompt_embeds is not None:
        return False
    if request.mm_features or request.resumable or llm.model_config.logits_processors:
        return False
    if params.seed is not None and params.temperature > 0:
        return False
    default = SamplingParams()
    others = set(params.__struct_fields__) - _KEPT - {"seed"}
    return all(_is_unset(getattr(params, name), getattr(default, name)) for name in others)


def _is_unset(value: object, default: object) -> bool:
    if value is None or value is False:
        return True
    return isinstance(value, int | float | list) and value == default  # an array compares by items


def _detokenizer(llm: Any, request: Any, run: Run) -> Any:
    """Return a detokenizer of `request` that has seen the tokens of the earlier run.

    None if the request must start over: for its own sake, or because the tokens are not of it: they
    give another text than they gave then.
    """
    if not (run.may_go_on and run.before):
        return None
    from vllm.v1.engine.detokenizer import IncrementalDetokenizer

    params, ids = request.sampling_params, list(run.before.token_ids)
    if max(ids) < llm.model_config.get_vocab_size() and len(ids) < params.max_tokens:
        tokenizer = llm.output_processor.tokenizer if params.detokenize else None
        detokenizer = IncrementalDetokenizer.from_new_request(tokenizer, request)
        stop = detokenizer.update(ids, False)
        text = detokenizer.get_next_output_text(finished=True, delta=False)
        if stop is None and text == run.before.text:
            return detokenizer
    extra = {"event": "so_far.unfit", "job_id": run.job_id}
    logger.warning("what a job has so far does not fit: it starts over", extra=extra)
    return None


async def _add_rest(llm: Any, request: Any, before: SoFar, detokenizer: Any, *args: Any) -> None:
    """Add `request` as AsyncLLM does, with only the rest of it for EngineCore."""
    llm.check_admission(request_id=request.request_id)
    llm.output_processor.add_request(request, *args)
    state = llm.output_processor.request_states[request.request_id]
    state.detokenizer = detokenizer
    ids = list(before.token_ids)
    if output := state.make_request_output(ids, None, None, None):  # where outputs are streamed
        state.queue.put(output)
    await llm.engine_core.add_request_async(_rest(request, ids))


def _rest(request: Any, ids: list[int]) -> Any:
    """Return `request` with tokens of its output in the prompt."""
    rest = copy(request)
    rest.prompt_token_ids = [*request.prompt_token_ids, *ids]
    rest.sampling_params = params = copy(request.sampling_params)
    params.max_tokens -= len(ids)
    params.min_tokens = max(0, params.min_tokens - len(ids))
    return rest


class Steps:
    """When the last step's outputs came (monotonic clock); all tokens and preemptions so far."""

    last_at = 0.0
    num_tokens = 0
    num_preempted = 0


def _step_clock(steps: Steps) -> type:
    """Return what vLLM takes for its Prometheus logger, which would cost a tenth of this process.

    It must be a subclass of that, or vLLM adds the original.
    """
    from vllm.v1.metrics.loggers import PrometheusStatLogger

    class StepClock(PrometheusStatLogger):
        def __init__(self, *_: Any, **__: Any) -> None:
            """Keep nothing."""

        def record(self, scheduler_stats: Any, iteration_stats: Any, **_: Any) -> None:
            """Note that a step was made."""
            steps.last_at = time.monotonic()
            if iteration_stats is not None:
                steps.num_tokens += iteration_stats.num_generation_tokens
                steps.num_preempted += iteration_stats.num_preempted_reqs

        def _ignore(self, *_: Any, **__: Any) -> None:
            """Keep nothing."""

        log_engine_initialized = record_admission_rejection = record_sleep_state = _ignore

    return StepClock
