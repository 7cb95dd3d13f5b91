"""The curve of `benchmarks.isolation`: what high is slowed by against what low gets."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

DUTY = 0.4
STYLES = {"static": "s", "share": "o", "slo": "^", "strict": "*", "priority": "X", "reserve": "D"}


def draw(cells: Sequence[Any], path: Path) -> None:
    """Draw the cells at 40 % duty into a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    for kind, marker in STYLES.items():
        found = [c for c in cells if c.duty == DUTY and c.policy.split()[0] == kind]
        found.sort(key=lambda c: c.low_vs_low_only)
        x = [c.low_vs_low_only for c in found]
        y = [c.total["p95"] for c in found]
        line = "-" if len(found) > 1 else ""
        axes.plot(x, y, marker=marker, linestyle=line, label=kind, markersize=8)
        for c in found:
            if " " in c.policy:
                at = (c.low_vs_low_only, c.total["p95"])
                axes.annotate(
                    c.policy.split()[1], at, textcoords="offset points", xytext=(6, 4), fontsize=8
                )
    axes.set_xlabel("low tokens/s, over low alone")
    axes.set_ylabel("p95 of a high request, over high alone")
    axes.set_title("A high request 40 % of the time, low without end: right and down is better")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
