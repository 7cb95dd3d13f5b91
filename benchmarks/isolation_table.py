"""The table of `benchmarks.isolation`: a cell for each policy and duty, and what they say."""

import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.isolation_load import percentile


@dataclass(frozen=True, slots=True)
class Cell:
    """One policy at one duty; times over the medians of high alone in the same round."""

    policy: str
    duty: float
    num: int
    ttft: dict[str, float]
    tpot: dict[str, float]
    total: dict[str, float]
    low_tokens_per_s: float
    low_vs_low_only: float
    total_vs_low_only: float
    evicted: int
    attained: float
    """Share of high requests within what was promised."""
    ratios: tuple[float, ...]
    """The whole time of each request over the idle median."""
    idle_ratios: tuple[float, ...]


def figures_of(cells: Sequence[Cell], slo_label: str) -> dict[str, float]:
    """Return what the table says, in figures, as far as it has the policies for them."""
    figures: dict[str, float] = {}
    if strict := [c for c in cells if c.policy == "strict"]:
        beside = [ratio for c in strict for ratio in c.ratios]
        alone = [ratio for c in strict for ratio in c.idle_ratios]
        for name, share in (("p50", 0.5), ("p95", 0.95)):
            slowed = percentile(beside, share) / percentile(alone, share)
            figures[f"worker_high_{name}_vs_idle"] = slowed
    at_40 = [c for c in cells if c.duty == 0.4]
    if slo := [c for c in at_40 if c.policy == slo_label]:
        figures["slo_high_attainment"] = slo[0].attained
    gates = [c for c in at_40 if c.policy.split()[0] in ("strict", "share", "slo")]
    if static := [c for c in at_40 if c.policy.startswith("static")]:
        figures["static_limits_dominated"] = statistics.mean(
            any(
                g.total["p95"] <= s.total["p95"] and g.low_vs_low_only > s.low_vs_low_only
                for g in gates
            )
            for s in static
        )
    return figures


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Return the percentiles of the table."""
    return {f"p{p}": percentile(values, p / 100) for p in (50, 95, 99)}


def show(cell: Cell) -> None:
    """Print a cell as a line of the table."""
    high = "  ".join(
        f"{name} " + "/".join(f"{value:.2f}" for value in values.values())
        for name, values in (("ttft", cell.ttft), ("tpot", cell.tpot), ("e2e", cell.total))
    )
    line = f"{cell.policy:12} {cell.duty:4.0%}  {high}  low {cell.low_tokens_per_s:6.0f} tok/s"
    print(
        f"{line} ({cell.low_vs_low_only:.2f}), total {cell.total_vs_low_only:.2f}", file=sys.stderr
    )
