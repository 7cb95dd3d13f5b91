"""Jobs: what was submitted, what its tier promised, and whether the promise was kept.

Objectives come from config/tiers.yaml. A deadline longer than the simulated span is cut to
the span: in an hour's run a batch job has an hour, and cannot wait until all traffic has ended.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from config.tiers import TierTable
from gpu_worker.step_model import Sequence

TIERS_FILE = Path(__file__).parents[2] / "config" / "tiers.yaml"


@dataclass(frozen=True, slots=True)
class Promise:
    """One tier's objectives in seconds; infinite where nothing is promised."""

    tier: str
    is_high: bool
    priority: int
    ttft_s: float
    tpot_s: float
    finish_within_s: float

    @classmethod
    def of_all(cls, span_s: float) -> dict[str, Self]:
        """Return each tier's promise, none longer than `span_s`."""
        table = TierTable.load(TIERS_FILE)
        first = next(iter(table.queues))
        return {
            name: cls(
                tier=name,
                is_high=tier.queue == first,
                priority=tier.priority,
                ttft_s=tier.objectives.ttft_s or math.inf,
                tpot_s=(tier.objectives.tpot_ms or math.inf) / 1e3,
                finish_within_s=min(span_s, tier.objectives.finish_within_s or math.inf),
            )
            for name, tier in table.tiers.items()
        }


@dataclass(eq=False, slots=True, kw_only=True)
class Job(Sequence):
    """A request on its way."""

    promise: Promise
    submitted_at: float = 0.0
    first_token_at: float = math.inf
    finished_at: float = math.inf
    index: int | None = None
    """Place among the measured ones."""
    work: float = 0.0
    """What the door counted it as."""

    @property
    def due_at(self) -> float:
        """The first instant at which an objective is missed unless it has been reached."""
        return self.submitted_at + min(self.promise.ttft_s, self.promise.finish_within_s)

    @property
    def expires_at(self) -> float:
        """After it the answer is worth nothing."""
        return self.submitted_at + self.promise.finish_within_s

    @property
    def num_all_tokens(self) -> int:
        """Prompt and output."""
        return self.prompt_tokens + self.output_tokens

    @property
    def tpot_s(self) -> float:
        """Seconds per output token after the first."""
        return (self.finished_at - self.first_token_at) / max(1, self.output_tokens - 1)

    @property
    def is_met(self) -> bool:
        """Whether it met every objective of its tier."""
        promise = self.promise
        return (
            self.first_token_at - self.submitted_at <= promise.ttft_s
            and self.finished_at < math.inf
            and self.finished_at - self.submitted_at <= promise.finish_within_s
            and (self.output_tokens == 1 or self.tpot_s <= promise.tpot_s)
        )
