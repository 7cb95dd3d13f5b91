"""VLLMEngine: vLLM inside the worker's process, behind vLLM's own OpenAI serving objects.

Chat templates, sampling, tools, structured outputs and log probabilities are vLLM's.
Scheduling is by priority. The step loop runs in a process of vLLM's own (EngineCore); this one
renders prompts and collects outputs.

Paths inside vLLM move between releases: they are all in this module, `vllm_flags`, `vllm_answers`
and `vllm_runs`, and `tests/contract` holds them.
"""

import asyncio
import gc
import json
import threading
import time
from argparse import Namespace
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import Future
from contextlib import aclosing, contextmanager
from types import SimpleNamespace
from typing import Any

import psutil

from config.settings import Settings
from gpu_worker.engine import (
    Aborted,
    Chunk,
    EngineDead,
    EngineFailure,
    EngineStartError,
    Event,
    Health,
    InvalidRequest,
    Load,
    Response,
)
from gpu_worker.vllm_answers import (
    checked,
    error_of,
    error_response,
    one_line,
    pieces,
    validated,
    whole,
)
from gpu_worker.vllm_endpoints import more_endpoints
from gpu_worker.vllm_flags import GATE, parse_flags, prepare_environment
from gpu_worker.vllm_runs import Run, current_run, make_llm
from scheduler.chunks import Assembly
from scheduler.jobs import Request
from scheduler.so_far import SoFar


class VLLMEngine:
    """An `AsyncLLM` and the serving objects over it."""

    kind = "vllm"

    def __init__(self, llm: Any, state: Any, model: str) -> None:
        self.llm = llm
        self._endpoints = _endpoints(state)
        self._runs: set[Run] = set()
        self._moved_at = time.monotonic()
        config = llm.vllm_config
        self.model = model
        self.is_gated = GATE in (config.additional_config or {})
        self.max_model_len: int = config.model_config.max_model_len
        self.seats: int = config.scheduler_config.max_num_seqs

    @classmethod
    async def start(cls, settings: Settings) -> "VLLMEngine":
        """Return a ready engine; takes tens of seconds, most of them in a thread."""
        try:
            args, llm = await _load_apart(settings)
            state = SimpleNamespace()
            await _init_app_state()(llm, state, args, await llm.get_supported_tasks())
        except EngineStartError:
            raise
        except Exception as error:
            raise EngineStartError(
                f"vLLM cannot serve {settings.model}: {one_line(error)}"
            ) from error
        settle()
        return cls(llm, state, settings.served_model)

    @property
    def num_tokens(self) -> int:
        """Output tokens that came since the start."""
        return int(self.llm.steps.num_tokens)

    async def run(
        self,
        request: Request,
        *,
        job_id: str,
        priority: int,
        so_far: SoFar | None = None,
        stream: bool = False,
    ) -> AsyncGenerator[Event]:
        """Yield the events of `request`."""
        run = self._enter(job_id, so_far if _has_one_prompt(request) else None)
        serving = self._serve_pieces if stream else self._serve
        body: dict[str, Any] | None = None
        try:
            async with aclosing(serving(request, run, priority)) as answers:
                async for answer in answers:
                    if first := run.first_token():
                        yield first
                    if isinstance(answer, Chunk):
                        yield answer
                    else:
                        body = answer
        except (InvalidRequest, EngineFailure):
            if not run.was_cut:  # else the serving layer made nothing of half an output
                raise
        finally:
            self._runs.discard(run)
            current_run.set(None)
        if first := run.first_token():
            yield first
        if body is None or run.was_cut:
            yield Aborted(body, run.so_far)
        else:
            yield Response(body)

    def _enter(self, job_id: str, so_far: SoFar | None) -> Run:
        run = Run(job_id, so_far)
        current_run.set(run)
        if not self._runs:
            self._moved_at = time.monotonic()
        self._runs.add(run)
        return run

    async def abort(self, job_id: str) -> bool:
        """Have vLLM end a job's request: its last output then has what there is."""
        runs = [run for run in self._runs if run.job_id == job_id]
        for run in runs:
            run.is_aborted = True
            await self.llm.abort(run.request_ids)
        return bool(runs)

    def load(self) -> Load:
        """Return how full the engine is now."""
        inside = len(self._runs)
        return Load(running=min(inside, self.seats), waiting=max(0, inside - self.seats))

    def health(self) -> Health:
        """Return whether EngineCore lives and sends steps."""
        moved_at = max(self._moved_at, self.llm.steps.last_at)
        return Health(
            alive=not self.llm.errored,
            stalled_s=time.monotonic() - moved_at if self._runs else 0.0,
        )

    async def stop(self) -> None:
        """End EngineCore; returns when its processes are gone."""
        await asyncio.to_thread(self.llm.shutdown, timeout=5.0)

    async def _serve(
        self, request: Request, run: Run, priority: int
    ) -> AsyncGenerator[dict[str, Any]]:
        """Yield the OpenAI response; raises the seam's errors."""
        with self._seam_errors():
            yield checked(await self._ask(request, run, priority, {"stream": False}))

    async def _serve_pieces(
        self, request: Request, run: Run, priority: int
    ) -> AsyncGenerator[Chunk | dict[str, Any]]:
        """Yield the chunks of the OpenAI response, last the response that they make."""
        with self._seam_errors():
            parts, asked = Assembly(), {"stream": True, "stream_options": {"include_usage": True}}
            response = await self._ask(request, run, priority, asked)
            if not isinstance(response, AsyncGenerator):  # refused, or none that can be streamed
                yield checked(response)
                return
            async with aclosing(response):
                async for line in pieces(response):
                    parts.add(json.loads(line))
                    yield Chunk(line)
            _raise_if_cancelled()
            with_ids = bool(request["body"].get("return_token_ids"))
            if body := whole(parts, with_ids=with_ids):
                yield body

    async def _ask(self, request: Request, run: Run, priority: int, fields: dict[str, Any]) -> Any:
        """Return what the serving object of the request's endpoint answers."""
        parse, serve = self._endpoint(request["endpoint"])
        fixed = {"priority": priority, "request_id": run.job_id, "stream_options": None}
        response = await serve(validated(parse, {**request["body"], **fixed, **fields}), None)
        _raise_if_cancelled()
        return response

    @contextmanager
    def _seam_errors(self) -> Iterator[None]:
        """Raise what vLLM raises as the seam's errors."""
        try:
            yield
        except InvalidRequest:
            raise
        except EngineFailure as error:  # told in a stream, a death is a failure like any other
            if self.llm.errored:
                raise EngineDead(str(error)) from error
            raise
        except Exception as error:
            raise self._as_engine_error(error) from error

    def _endpoint(self, endpoint: str) -> tuple[Any, Any]:
        try:
            return self._endpoints[endpoint]
        except KeyError:
            known = ", ".join(sorted(self._endpoints))
            raise InvalidRequest(
                f"endpoint {endpoint} is not served by {self.model}; use {known}"
            ) from None

    def _as_engine_error(self, error: Exception) -> Exception:
        """Map what vLLM raises to the seam's errors."""
        if self.llm.errored or "EngineDead" in type(error).__name__:
            return EngineDead(one_line(error))
        response = error_response(error)
        return error_of(response.error.code, response.error.message)


async def _load_apart(settings: Settings) -> tuple[Namespace, Any]:
    """Import vLLM, read flags and load the model in a thread; if cancelled, end its processes."""
    before = set(psutil.Process().children())
    made: Future[tuple[Namespace, Any]] = Future()
    made.set_running_or_notify_cancel()

    def make() -> None:
        try:
            prepare_environment(settings)
            args = parse_flags(settings)
            made.set_result((args, make_llm(args)))
        except BaseException as error:
            made.set_exception(error)

    threading.Thread(target=make, name="vllm-start", daemon=True).start()
    try:
        return await asyncio.wrap_future(made)
    except asyncio.CancelledError:
        for process in set(psutil.Process().children()) - before:
            process.kill()
        raise


def settle() -> None:
    """Spare every later step what can only change during the start."""
    from vllm import envs

    envs.enable_envs_cache()  # vLLM reads the environment for every token otherwise
    gc.collect()
    gc.freeze()  # vLLM's million objects are here to stay: not worth a look at every collection


def _init_app_state() -> Any:
    try:
        from vllm.entrypoints.launchers.api_server.app_state import init_app_state
    except ImportError:
        from vllm.entrypoints.openai.api_server import init_app_state
    return init_app_state


def _endpoints(state: Any) -> dict[str, tuple[Any, Any]]:
    """Return endpoint -> (request class, serving coroutine function), for what the model can do."""
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest

    endpoints: dict[str, tuple[Any, Any]] = {}
    if chat := getattr(state, "openai_serving_chat", None):
        endpoints["/v1/chat/completions"] = (ChatCompletionRequest, chat.create_chat_completion)
    if completion := getattr(state, "openai_serving_completion", None):
        endpoints["/v1/completions"] = (CompletionRequest, completion.create_completion)
    return {**endpoints, **more_endpoints(state)}


def _has_one_prompt(request: Request) -> bool:
    """Whether there is one prompt: a conversation, a text, or a list of token ids."""
    match request["body"].get("prompt"):
        case [first, *_]:
            return isinstance(first, int)
    return True


def _raise_if_cancelled() -> None:
    """Undo vLLM's own reading of a cancellation, as a client's mistake."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
