"""Policy: how many workers a queue should have, as a pure function of what was measured.

Depth is waiting + in flight (a queue that is empty because its jobs run is not idle), and counts
per worker; a worker that is still starting counts as one, or slow starts would be answered with
more starts. Up: at once, one per decision, to the maximum. Down: one at a time, only a worker the
autoscaler itself added, after the depth has been low for the whole cool-down and as long after the
last change.
"""

from dataclasses import dataclass, replace

from config.tiers import Autoscale


@dataclass(frozen=True, slots=True)
class Measured:
    """One queue, now: jobs, workers that serve it, and how many of those are ours to drain."""

    waiting: int
    in_flight: int
    num_workers: int
    num_ours: int

    @property
    def depth_per_worker(self) -> float:
        """Jobs per worker; all of them where there is no worker."""
        return (self.waiting + self.in_flight) / max(self.num_workers, 1)


@dataclass(frozen=True, slots=True)
class Memory:
    """What the policy remembers of a queue between decisions, on one monotonic clock (s)."""

    low_since: float | None = None
    changed_at: float = float("-inf")


@dataclass(frozen=True, slots=True)
class Add:
    """Start a worker."""

    reason: str


@dataclass(frozen=True, slots=True)
class Drain:
    """Stop a worker after its jobs in flight."""

    reason: str


@dataclass(frozen=True, slots=True)
class Hold:
    """Change nothing."""

    reason: str


Decision = Add | Drain | Hold


def decide(
    rule: Autoscale, measured: Measured, memory: Memory, now: float
) -> tuple[Decision, Memory]:
    """Return what to do for one queue, and what to remember; `now` is the memory's clock."""
    depth = measured.depth_per_worker
    memory = replace(memory, low_since=_low_since(rule, depth, memory, now))
    match _decision(rule, measured, depth, memory, now):
        case Hold() as hold:
            return hold, memory
        case change:
            return change, Memory(low_since=memory.low_since, changed_at=now)


def _low_since(rule: Autoscale, depth: float, memory: Memory, now: float) -> float | None:
    if depth > rule.scale_down_at:
        return None
    return now if memory.low_since is None else memory.low_since


def _decision(
    rule: Autoscale, measured: Measured, depth: float, memory: Memory, now: float
) -> Decision:
    if measured.num_workers < rule.min_workers:
        return Add(f"fewer than min_workers={rule.min_workers}")
    if depth > rule.scale_up_at:
        if measured.num_workers >= rule.max_workers:
            return Hold(f"deep, but max_workers={rule.max_workers} are there")
        return Add(f"depth per worker {depth:.0f} above {rule.scale_up_at:.0f}")
    if memory.low_since is None:
        return Hold("depth within thresholds")
    return _down(rule, measured, depth, memory, now)


def _down(
    rule: Autoscale, measured: Measured, depth: float, memory: Memory, now: float
) -> Decision:
    if measured.num_workers <= rule.min_workers or measured.num_ours == 0:
        return Hold("low, nothing to drain")
    assert memory.low_since is not None
    rested_s = now - max(memory.low_since, memory.changed_at)
    if rested_s < rule.cooldown_s:
        return Hold(f"low for {rested_s:.0f} of {rule.cooldown_s:.0f} s")
    return Drain(
        f"depth per worker {depth:.0f} at most {rule.scale_down_at:.0f} for {rule.cooldown_s:.0f} s"
    )
