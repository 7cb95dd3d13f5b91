"""What the scheduling of tiers is worth: four policies over the same traffic, on a virtual clock.

Nothing is executed: `benchmarks.simulation` steps through a model of one GPU's continuous batching,
fed by the product's own step gate and admission and by three baselines. Premium jobs are Azure's
conversations, standard ones its bursts of code, batch jobs come by the thousand.
"""

import argparse
import sys
from dataclasses import replace

from benchmarks import report
from benchmarks.simulation.figures import Result, Simulation
from benchmarks.simulation.slalom import Limits
from benchmarks.simulation.workload import SHARES

NAME = "simulate"
POLICIES = ("fcfs", "priority", "static", "slalom")
LOADS = (50, 80, 100, 150)
GATES = {
    "slo": Limits(),
    "strict": Limits(gate="strict"),
    "off": Limits(gate="share", share=1.0),
}
START_TOKENS_HELP = "low prompt tokens in one step while high jobs come and go"
HEADINGS = ("goodput", *SHARES, "TTFT p99", "refused", "expired", "preempted")


def measure(simulation: Simulation, loads: list[int], policies: list[str]) -> dict[str, float]:
    """Return all figures."""
    capacity = simulation.capacity()
    figures = {"capacity_tokens_per_s": capacity}
    say(f"capacity {capacity:,.0f} tokens/s", *HEADINGS)
    for load in loads:
        tokens_per_s = capacity * load / 100
        results = {policy: simulation.run(policy, tokens_per_s) for policy in policies}
        for result in results.values():
            say_result(load, result)
        figures |= compared(load, results)
        if load <= 100 and (slalom := results.get("slalom")):  # beyond it most are infeasible
            missed = simulation.num_feasible_missed(slalom, tokens_per_s, capacity)
            figures[f"low_feasible_missed_at_{load}"] = missed
    return figures


def compared(load: int, results: dict[str, Result]) -> dict[str, float]:
    """Return Slalom's attainment, and its goodput over that of the others."""
    slalom = results.get("slalom")
    if not slalom:
        return {}
    figures = {
        f"goodput_vs_{name}_at_{load}": slalom.goodput / result.goodput
        for name, result in results.items()
        if result is not slalom
    }
    figures[f"high_attainment_at_{load}"] = slalom.outcomes["premium"].attainment
    if load == 150 and "fcfs" in results:
        figures["goodput_vs_fcfs"] = figures[f"goodput_vs_fcfs_at_{load}"]
    return figures


def say_result(load: int, result: Result) -> None:
    """Print a line of the table."""
    outcomes = [result.outcomes[tier] for tier in SHARES]
    say(
        f"{load:>4} %  {result.policy}",
        f"{result.goodput:.2f}/s",
        *(f"{100 * outcome.attainment:.2f} %" for outcome in outcomes),
        f"{1e3 * outcomes[0].ttft_p99_s:,.0f} ms",
        sum(outcome.refused for outcome in outcomes),
        sum(outcome.expired for outcome in outcomes),
        result.num_preemptions,
    )


def say(name: str, *cells: object) -> None:
    """Print one line for a person."""
    print(f"{name:24}" + "".join(f"{cell!s:>11}" for cell in cells), file=sys.stderr, flush=True)


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--hours", type=float, default=1.0, help="of traffic that are measured")
    parser.add_argument("--loads", type=int, nargs="+", default=LOADS, help="%% of capacity")
    parser.add_argument("--policies", nargs="+", default=POLICIES, choices=POLICIES)
    parser.add_argument("--seed", type=int, default=1)
    start_tokens = Limits().start_tokens
    parser.add_argument("--start-tokens", type=int, default=start_tokens, help=START_TOKENS_HELP)
    parser.add_argument("--gate", choices=GATES, default="slo", help="slalom's step gate")
    args = parser.parse_args()
    limits = replace(GATES[args.gate], start_tokens=args.start_tokens)
    simulation = Simulation(args.seed, args.hours * 3600, limits)
    report.emit(NAME, measure(simulation, args.loads, args.policies), as_json=args.json)


if __name__ == "__main__":
    main()
