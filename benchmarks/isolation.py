"""What low requests cost high ones in one engine, and what high ones leave for low.

High requests come one after another, with pauses, so that one is there 10, 40 or 80 % of the time;
the low ones have more work than fits. Both ask for the median answer of a conversation in Azure's
trace of 2023. The same vLLM serves all policies:

    priority         vLLM's own priority, low ones may take every seat
    static N         the same, N low ones at most
    reserve          the same, an eighth of the seats stays free of low ones
    strict           the step gate, low ones never in a step with a high one (but for the floor)
    share F          … in the share F of the steps with a high one
    slo S            … as many as let the high one have S times its idle time per token

The machine's speed drifts by a half within a minute. So every cell is measured in rounds: high
alone, low alone, both together, high alone again; and each round is divided by its own high alone
and its own low alone. Then the frontier: high without a pause, slowed by S; the most that low can
get follows from the step times t(1) and t(1 + N), measured in each round. `share` is given the
share that follows from them; `slo` and static limits are held against it too. Last the same over
HTTP, with the product's own processes.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import uvloop

from benchmarks import isolation_http, isolation_plot, report
from benchmarks.isolation_load import HIGH, HIGH_TOKENS, Load, Served
from benchmarks.isolation_table import Cell, figures_of, percentiles, show
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
ROUNDS, NUM_ALONE, ALONE_S = 3, 3, 0.6
"""Rounds of a cell; high requests alone before and after it; seconds of low alone."""
FRONTIER = "frontier"
PAIRS = 24
"""Of low alone, without a gate and with one."""
DUTIES = (0.1, 0.4, 0.8)
RARE, SEEN_RARELY = 0.1, ("priority", "reserve", "strict")
"""A duty at which a cell takes minutes, and the policies that are measured there all the same."""


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


@dataclass(frozen=True, slots=True)
class Alone:
    """High alone, and `num_low` low requests alone: the first part of a round."""

    idle: Idle
    low: float
    """Tokens per second."""
    num_low: int

    @property
    def t_many(self) -> float:
        """What a step of the low requests takes, in units of one of a high request."""
        return self.num_low / self.low / self.idle.tpot


Gating = Callable[[Alone], GateOptions | None]


@dataclass(frozen=True, slots=True)
class Policy:
    """How many low requests there are, and what gate; None: vLLM's own scheduler."""

    label: str
    low: int
    gating: Gating = lambda _: None


@dataclass(frozen=True, slots=True)
class Round:
    """High and low alone, and both together; `low` and `high` in tokens per second."""

    alone: Alone
    served: tuple[Served, ...]
    low: float
    high: float
    evicted: int


def gated(mode: Mode, **fields: Any) -> GateOptions:
    """Return a gate."""
    return GateOptions(mode=mode, high_priority=HIGH, reserve=RESERVE, **fields)


def strict(_: Alone) -> GateOptions:
    """Return a gate that shuts."""
    return gated("strict")


def share(share: float) -> Gating:
    """Return a gate that opens in a share of the steps."""
    return lambda _: gated("share", share=share)


def share_for(slowdown: float) -> Gating:
    """Return one that opens in as many as slow high by this factor, on paper."""
    return lambda alone: gated("share", share=share_of(slowdown, alone.t_many))


def slo(slowdown: float, **options: Any) -> Gating:
    """Return one whose objectives are multiples of the idle times."""

    def gate(alone: Alone) -> GateOptions:
        ttft_s, tpot_s = SLO_TTFT * alone.idle.ttft, slowdown * alone.idle.tpot
        return gated("slo", ttft_s=ttft_s, tpot_s=tpot_s, **options)

    return gate


@dataclass
class Bench:
    """The engine and its loads."""

    load: Load
    path: Path
    requests: int
    """High requests that a cell waits for."""

    async def alone(self) -> list[Served]:
        """Return how high requests are served with nothing beside them."""
        switch(self.path, None)
        return await self.load.high_times(NUM_ALONE, 0.0)

    async def low_only(
        self, num: int, gate: GateOptions | None = None, s: float = ALONE_S
    ) -> float:
        """Return the tokens per second of `num` low requests alone."""
        switch(self.path, gate)
        async with self.load.low(num):
            before = self.load.llm.steps.num_tokens
            took = await _slept(ALONE_S)
            return float(self.load.llm.steps.num_tokens - before) / took

    async def low_only_with_gate(self) -> list[tuple[float, float]]:
        """Return pairs of low alone without a gate and with a strict one, in turn the first."""
        pairs = []
        for n in range(PAIRS):
            gates = [None, gated("strict")][:: 1 if n % 2 else -1]
            rates = {gate is None: await self.low_only(SATURATED, gate) for gate in gates}
            pairs.append((rates[True], rates[False]))
        return pairs

    async def rounds(self, policy: Policy, duty: float, num_alone: int = SATURATED) -> list[Round]:
        """Return one cell's rounds; `num_alone` low requests are measured alone."""
        return [await self._round(policy, duty, num_alone) for _ in range(ROUNDS)]

    async def _round(self, policy: Policy, duty: float, num_alone: int) -> Round:
        before = await self.alone()
        low_alone = await self.low_only(num_alone)
        alone = Alone(Idle.of(before), low_alone, num_alone)
        switch(self.path, policy.gating(alone))
        steps = self.load.llm.steps
        async with self.load.low(policy.low):
            tokens, evicted = steps.num_tokens, steps.num_preempted
            began = asyncio.get_running_loop().time()
            pause_s = alone.idle.total * (1 - duty) / duty
            served = await self.load.high_times(self.requests // ROUNDS, pause_s)
            took = asyncio.get_running_loop().time() - began
            high = len(served) * HIGH_TOKENS
            low = steps.num_tokens - tokens - high
            evicted = steps.num_preempted - evicted
        idle = Idle.of([*before, *await self.alone()])
        alone = Alone(idle, low_alone, num_alone)
        return Round(alone, tuple(served), low / took, high / took, evicted)

    async def measure(self, policy: Policy, duty: float) -> Cell:
        """Return one cell."""
        rounds = await self.rounds(policy, duty)
        served = [(s, r.alone.idle) for r in rounds for s in r.served]
        attained = [
            s.tpot <= SLO_TPOT * idle.tpot and s.ttft <= SLO_TTFT * idle.ttft for s, idle in served
        ]
        ratios = [s.total / idle.total for s, idle in served]
        cell = Cell(
            policy.label,
            duty,
            len(served),
            percentiles([s.ttft / idle.ttft for s, idle in served]),
            percentiles([s.tpot / idle.tpot for s, idle in served]),
            percentiles(ratios),
            statistics.mean(r.low for r in rounds),
            statistics.mean(r.low / r.alone.low for r in rounds),
            statistics.mean((r.low + r.high) / r.alone.low for r in rounds),
            sum(r.evicted for r in rounds),
            statistics.mean(attained),
            tuple(ratios),
            tuple(ratio for r in rounds for ratio in r.alone.idle.ratios),
        )
        show(cell)
        return cell

    async def share_of_most(self, policy: Policy, *, least_slowdown: float = 1.0) -> float:
        """Return low's tokens per second over the most that this slowdown of high allows.

        That is the slowdown that the policy causes, or `least_slowdown` if that is more.
        """
        many = SEATS - RESERVE
        rounds = await self.rounds(policy, 1.0, num_alone=many + 1)
        t_many = statistics.mean(r.alone.t_many for r in rounds)
        caused = statistics.mean(s.total / r.alone.idle.total for r in rounds for s in r.served)
        low = statistics.mean(r.low * r.alone.idle.tpot for r in rounds)
        most = most_for_low(max(least_slowdown, caused), t_many, many)
        told = f"{policy.label}: slowed by {caused:.2f}, t({many + 1}) = {t_many:.2f} t(1)"
        print(f"{told}, low {low:.2f} of {most:.2f} tokens per t(1)", file=sys.stderr)
        return low / most

    async def frontier(self) -> dict[str, float]:
        """Return the figures of that."""
        wanted = {s: Policy(f"share for {s}", SATURATED, share_for(s)) for s in SLOWDOWNS}
        shares = [await self.share_of_most(p, least_slowdown=s) for s, p in wanted.items()]
        paced = {s: Policy(f"slo {s}", SATURATED, slo(s, margin=1.0)) for s in SLOWDOWNS}
        slos = [await self.share_of_most(p, least_slowdown=s) for s, p in paced.items()]
        loose = Policy(f"slo {SLO_TPOT}", SATURATED, slo(SLO_TPOT))
        static = [await self.share_of_most(Policy(f"static {n}", n)) for n in STATIC]
        return {
            "frontier_share_min": min(shares),
            "slo_frontier_share_min": min(slos),
            "slo_low_vs_frontier": await self.share_of_most(loose, least_slowdown=SLO_TPOT),
            "static_frontier_share_min": min(static),
        }


def share_of(slowdown: float, t_many: float) -> float:
    """Return in which share of the steps many requests take part if high is slowed so much.

    `t_many` is what such a step takes, in units of one of high alone.
    """
    return min(1.0, (slowdown - 1) / (t_many - 1))


def most_for_low(slowdown: float, t_many: float, many: int) -> float:
    """Return the most tokens of low in t(1), if high takes `slowdown` times as long as alone.

    `t_many` is t(1 + many) in units of t(1). On a CPU t grows less than in a line, so that low gets
    most if all of the `many` requests take part in some steps, and none in the others.
    """
    share = share_of(slowdown, t_many)
    return share * many / (1 - share + share * t_many)


def policies() -> list[Policy]:
    """Return what is compared."""
    return [
        Policy("priority", SATURATED),
        *(Policy(f"static {n}", n) for n in STATIC),
        Policy("reserve", SEATS - RESERVE),
        Policy("strict", SATURATED, strict),
        *(Policy(f"share {s:.3f}", SATURATED, share(s)) for s in SHARES),
        *(Policy(f"slo {s}", SATURATED, slo(s)) for s in (*SLOWDOWNS, SLO_TPOT)),
    ]


async def measure(path: Path, requests: int, only: str) -> tuple[list[Cell], dict[str, float]]:
    """Return the table and the figures of everything inside one engine."""
    llm = _start()
    bench = Bench(Load(llm), path, requests)
    figures: dict[str, float] = {}
    try:
        await bench.alone()
        pairs = await bench.low_only_with_gate()
        cells = [
            await bench.measure(policy, duty)
            for duty in DUTIES
            for policy in policies()
            if policy.label.startswith(only) and (duty > RARE or policy.label in SEEN_RARELY)
        ]
        if only in ("", FRONTIER):
            figures = await bench.frontier()
    finally:
        llm.shutdown()
    return cells, {
        "low_vs_low_only_at_0": statistics.median(ours / theirs for theirs, ours in pairs),
        "low_only_tokens_per_s": statistics.median(theirs for theirs, _ in pairs),
        **figures,
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


async def _slept(seconds: float) -> float:
    began = asyncio.get_running_loop().time()
    await asyncio.sleep(seconds)
    return asyncio.get_running_loop().time() - began


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--requests", type=int, default=18, help="high requests in a cell")
    parser.add_argument("--cells", type=Path, help="write the table, as JSON, to this file")
    parser.add_argument("--plot", type=Path, help="draw the curve into this PNG")
    parser.add_argument("--skip-http", action="store_true")
    parser.add_argument("--only", default="", help=f"policies that begin with this, or {FRONTIER}")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="slalom-benchmark-") as directory:
        path = Path(directory) / "gate"
        switch(path, None)
        os.environ |= {SWITCH: str(path), "REDIS_URL": "redis://127.0.0.1:1/0"}
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            cells, figures = runner.run(measure(path, args.requests, args.only))
    if args.cells:
        args.cells.write_text(json.dumps([asdict(cell) for cell in cells], indent=1))
    if args.plot:
        isolation_plot.draw(cells, args.plot)
    if not args.skip_http:
        figures |= isolation_http.measure(2 * args.requests)
    report.emit(NAME, figures, as_json=args.json)


if __name__ == "__main__":
    main()
