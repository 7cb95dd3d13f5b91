"""Keeper: the engine as the worker sees it, with another in its place when it dies.

An engine is dead when it says so, or when it has work and made no step for `step_timeout_s`.
Whoever has a request inside then gets nothing more (the worker takes those jobs back, as suspects);
requests that come meanwhile wait for the next engine. Starts are tried again with backoff and full
jitter. After MOST_FAILURES deaths and failed starts in a row, without a single answer in between,
the engine is given up.
"""

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

from gpu_worker.engine import Engine, EngineDead, EngineStartError, Event, Health, Load, Response
from scheduler.jobs import Request
from scheduler.so_far import SoFar

logger = logging.getLogger(__name__)

MOST_FAILURES = 5
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
LOOK_EVERY_S = 1.0

Start = Callable[[], Awaitable[Engine]]
OnDeath = Callable[[frozenset[str]], Awaitable[None]]
"""Told the ids of the jobs that were inside."""


class Keeper:
    """An engine that is replaced when it dies."""

    def __init__(self, engine: Engine, start: Start, *, step_timeout_s: float) -> None:
        self._engine = engine
        self._start = start
        self._step_timeout_s = step_timeout_s
        self._inside: dict[object, str] = {}
        """Job ids by run: a Redis that lost its last second may have one job run twice in here."""
        self._died = asyncio.Event()
        self._is_up = asyncio.Event()
        self._is_up.set()
        self._failures = 0
        self.model = engine.model
        self.max_model_len = engine.max_model_len
        self.seats = engine.seats
        self.kind = engine.kind
        self.is_gated = engine.is_gated

    @property
    def num_tokens(self) -> int:
        """Output tokens that the present engine has computed."""
        return self._engine.num_tokens

    async def run(
        self,
        request: Request,
        *,
        job_id: str,
        priority: int,
        so_far: SoFar | None = None,
        stream: bool = False,
    ) -> AsyncGenerator[Event]:
        """Yield the events of `request`, from this engine or from the next."""
        await self._is_up.wait()
        this_run = object()
        self._inside[this_run] = job_id
        try:
            events = self._engine.run(
                request, job_id=job_id, priority=priority, so_far=so_far, stream=stream
            )
            async with aclosing(events):
                async for event in events:
                    if isinstance(event, Response):
                        self._failures = 0
                    yield event
        except EngineDead:
            self._is_up.clear()
            self._died.set()
            raise
        finally:
            if not self._died.is_set():
                self._inside.pop(this_run, None)

    async def abort(self, job_id: str) -> bool:
        """Abort a job's request; False for one that waits for the next engine."""
        return self._is_up.is_set() and await self._engine.abort(job_id)

    def load(self) -> Load:
        """Return how full the engine is."""
        return self._engine.load()

    def health(self) -> Health:
        """Return how the engine is."""
        return self._engine.health()

    async def stop(self) -> None:
        """End the engine."""
        await self._engine.stop()

    async def keep(self, on_death: OnDeath, on_return: Callable[[], None]) -> None:
        """Replace the engine whenever it dies; EngineStartError once it is given up."""
        while True:
            inside, cause = await self._until_dead()
            self._is_up.clear()
            extra = {"event": "engine.died", "cause": cause, "inside": len(inside)}
            logger.error("engine died", extra=extra)
            self._failures += 1
            await on_death(inside)
            self._inside.clear()
            await self._engine.stop()
            await self._replace()
            self._died.clear()
            self._is_up.set()
            on_return()
            extra = {"event": "engine.replaced", "failures": self._failures}
            logger.info("engine replaced", extra=extra)

    async def _until_dead(self) -> tuple[frozenset[str], str]:
        """Return who was inside and what happened."""
        while True:
            inside = frozenset(self._inside.values())
            health = self._engine.health()
            if not health.alive or self._died.is_set():
                return inside, "its process ended"
            if health.stalled_s > self._step_timeout_s:
                return inside, f"no step for {health.stalled_s:.0f} s"
            try:
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._died.wait()
            except TimeoutError:
                continue

    async def _replace(self) -> None:
        cause = "it dies as soon as it has started, see the log"
        while self._failures < MOST_FAILURES:
            await asyncio.sleep(_pause_s(self._failures, random.random()))
            try:
                self._engine = await self._start()
            except EngineStartError as error:
                self._failures += 1
                cause = str(error)
                extra = {"event": "engine.start_failed", "error": error}
                logger.error("engine does not start", extra=extra)
            else:
                return
        raise EngineStartError(f"the engine failed {MOST_FAILURES} times in a row: {cause}")


def _pause_s(failures: int, draw: float) -> float:
    """Return the pause before a start after so many failures; `draw` in [0, 1)."""
    return float(draw * min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (failures - 1)))
