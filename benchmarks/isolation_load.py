"""Loads for `benchmarks.isolation`: high requests one after another, low ones without end.

Both go straight into the worker's own AsyncLLM, whose `steps` count what the engine does.
"""

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

HIGH, LOW = 0, 100
HIGH_TOKENS, LOW_TOKENS = 129, 129
"""Output tokens; the median answer of a conversation in Azure's trace of 2023."""

OVERLAP = 4
"""Tokens to come of a high request when the next is sent, where they leave no pause."""

FILLING_S = 0.5
"""Until all low requests are in the engine."""

_numbers = itertools.count()


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that `share` of `values` do not exceed."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


@dataclass(frozen=True, slots=True)
class Served:
    """One high request (s)."""

    ttft: float
    tpot: float
    total: float


@dataclass
class Load:
    """Sends requests into an engine."""

    llm: Any
    rng: random.Random = field(default_factory=lambda: random.Random(7))

    async def high(self, is_nearly_done: asyncio.Event | None = None) -> Served:
        """Return how one high request was served."""
        begun = time.perf_counter()
        first, num_left = 0.0, HIGH_TOKENS
        async for given in self._generate(HIGH_TOKENS, HIGH, streamed=True):
            first = first or time.perf_counter()
            num_left -= len(given.outputs[0].token_ids)
            if is_nearly_done and num_left <= OVERLAP:
                is_nearly_done.set()
        ended = time.perf_counter()
        return Served(first - begun, (ended - first) / (HIGH_TOKENS - 1), ended - begun)

    async def high_times(self, num: int, pause_s: float) -> tuple[Served, ...]:
        """Send `num` high requests one after another, with pauses of `pause_s` on average."""
        served = []
        for _ in range(num):
            await asyncio.sleep(self.rng.expovariate(1 / pause_s) if pause_s else 0)
            served.append(await self.high())
        return tuple(served)

    async def high_without_pause(self, num: int) -> None:
        """Send `num` high requests, each when the one before has a few tokens to come."""
        async with asyncio.TaskGroup() as group:
            for _ in range(num):
                is_nearly_done = asyncio.Event()
                group.create_task(self.high(is_nearly_done))
                await is_nearly_done.wait()

    @asynccontextmanager
    async def low(self, num: int) -> AsyncIterator[None]:
        """Keep `num` low requests in the engine while the context lasts."""

        async def forever() -> None:
            while True:
                # Lengths differ, or all seats would come free in the same step for ever.
                async for _ in self._generate(LOW_TOKENS + self.rng.randrange(-32, 33), LOW):
                    pass

        tasks = [asyncio.create_task(forever()) for _ in range(num)]
        try:
            await asyncio.sleep(FILLING_S)
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _generate(self, num_tokens: int, priority: int, *, streamed: bool = False) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        kind = RequestOutputKind.DELTA if streamed else RequestOutputKind.FINAL_ONLY
        params = SamplingParams(
            max_tokens=num_tokens, temperature=0, ignore_eos=True, output_kind=kind
        )
        prompt = f"{self.rng.randrange(1000)}+{self.rng.randrange(1000)}="
        return self.llm.generate(prompt, params, f"r{next(_numbers)}", priority=priority)
