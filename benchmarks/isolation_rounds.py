"""Rounds of `benchmarks.isolation`: high alone, low alone, both together, and each alone again.

The machine's speed drifts by a half within a minute: what is compared is measured in one round.
"""

import asyncio
import statistics
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from benchmarks.isolation_load import HIGH, HIGH_TOKENS, Load, Served
from benchmarks.switched_gate import LOOK_S, Counts, Gating, counted, switch, take_turns
from gpu_worker.gate_policy import GateOptions, Mode

SEATS = 64
RESERVE = SEATS // 8
SATURATED = SEATS + SEATS // 2
SLO_TPOT, SLO_TTFT = 3.0, 10.0
NUM_ALONE, ALONE_S = 3, 0.6
"""High requests alone before and after the others; seconds of low alone."""


@dataclass(frozen=True, slots=True)
class Idle:
    """High requests alone (s): medians, and the whole time of each over its median."""

    ttft: float
    tpot: float
    total: float
    ratios: tuple[float, ...]

    @classmethod
    def of(cls, served: Sequence[Served]) -> Self:
        """Return what these were."""
        ttft, tpot, total = (
            statistics.median(getattr(s, name) for s in served)
            for name in ("ttft", "tpot", "total")
        )
        return cls(ttft, tpot, total, tuple(s.total / total for s in served))


Choice = Callable[[Idle], GateOptions | None]


@dataclass(frozen=True, slots=True)
class Policy:
    """How many low requests there are, and what gate; None: vLLM's own scheduler."""

    label: str
    low: int
    gate: Choice = lambda _: None


def gated(mode: Mode, **fields: Any) -> GateOptions:
    """Return a gate."""
    return GateOptions(mode=mode, high_priority=HIGH, reserve=RESERVE, **fields)


def strict(_: Idle) -> GateOptions:
    """Return a gate that shuts."""
    return gated("strict")


def share(share: float) -> Choice:
    """Return a gate that opens in a share of the steps."""
    return lambda _: gated("share", share=share)


def slo(slowdown: float, **options: Any) -> Choice:
    """Return one whose objectives are multiples of the idle times."""

    def gate(idle: Idle) -> GateOptions:
        ttft_s, tpot_s = SLO_TTFT * idle.ttft, slowdown * idle.tpot
        return gated("slo", ttft_s=ttft_s, tpot_s=tpot_s, **options)

    return gate


@dataclass(frozen=True, slots=True)
class Beside:
    """High beside low; low and high in tokens per second."""

    served: tuple[Served, ...]
    low: float
    high: float
    evicted: int


@dataclass(frozen=True, slots=True)
class Round:
    """High alone and low alone (tokens per second), before and after; and both together."""

    alone: tuple[Served, ...]
    promised: Idle
    """High alone before the others: what objectives are multiples of."""
    low_alone: float
    """The mean of both."""
    beside: Beside

    @property
    def idle(self) -> Idle:
        """High alone."""
        return Idle.of(self.alone)


@dataclass
class Bench:
    """The engine and its loads."""

    load: Load
    path: Path

    async def alone(self, num: int = NUM_ALONE) -> tuple[Served, ...]:
        """Return how high requests are served with nothing beside them."""
        switch(self.path, None)
        return await self.load.high_times(num, 0.0)

    async def low_alone(self) -> float:
        """Return the tokens per second of low requests alone."""
        switch(self.path, None)
        steps = self.load.llm.steps
        async with self.load.low(SATURATED):
            before, began = steps.num_tokens, _now()
            await asyncio.sleep(ALONE_S)
            return float(steps.num_tokens - before) / (_now() - began)

    async def beside(self, policy: Policy, idle: Idle, duty: float, num_high: int) -> Beside:
        """Return how high requests are served beside low ones."""
        switch(self.path, policy.gate(idle))
        steps = self.load.llm.steps
        async with self.load.low(policy.low):
            tokens, evicted, began = steps.num_tokens, steps.num_preempted, _now()
            served = await self.load.high_times(num_high, idle.total * (1 - duty) / duty)
            took = _now() - began
            high = len(served) * HIGH_TOKENS
            low = steps.num_tokens - tokens - high
            return Beside(served, low / took, high / took, steps.num_preempted - evicted)

    async def round(self, policy: Policy, duty: float, num_high: int) -> Round:
        """Return one round."""
        before, low_before = await self.alone(), await self.low_alone()
        promised = Idle.of(before)
        beside = await self.beside(policy, promised, duty, num_high)
        low_after, after = await self.low_alone(), await self.alone()
        low_alone = statistics.mean((low_before, low_after))
        return Round((*before, *after), promised, low_alone, beside)

    async def in_turns(
        self, turns: Sequence[tuple[str, Gating]], meanwhile: Awaitable[None]
    ) -> dict[str, Counts]:
        """Return what gates that take turns give beside saturated low, by their names."""
        async with self.load.low(SATURATED):
            take_turns(self.path, turns)
            await meanwhile
            switch(self.path, None)
            await asyncio.sleep(3 * LOOK_S)
        return counted(self.path)


def _now() -> float:
    return asyncio.get_running_loop().time()
