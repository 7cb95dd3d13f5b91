"""The frontier of `benchmarks.isolation`: the most that low can get while high is slowed by S.

High has no pause. A step of high alone takes t(1), one with N low requests t(1 + N). On a CPU t
grows less than in a line, so that low gets most if all N take part in some steps and none in the
others. `share` is given the share of the steps that follows; `slo` is given S; static limits cause
what S they cause.
"""

import statistics
import sys
from dataclasses import dataclass, replace

from benchmarks.isolation_load import Served
from benchmarks.isolation_rounds import (
    RESERVE,
    SATURATED,
    SEATS,
    SLO_TPOT,
    Bench,
    Beside,
    Idle,
    Policy,
    share,
    slo,
)

SLOWDOWNS = (1.1, 1.5, 2.0)
MANY = SEATS - RESERVE
PAIR = 2
"""High requests alone, and then beside low, that are compared."""
PAIRS, MOST_PAIRS = 16, 96
"""Pairs of a policy; slowed by a tenth, high must be measured to a hundredth: the most pairs."""
LATEST = 12
"""High requests alone that objectives are multiples of."""
PER_STEP = 4
"""Pairs to one measurement of t(1 + MANY)."""


@dataclass(frozen=True, slots=True)
class Frontier:
    """What the steps of many requests allow."""

    t_many: float
    """t(1 + MANY), in units of t(1)."""

    def share(self, slowdown: float) -> float:
        """Return in which share of the steps all take part if high is slowed so much."""
        return min(1.0, (slowdown - 1) / (self.t_many - 1))

    def most(self, slowdown: float) -> float:
        """Return the most tokens of low in t(1)."""
        share = self.share(slowdown)
        return share * MANY / (1 - share + share * self.t_many)


async def measure(bench: Bench, static: tuple[int, ...]) -> dict[str, float]:
    """Return the figures."""
    frontier = await _steps(bench)
    shares, slos = {}, {}
    for s in SLOWDOWNS:
        chosen = Policy(f"share for {s}", SATURATED, share(frontier.share(s)))
        shares[s] = await _of_most(bench, chosen, num_pairs=min(MOST_PAIRS, int(PAIRS / (s - 1))))
        paced = Policy(f"slo {s}", SATURATED, slo(s, margin=1.0))
        slos[s] = await _of_most(bench, paced, granted=s, num_pairs=PAIRS // 2)
    loose = Policy(f"slo {SLO_TPOT}", SATURATED, slo(SLO_TPOT))
    return {
        "frontier_share_min": min(shares.values()),
        **{f"frontier_share_at_{s}": found for s, found in shares.items()},
        "slo_frontier_share_min": min(slos.values()),
        "slo_low_vs_frontier": await _of_most(bench, loose, granted=SLO_TPOT),
        "static_frontier_share_min": min(
            [await _of_most(bench, Policy(f"static {n}", n), num_pairs=PAIRS // 4) for n in static]
        ),
    }


async def _steps(bench: Bench) -> Frontier:
    """Return the frontier as it is before any policy was tried."""
    tpots, steps = [], []
    for _ in range(PAIRS):
        tpots += [served.tpot for served in await bench.alone(PAIR)]
        steps.append((MANY + 1) / await bench.low_alone(MANY + 1))
    return Frontier(statistics.mean(steps) / statistics.mean(tpots))


async def _of_most(
    bench: Bench, policy: Policy, *, granted: float = 1.0, num_pairs: int = PAIRS
) -> float:
    """Return low's tokens over the most that is possible where high is slowed as the policy does.

    What an objective grants and the policy leaves unused counts against it.
    """
    alone: list[Served] = []
    beside: list[Beside] = []
    steps: list[float] = []
    for n in range(num_pairs):
        if n % PER_STEP == 0:
            steps.append((MANY + 1) / await bench.low_alone(MANY + 1))
        alone += await bench.alone(PAIR)
        tpot = statistics.mean(served.tpot for served in alone[-LATEST:])
        idle = replace(Idle.of(alone[-LATEST:]), tpot=tpot)  # as `caused` is one of means
        beside.append(await bench.beside(policy, idle, 1.0, PAIR))
    t_one = statistics.mean(served.tpot for served in alone)
    frontier = Frontier(statistics.mean(steps) / t_one)
    whole = statistics.mean(served.total for b in beside for served in b.served)
    caused = whole / statistics.mean(served.total for served in alone)
    low = statistics.mean(b.low for b in beside) * t_one
    most = frontier.most(max(granted, caused))
    told = f"{policy.label}: slowed by {caused:.2f}, t({MANY + 1}) = {frontier.t_many:.2f} t(1)"
    print(f"{told}, low {low:.2f} of {most:.2f} tokens per t(1)", file=sys.stderr)
    return low / most
