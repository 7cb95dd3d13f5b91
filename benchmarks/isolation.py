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

Every cell is measured in rounds, each divided by its own high alone and its own low alone
(`isolation_rounds`). Then the frontier: high without a pause, slowed by S, and low's share of the
most that step times allow on paper (`isolation_frontier`). Last the same over HTTP, with the
product's own processes.
"""

import argparse
import asyncio
import json
import os
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import uvloop

from benchmarks import isolation_frontier, isolation_http, isolation_plot, report
from benchmarks.isolation_frontier import SLOWDOWNS
from benchmarks.isolation_load import Load
from benchmarks.isolation_rounds import (
    RESERVE,
    SATURATED,
    SEATS,
    SLO_TPOT,
    SLO_TTFT,
    Bench,
    Policy,
    gated,
    share,
    slo,
    strict,
)
from benchmarks.isolation_table import Cell, figures_of, percentiles, show
from benchmarks.switched_gate import SWITCH, switch
from config.settings import load
from gpu_worker.vllm_engine import settle
from gpu_worker.vllm_flags import parse_flags, prepare_environment
from gpu_worker.vllm_runs import make_llm

NAME = "isolation"
STATIC = (4, 8, 16, 32)
SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2)
ROUNDS, MORE_ROUNDS, MANY_ROUNDS = 3, 6, 12
"""Of a cell; where policies are compared with each other; of one whose hundredths count."""
SLO, COMPARED_AT = f"slo {SLO_TPOT}", 0.4
"""Where attainment is measured, and at which duty."""
TIGHTER = 2.5
"""A multiple that slows high about as much as the largest static limit does."""
FRONTIER = "frontier"
LOW_S = 60.0
"""How long low is alone, in turns without a gate and with one."""
DUTIES = (0.1, 0.4, 0.8)
RARE, SEEN_RARELY = 0.1, ("priority", "reserve", "strict")
"""A duty at which a cell takes minutes, and the policies that are measured there all the same."""


def policies() -> list[Policy]:
    """Return what is compared."""
    return [
        Policy("priority", SATURATED),
        *(Policy(f"static {n}", n) for n in STATIC),
        Policy("reserve", SEATS - RESERVE),
        Policy("strict", SATURATED, strict),
        *(Policy(f"share {s:.3f}", SATURATED, share(s)) for s in SHARES),
        *(Policy(f"slo {s}", SATURATED, slo(s)) for s in (*SLOWDOWNS, TIGHTER, SLO_TPOT)),
    ]


async def cell(bench: Bench, policy: Policy, duty: float, num_high: int) -> Cell:
    """Return one cell, with `num_high` high requests."""
    num = ROUNDS
    if duty == COMPARED_AT:
        num = MANY_ROUNDS if policy.label == SLO else MORE_ROUNDS
    rounds = [await bench.round(policy, duty, num_high // ROUNDS) for _ in range(num)]
    served = [(s, r.idle) for r in rounds for s in r.beside.served]
    attained = [
        s.tpot <= SLO_TPOT * r.promised.tpot and s.ttft <= SLO_TTFT * r.promised.ttft
        for r in rounds
        for s in r.beside.served
    ]
    ratios = [s.total / idle.total for s, idle in served]
    found = Cell(
        policy.label,
        duty,
        len(served),
        percentiles([s.ttft / idle.ttft for s, idle in served]),
        percentiles([s.tpot / idle.tpot for s, idle in served]),
        percentiles(ratios),
        statistics.mean(r.beside.low for r in rounds),
        statistics.mean(r.beside.low / r.low_alone for r in rounds),
        statistics.mean((r.beside.low + r.beside.high) / r.low_alone for r in rounds),
        sum(r.beside.evicted for r in rounds),
        statistics.mean(attained),
        tuple(ratios),
        tuple(ratio for r in rounds for ratio in r.idle.ratios),
    )
    show(found)
    return found


async def low_with_gate(bench: Bench) -> dict[str, float]:
    """Return what low alone gets, and what a strict gate leaves of it."""
    turns = [("open", None), ("strict", gated("strict"))]
    counts = await bench.in_turns(turns, asyncio.sleep(LOW_S))
    ours, theirs = (counts[name].low / counts[name].seconds for name in ("strict", "open"))
    return {"low_vs_low_only_at_0": ours / theirs, "low_only_tokens_per_s": theirs}


async def measure(
    path: Path, requests: int, only: str, duties: Sequence[float]
) -> tuple[list[Cell], dict[str, float]]:
    """Return the table and the figures of everything inside one engine."""
    llm = _start()
    bench = Bench(Load(llm), path)
    try:
        await bench.alone()
        figures = await low_with_gate(bench)
        cells = [
            await cell(bench, policy, duty, requests)
            for duty in duties
            for policy in policies()
            if policy.label.startswith(only) and (duty > RARE or policy.label in SEEN_RARELY)
        ]
        if only == FRONTIER or (not only and len(duties) > 1):
            figures |= await isolation_frontier.measure(bench)
    finally:
        llm.shutdown()
    return cells, figures | figures_of(cells, SLO)


def _start() -> Any:
    """Return the engine as the worker starts it, with a gate that can be switched."""
    settings = load()
    prepare_environment(settings)
    args = parse_flags(settings)
    args.scheduler_cls = "benchmarks.switched_gate.SwitchedScheduler"
    llm = make_llm(args)
    settle()
    return llm


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--requests", type=int, default=18, help="high requests in three rounds")
    parser.add_argument("--cells", type=Path, help="write the table, as JSON, to this file")
    parser.add_argument("--plot", type=Path, help="draw the curve into this PNG")
    parser.add_argument("--skip-http", action="store_true")
    parser.add_argument("--only", default="", help=f"policies that begin with this, or {FRONTIER}")
    parser.add_argument("--duty", type=float, help="cells of this duty alone, no frontier")
    args = parser.parse_args()
    duties = DUTIES if args.duty is None else (args.duty,)
    with tempfile.TemporaryDirectory(prefix="slalom-benchmark-") as directory:
        path = Path(directory) / "gate"
        switch(path, None)
        os.environ |= {SWITCH: str(path), "REDIS_URL": "redis://127.0.0.1:1/0"}
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            cells, figures = runner.run(measure(path, args.requests, args.only, duties))
    if args.cells:
        args.cells.write_text(json.dumps([asdict(cell) for cell in cells], indent=1))
    if args.plot:
        isolation_plot.draw(cells, args.plot)
    if not args.skip_http:
        figures |= isolation_http.measure()
    report.emit(NAME, figures, as_json=args.json)


if __name__ == "__main__":
    main()
