"""The frontier of `benchmarks.isolation`: the most that low can get while high is slowed by S.

High has no pause. A step of high alone takes t(1), one with N low requests t(1 + N). On a CPU t
grows less than in a line, so that low gets most if all N take part in some steps and none in the
others. `share` is given the share of the steps that follows; `slo` is given S.

The machine's speed drifts by a third from one answer to the next, and by less from one handful of
steps to the next. So low requests stay in the engine, and what is compared takes turns: `share`,
high alone and all together every few steps; `slo`, which counts on each answer's tokens, answer by
answer.
"""

import asyncio
import statistics
import sys
from dataclasses import dataclass

from benchmarks.isolation_load import HIGH_TOKENS, Served
from benchmarks.isolation_rounds import SATURATED, SLO_TPOT, Bench, Idle, gated, slo
from benchmarks.switched_gate import ALONE, LOOK_S, Gating, switch
from gpu_worker.gate_policy import GateOptions

SLOWDOWNS = (1.1, 1.5, 2.0)
TOGETHER = gated("share", share=1.0, floor=0.0)
ANSWERS, MOST_ANSWERS = 40, 400
"""Of high at S = 2, and at most: slowed by a tenth, it must be measured to a hundredth."""
TURNS = 8
"""Turns of high alone and of a policy to one in which all are together."""
PAIRS, SLO_PAIRS = 32, 96
"""Answers of high alone, and then beside low, under `slo`; where low's share is promised."""
LATEST = 4
"""Answers of high alone that objectives are multiples of."""


@dataclass(frozen=True, slots=True)
class Frontier:
    """What the steps of all requests together allow."""

    num_low: float
    """Low requests in such a step."""
    t_many: float
    """What it takes, in units of t(1)."""

    def share(self, slowdown: float) -> float:
        """Return in which share of the steps all take part if high is slowed so much."""
        return min(1.0, (slowdown - 1) / (self.t_many - 1))

    def most(self, slowdown: float) -> float:
        """Return the most tokens of low in t(1)."""
        share = self.share(slowdown)
        return share * self.num_low / (1 - share + share * self.t_many)


async def measure(bench: Bench) -> dict[str, float]:
    """Return the figures."""
    frontier, _, _ = await _beside(bench, TOGETHER, ANSWERS)
    shares, slos = {}, {}
    for s in SLOWDOWNS:
        gate = gated("share", share=frontier.share(s), floor=0.0)
        found, caused, low = await _beside(bench, gate, min(MOST_ANSWERS, int(ANSWERS / (s - 1))))
        shares[s] = _told(f"share for {s}", found, caused, low, found.most(caused))
        slos[s] = await _of_granted(bench, s, PAIRS, margin=1.0)
    return {
        "frontier_share_min": min(shares.values()),
        **{f"frontier_share_at_{s}": found for s, found in shares.items()},
        "slo_frontier_share_min": min(slos.values()),
        **{f"slo_frontier_share_at_{s}": found for s, found in slos.items()},
        "slo_low_vs_frontier": await _of_granted(bench, SLO_TPOT, SLO_PAIRS),
    }


async def _beside(bench: Bench, gate: GateOptions, answers: int) -> tuple[Frontier, float, float]:
    """Return the frontier, what a gate slows high by, and low's tokens in t(1)."""
    turns: list[tuple[str, Gating]] = [("alone", ALONE), ("gate", gate)]
    turns *= TURNS
    # The step that others join or have left has more to do: it is neither t(1 + N) nor t(1).
    turns += [("joining", TOGETHER), ("together", TOGETHER), ("leaving", ALONE)]
    counts = await bench.in_turns(turns, bench.load.high_without_pause(answers))
    alone, beside, many = counts["alone"], counts["gate"], counts["together"]
    t_one = alone.seconds / alone.high
    frontier = Frontier(many.low / many.steps, many.seconds / many.steps / t_one)
    return frontier, beside.seconds / beside.high / t_one, beside.low / beside.seconds * t_one


async def _of_granted(bench: Bench, granted: float, num: int, **options: float) -> float:
    """Return low's tokens over the most that is possible where high is slowed as `slo` is granted.

    What an objective grants and the policy leaves unused counts against it.
    """
    alone: list[Served] = []
    beside: list[Served] = []
    together: list[Served] = []
    low, low_together = 0.0, 0.0
    async with bench.load.low(SATURATED):
        for n in range(num):
            alone.append((await _answer(bench, ALONE))[0])
            if n % LATEST == 0:
                served, tokens = await _answer(bench, TOGETHER)
                together.append(served)
                low_together += tokens
            gate = slo(granted, **options)(Idle.of(alone[-LATEST:]))
            served, tokens = await _answer(bench, gate)
            beside.append(served)
            low += tokens
    t_one = statistics.mean(served.tpot for served in alone)
    t_many = statistics.mean(served.tpot for served in together) / t_one
    frontier = Frontier(low_together / len(together) / HIGH_TOKENS, t_many)
    whole = sum(served.total for served in beside)
    caused = whole / sum(served.total for served in alone)
    most = frontier.most(max(granted, caused))
    return _told(f"slo {granted}", frontier, caused, low / whole * t_one, most)


async def _answer(bench: Bench, gate: Gating) -> tuple[Served, int]:
    """Return how a high request is served, and how many tokens low ones make meanwhile."""
    switch(bench.path, gate)
    await asyncio.sleep(2 * LOOK_S)
    before = bench.load.llm.steps.num_tokens
    served = await bench.load.high()
    return served, bench.load.llm.steps.num_tokens - before - HIGH_TOKENS


def _told(label: str, frontier: Frontier, caused: float, low: float, most: float) -> float:
    """Say what was measured, and return low's tokens over the most."""
    together = f"t({1 + frontier.num_low:.0f}) = {frontier.t_many:.2f} t(1)"
    what = f"{label}: slowed by {caused:.3f}, {together}, low {low:.2f} of {most:.2f} in t(1)"
    print(f"{what}, {low / most:.3f}", file=sys.stderr)
    return low / most
