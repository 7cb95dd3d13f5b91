"""The engine seam: what the worker needs of an inference engine, and the errors it may see.

An engine runs many OpenAI requests at once, in order of priority (smaller first), and says how full
it is. An aborted request hands over what there is of its output, and another run, in this engine or
in another, goes on from there. `VLLMEngine` and `SimEngine` pass the same contract tests.

    EngineError            code: `scheduler.retry` decides by it
    ├── InvalidRequest     the caller's fault
    ├── EngineFailure      this request failed in the engine
    └── EngineDead         the engine is gone; the worker starts another
    EngineStartError       the engine cannot start: one line says why
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, Protocol

from scheduler.jobs import Request
from scheduler.so_far import SoFar


class EngineError(Exception):
    """A request did not get its answer."""

    code: ClassVar[str]


class InvalidRequest(EngineError):
    """The engine cannot serve this request as it is."""

    code = "invalid_request"


class EngineFailure(EngineError):
    """The engine failed on this request; another attempt may succeed."""

    code = "engine_failure"


class EngineDead(EngineError):
    """The engine process is gone; nothing more can run on it."""

    code = "engine_dead"


class EngineStartError(Exception):
    """The engine cannot start."""


@dataclass(frozen=True, slots=True)
class FirstToken:
    """The first output token exists since `at` (UTC); it may be reported late, never early."""

    at: datetime


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a streamed response: the JSON text of an OpenAI streaming chunk, on one line."""

    body: str


@dataclass(frozen=True, slots=True)
class Response:
    """The whole OpenAI response; the last event of a request."""

    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Aborted:
    """What there was when the request was aborted; the last event of such a request."""

    body: dict[str, Any] | None
    """The OpenAI response as far as it came, `finish_reason` "abort"; None if there is none."""
    so_far: SoFar | None
    """What another run goes on from; None if it must start over."""


Event = FirstToken | Chunk | Response | Aborted


@dataclass(frozen=True, slots=True)
class Health:
    """Whether the engine still lives, and for how long it has had work and made no step."""

    alive: bool
    stalled_s: float


@dataclass(frozen=True, slots=True)
class Load:
    """How full the engine is: requests in a seat, requests waiting for one."""

    running: int
    waiting: int


class Engine(Protocol):
    """Continuous batching behind OpenAI's requests."""

    model: str
    """Name under which the model is served."""
    max_model_len: int
    """Tokens of prompt and output together that one request may have."""
    seats: int
    """Requests that one step can work on (vLLM's `max_num_seqs`)."""
    kind: str
    """`vllm` or `sim`."""
    is_gated: bool
    """Whether it keeps low requests from the seats and the steps of high ones."""

    @property
    def num_tokens(self) -> int:
        """Output tokens that were computed since the start."""
        ...

    def run(
        self,
        request: Request,
        *,
        job_id: str,
        priority: int,
        so_far: SoFar | None = None,
        stream: bool = False,
    ) -> AsyncGenerator[Event]:
        """Yield the request's events, last a Response, or Aborted; closing it ends the request.

        With `so_far` only the rest is computed, and the answer is the same as without, wherever
        that is exact; where it is not, or `so_far` is not of this request, it starts over. With
        `stream` its Chunks come first, those with `so_far` too; the last one tells the usage.
        """
        ...

    async def abort(self, job_id: str) -> bool:
        """End a job's request now, with what there is; say whether it was inside."""
        ...

    def load(self) -> Load:
        """Return how full the engine is now."""
        ...

    def health(self) -> Health:
        """Return whether the engine lives and moves; cheap, asked every second."""
        ...

    async def stop(self) -> None:
        """End the engine and every process of its own, a hung one too."""
        ...
