"""SimEngine: continuous batching without a model, for load tests and machines without vLLM.

Every step gives each seated request one token and takes `STEP_S + SEQUENCE_S * running` seconds; a
free seat goes to the waiting request with the smallest (priority, arrival). A prompt counts one
token per four characters. Every answer says that it is simulated, and its tokens are zeros. Steps
follow a clock of their own, as a GPU's do: one that a busy machine makes late is made up for by the
next.

A body with `"simulate": "crash"` kills the engine at its first step, one with `"simulate": "hang"`
stops all steps: what a poisonous request does to a real engine. With `"simulate": 20` the answer
ends by itself after 20 tokens, should `max_tokens` let it.
"""

import asyncio
import heapq
import itertools
import json
import logging
import math
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from config.settings import Settings
from gpu_worker.engine import (
    Aborted,
    Chunk,
    EngineDead,
    Event,
    FirstToken,
    Health,
    InvalidRequest,
    Load,
    Response,
)
from gpu_worker.simulated import KINDS, Answer, prompt_text, text_of
from scheduler.chunks import Assembly
from scheduler.jobs import Request
from scheduler.so_far import SoFar

logger = logging.getLogger(__name__)

STEP_S = 0.004
SEQUENCE_S = 0.0001
CHARACTERS_PER_TOKEN = 4
MOST_LATE_S = 1.0
DEFAULT_MAX_TOKENS = 16


@dataclass(eq=False)
class _Sequence:
    """One request in the engine, and how many tokens it has."""

    prompt_tokens: int
    max_tokens: int
    fault: str | None
    finish_reason: str = "length"
    first_token: asyncio.Event = field(default_factory=asyncio.Event)
    finished: asyncio.Event = field(default_factory=asyncio.Event)
    stepped: asyncio.Event = field(default_factory=asyncio.Event)
    first_token_at: datetime | None = None
    num_tokens: int = 0
    is_cut: bool = False
    """Whether it ends with what there is."""
    gone: bool = False
    """Whether no step may work on it any more."""

    def cut(self) -> None:
        self.is_cut = self.gone = True
        self.end()

    def end(self) -> None:
        self.first_token.set()
        self.finished.set()
        self.stepped.set()

    @property
    def text(self) -> str:
        return text_of(self.num_tokens)

    @property
    def reason(self) -> str:
        return "abort" if self.is_cut else "length"

    @property
    def so_far(self) -> SoFar | None:
        return SoFar((0,) * self.num_tokens, self.text) if self.num_tokens else None


class SimEngine:
    """A discrete model of an engine's step loop, on the real clock."""

    kind = "sim"
    is_gated = False

    def __init__(self, *, model: str, seats: int = 64, max_model_len: int = 4096) -> None:
        self.model = model
        self.seats = seats
        self.max_model_len = max_model_len
        self.num_tokens = 0
        self._inside: dict[_Sequence, str] = {}
        self._running: list[_Sequence] = []
        self._waiting: list[tuple[int, int, _Sequence]] = []
        self._arrivals = itertools.count()
        self._work = asyncio.Event()
        self._moved_at = time.monotonic()
        self._is_dead = False
        self._loop = asyncio.create_task(self._steps())

    @classmethod
    async def start(cls, settings: Settings) -> "SimEngine":
        """Return a ready engine."""
        return cls(model=settings.served_model)

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
        self._raise_if_dead()
        sequence = self._sequence(request)
        if so_far:
            _go_on(sequence, so_far, job_id)
        if not self._inside:
            self._moved_at = time.monotonic()
        self._inside[sequence] = job_id
        heapq.heappush(self._waiting, (priority, next(self._arrivals), sequence))
        self._work.set()
        try:
            await sequence.first_token.wait()
            self._raise_if_dead()
            if sequence.first_token_at:
                yield FirstToken(sequence.first_token_at)
            answer = Answer(self.model, request["endpoint"], job_id, sequence.prompt_tokens)
            if stream:
                parts = Assembly()
                async for piece in self._pieces(sequence, answer):
                    self._raise_if_dead()
                    parts.add(piece)
                    yield Chunk(json.dumps(piece))
                body = parts.response()
            else:
                await sequence.finished.wait()
                self._raise_if_dead()
                body = answer.whole(sequence.num_tokens, sequence.reason)
            yield Aborted(body, sequence.so_far) if sequence.is_cut else Response(body)
        finally:
            sequence.gone = True
            del self._inside[sequence]

    async def _pieces(self, sequence: _Sequence, answer: Answer) -> AsyncGenerator[dict[str, Any]]:
        """Yield the chunks of a request: one for each step, then the usage."""
        yield answer.head()
        while not sequence.finished.is_set():
            sequence.stepped.clear()
            await sequence.stepped.wait()
            if not sequence.finished.is_set():
                yield answer.step()
        yield answer.tail(sequence.num_tokens, sequence.reason)
        yield answer.usage(sequence.num_tokens)

    async def abort(self, job_id: str) -> bool:
        """End a job's request with what there is."""
        inside = [sequence for sequence, job in self._inside.items() if job == job_id]
        for sequence in inside:
            if not sequence.finished.is_set():
                sequence.cut()
        return bool(inside)

    def load(self) -> Load:
        """Return how full the engine is now."""
        waiting = sum(not sequence.gone for _, _, sequence in self._waiting)
        return Load(running=sum(not s.gone for s in self._running), waiting=waiting)

    def health(self) -> Health:
        """Return whether it lives and moves."""
        load = self.load()
        is_idle = not load.running and not load.waiting
        return Health(not self._is_dead, 0.0 if is_idle else time.monotonic() - self._moved_at)

    async def stop(self) -> None:
        """End the step loop."""
        self._loop.cancel()
        await asyncio.gather(self._loop, return_exceptions=True)

    async def _steps(self) -> None:
        due_at = 0.0
        while True:
            await self._work.wait()
            self._moved_at = time.monotonic()
            self._seat()
            if not self._running:
                self._work.clear()
                due_at = 0.0
                continue
            faults = {sequence.fault for sequence in self._running}
            if "hang" in faults:
                await asyncio.Event().wait()
            now = time.monotonic()
            due_at = max(due_at, now - MOST_LATE_S) if due_at else now
            due_at += STEP_S + SEQUENCE_S * len(self._running)
            await asyncio.sleep(due_at - now)
            if "crash" in faults:
                return self._die()
            self._step()

    def _die(self) -> None:
        self._is_dead = True
        for sequence in (*self._running, *(waiting for _, _, waiting in self._waiting)):
            sequence.end()

    def _raise_if_dead(self) -> None:
        if self._is_dead:
            raise EngineDead("a simulated crash")

    def _seat(self) -> None:
        self._running = [s for s in self._running if not s.gone]
        while self._waiting and len(self._running) < self.seats:
            sequence = heapq.heappop(self._waiting)[2]
            if not sequence.gone:
                self._running.append(sequence)

    def _step(self) -> None:
        for sequence in self._running:
            if sequence.gone:
                continue
            self.num_tokens += 1
            sequence.num_tokens += 1
            if not sequence.first_token_at:
                sequence.first_token_at = datetime.now(UTC)
                sequence.first_token.set()
            sequence.stepped.set()
            if sequence.num_tokens >= sequence.max_tokens:
                sequence.finished.set()
        self._running = [s for s in self._running if not s.finished.is_set()]

    def _sequence(self, request: Request) -> _Sequence:
        body = request["body"]
        if request["endpoint"] not in KINDS:
            raise InvalidRequest(
                f"endpoint {request['endpoint']} is not served; use {' or '.join(KINDS)}"
            )
        if body.get("model", self.model) != self.model:
            raise InvalidRequest(f"model {body['model']!r} is not served; use {self.model!r}")
        text = prompt_text(body)
        prompt_tokens = math.ceil(len(text) / CHARACTERS_PER_TOKEN)
        max_tokens = body.get("max_tokens") or DEFAULT_MAX_TOKENS
        if prompt_tokens + max_tokens > self.max_model_len:
            raise InvalidRequest(
                f"prompt of {prompt_tokens} tokens and max_tokens {max_tokens} exceed "
                f"the model's length of {self.max_model_len}"
            )
        simulated = body.get("simulate")
        if isinstance(simulated, int) and simulated < max_tokens:
            return _Sequence(prompt_tokens, max(1, simulated), None, "stop")
        fault = simulated if isinstance(simulated, str) else None
        return _Sequence(prompt_tokens, max_tokens, fault)


def _go_on(sequence: _Sequence, so_far: SoFar, job_id: str) -> None:
    """Let a sequence begin with the tokens of an earlier run, if they are this engine's."""
    num_tokens = len(so_far.token_ids)
    if so_far.text == text_of(num_tokens) and num_tokens < sequence.max_tokens:
        sequence.num_tokens = num_tokens
    else:
        extra = {"event": "so_far.unfit", "job_id": job_id}
        logger.warning("what a job has so far does not fit: it starts over", extra=extra)
