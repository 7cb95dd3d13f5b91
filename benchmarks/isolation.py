"""What low requests cost high ones in one engine, and what high ones leave for low.

High requests come one after another, with pauses, so that one is there 10, 40 or 80 % of the time;
the low ones have more work than fits. Both ask for the median answer of a conversation in Azure's
trace of 2023. The same vLLM serves all policies:

    priority         vLLM's own priority, low ones may take every seat
    static N         the same, N low ones at most
    reserve          the same, an eighth of the seats stays free of low ones
    strict           the step gate, low ones never in a step with a high one (but for the floor)
    share F          … the share F of them in every step with a high one
    slo S            … as many as let the high one have S times its idle time per token

Every cell is preceded by high requests alone and divided by them: the machine's speed drifts. Then
the frontier: high without a pause, slowed by S; the most that low can get follows from the step
times t(1) and t(1 + N), measured beside each cell; static limits are held against it too. Last the
same over HTTP, with the product's own processes.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import uvloop

from benchmarks import isolation_http, isolation_plot, report
from benchmarks.isolation_load import HIGH, HIGH_TOKENS, Load, Served
from benchmarks.isolation_table import Cell, figures_of, over, show
from benchmarks.switched_gate import SWITCH, switch
from config.settings import load
from gpu_worker.gate_policy import GateOptions, Mode
from gpu_worker.vllm_engine import settle
from gpu_worker.vllm_flags import parse_flags, prepare_environment
from gpu_worker.vllm_runs import make_llm

NAME = "isolation"
SEATS = 64
RESERVE = SEATS // 8
SATURATED = SEATS + SEATS // 2
STATIC = (4, 8, 16, 32)
SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2)
SLOWDOWNS = (1.1, 1.5, 2.0)
SLO_TPOT, SLO_TTFT = 3.0, 10.0
DUTIES = (0.1, 0.4, 0.8)
RARE, SEEN_RARELY = 0.1, ("priority", "reserve", "strict")
"""A duty at which a cell takes minutes, and the policies that are measured there all the same."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What low requests may do; `gate` is None for vLLM's own scheduler."""

    label: str
    low: int
    gate: GateOptions | None = None


@dataclass(frozen=True, slots=True)
class Idle:
    """High requests alone (s): medians, and the whole time of each over its median."""

    ttft: float
    tpot: float
    total: float
    ratios: tuple[float, ...]


def gated(mode: Mode, idle: Idle | None = None, **fields: Any) -> GateOptions:
    """Return a gate; objectives are multiples of the idle times."""
    if idle is not None:
        fields["tpot_s"] *= idle.tpot
        fields["ttft_s"] *= idle.ttft
    return GateOptions(mode=mode, high_priority=HIGH, reserve=RESERVE, **fields)


@dataclass
class Bench:
    """The engine and its loads."""

    load: Load
    path: Path
    requests: int
    """High requests that a cell waits for."""

    async def idle(self) -> Idle:
        """Return how high requests are served with nothing beside them."""
        switch(self.path, None)
        served = await self.load.high_times(max(6, self.requests // 4), 0.0)
        return Idle(
            statistics.median(s.ttft for s in served),
            statistics.median(s.tpot for s in served),
            statistics.median(s.total for s in served),
            _ratios(served),
        )

    async def low_only(self, num: int, gate: GateOptions | None = None, s: float = 3.0) -> float:
        """Return the tokens per second of `num` low requests alone."""
        switch(self.path, gate)
        async with self.load.low(num):
            before = self.load.llm.steps.num_tokens
            took = await _slept(s)
            return float(self.load.llm.steps.num_tokens - before) / took

    async def cell(
        self, policy: Policy, duty: float, idle: Idle
    ) -> tuple[list[Served], float, int]:
        """Return how high was served, low's tokens per second, and evictions."""
        switch(self.path, policy.gate)
        async with self.load.low(policy.low):
            tokens, evicted = self.load.llm.steps.num_tokens, self.load.llm.steps.num_preempted
            began = asyncio.get_running_loop().time()
            served = await self.load.high_times(self.requests, idle.total * (1 - duty) / duty)
            took = asyncio.get_running_loop().time() - began
            low = self.load.llm.steps.num_tokens - tokens - len(served) * HIGH_TOKENS
            return served, low / took, self.load.llm.steps.num_preempted - evicted

    async def measure(self, policy: Policy, duty: float, low_only: float) -> Cell:
        """Return one cell."""
        idle = await self.idle()
        if policy.gate and policy.gate.mode == "slo":
            own = gated("slo", idle, tpot_s=policy.gate.tpot_s, ttft_s=policy.gate.ttft_s)
            policy = Policy(policy.label, policy.low, own)
        served, low, evicted = await self.cell(policy, duty, idle)
        most = SLO_TPOT * idle.tpot, SLO_TTFT * idle.ttft
        attained = [s.tpot <= most[0] and s.ttft <= most[1] for s in served]
        high_share = len(served) * HIGH_TOKENS / (len(served) * idle.total / duty) / low_only
        cell = Cell(
            policy.label,
            duty,
            len(served),
            over([s.ttft for s in served], idle.ttft),
            over([s.tpot for s in served], idle.tpot),
            over([s.total for s in served], idle.total),
            low,
            low / low_only,
            low / low_only + high_share,
            evicted,
            statistics.mean(attained),
            tuple(s.total / idle.total for s in served),
            idle.ratios,
        )
        show(cell)
        return cell

    async def frontier(self, slowdown: float) -> float:
        """Return low's tokens per second over the most that this slowdown of high allows."""
        idle = await self.idle()
        gate = gated("slo", idle, tpot_s=slowdown, ttft_s=SLO_TTFT)
        if slowdown != SLO_TPOT:
            gate = replace(gate, margin=1.0)
        policy = Policy(f"slo {slowdown}", SATURATED, gate)
        return await self._share_of_most(policy, idle, least_slowdown=slowdown)

    async def static_frontier(self, num: int) -> float:
        """Return the same for `num` low requests and no gate, at the slowdown that they cause."""
        return await self._share_of_most(Policy(f"static {num}", num), await self.idle())

    async def _share_of_most(
        self, policy: Policy, idle: Idle, *, least_slowdown: float = 1.0
    ) -> float:
        many = SEATS - RESERVE
        t_many = (many + 1) / await self.low_only(many + 1)
        served, low, _ = await self.cell(policy, 1.0, idle)
        slowed = max(least_slowdown, statistics.mean(s.tpot for s in served) / idle.tpot)
        most = most_for_low(slowed, idle.tpot, t_many, many)
        line = f"{policy.label}: slowed by {slowed:.2f}, low {low:.0f} of {most:.0f} tokens/s"
        print(
            f"{line}, t(1) {idle.tpot * 1e3:.2f} ms, t({many + 1}) {t_many * 1e3:.2f} ms",
            file=sys.stderr,
        )
        return low / most


def most_for_low(slowdown: float, t_one: float, t_many: float, many: int) -> float:
    """Return tokens per second of low at most, if a token of high takes `slowdown` times t(1).

    On a CPU t grows about in a line, so that the share f of `many` low requests takes part in every
    step: (1 - f) t(1) + f t(1 + many) is the time per token of high.
    """
    share = min(1.0, (slowdown - 1) * t_one / (t_many - t_one))
    return share * many / ((1 - share) * t_one + share * t_many)


def policies() -> list[Policy]:
    """Return what is compared."""
    return [
        Policy("priority", SATURATED),
        *(Policy(f"static {n}", n) for n in STATIC),
        Policy("reserve", SEATS - RESERVE),
        Policy("strict", SATURATED, gated("strict")),
        *(Policy(f"share {s:.3f}", SATURATED, gated("share", share=s)) for s in SHARES),
        *(
            Policy(f"slo {s}", SATURATED, gated("slo", tpot_s=s, ttft_s=SLO_TTFT))
            for s in (*SLOWDOWNS, SLO_TPOT)
        ),
    ]


async def measure(path: Path, requests: int) -> tuple[list[Cell], dict[str, float]]:
    """Return the table and the figures of everything inside one engine."""
    llm = _start()
    bench = Bench(Load(llm), path, requests)
    try:
        await bench.idle()
        low_only = statistics.mean([await bench.low_only(SATURATED) for _ in range(2)])
        pairs = [
            (await bench.low_only(SATURATED), await bench.low_only(SATURATED, gated("strict")))
            for _ in range(5)
        ]
        cells = [
            await bench.measure(policy, duty, low_only)
            for duty in DUTIES
            for policy in policies()
            if duty > RARE or policy.label in SEEN_RARELY
        ]
        shares = [await bench.frontier(s) for s in (*SLOWDOWNS, SLO_TPOT)]
        static = [await bench.static_frontier(num) for num in STATIC]
    finally:
        llm.shutdown()
    return cells, {
        "low_vs_low_only_at_0": statistics.median(ours / theirs for theirs, ours in pairs),
        "low_only_tokens_per_s": low_only,
        "frontier_share_min": min(shares[:-1]),
        "slo_low_vs_frontier": shares[-1],
        "static_frontier_share_min": min(static),
        **figures_of(cells, f"slo {SLO_TPOT}"),
    }


def _start() -> Any:
    """Return the engine as the worker starts it, with a gate that can be switched."""
    settings = load()
    prepare_environment(settings)
    args = parse_flags(settings)
    args.scheduler_cls = "benchmarks.switched_gate.SwitchedScheduler"
    llm = make_llm(args)
    settle()
    return llm


def _ratios(served: Sequence[Served]) -> tuple[float, ...]:
    median = statistics.median(s.total for s in served)
    return tuple(s.total / median for s in served)


async def _slept(seconds: float) -> float:
    began = asyncio.get_running_loop().time()
    await asyncio.sleep(seconds)
    return asyncio.get_running_loop().time() - began


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--requests", type=int, default=16, help="high requests in a cell")
    parser.add_argument("--cells", type=Path, help="write the table, as JSON, to this file")
    parser.add_argument("--plot", type=Path, help="draw the curve into this PNG")
    parser.add_argument("--skip-http", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="slalom-benchmark-") as directory:
        path = Path(directory) / "gate"
        switch(path, None)
        os.environ |= {SWITCH: str(path), "REDIS_URL": "redis://127.0.0.1:1/0"}
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            cells, figures = runner.run(measure(path, args.requests))
    if args.cells:
        args.cells.write_text(json.dumps([asdict(cell) for cell in cells], indent=1))
    if args.plot:
        isolation_plot.draw(cells, args.plot)
    if not args.skip_http:
        figures |= isolation_http.measure(2 * args.requests)
    report.emit(NAME, figures, as_json=args.json)


if __name__ == "__main__":
    main()
