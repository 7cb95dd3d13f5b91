"""Order: what a caller wants done, by whichever route: an OpenAI request and how to serve it.

The native form, OpenAI's routes and the lines of a list all become orders; `api.intake` makes jobs
of them.
"""

from dataclasses import dataclass, field, replace
from typing import Self

from config.tiers import TierTable
from scheduler.deadlines import Deadlines
from scheduler.jobs import Request
from scheduler.work import max_tokens


@dataclass(frozen=True, slots=True)
class Order:
    """A request to be served in `tier`; times in seconds from now, None: as the tier says."""

    request: Request
    tier: str
    fallback_tier: str | None = None
    """Where it may be served when it would be late in its own."""
    start_within_s: float | None = None
    finish_within_s: float | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    stream: bool = False
    """Whether its tokens are kept as they come, for whoever follows the job."""

    @property
    def max_tokens(self) -> int | None:
        """Tokens of output that are asked for."""
        return max_tokens(self.request["body"])

    def to_model(self, name: str) -> Self:
        """Return the order, to be served by the model of that name."""
        body = {**self.request["body"], "model": name}
        return replace(self, request={"endpoint": self.request["endpoint"], "body": body})

    def deadlines(self, tiers: TierTable, now: float, tier: str) -> Deadlines:
        """Return its deadlines if it is submitted to `tier` at `now` (epoch s).

        What it asks for itself holds in the tier that it asks for, not in its fallback.
        """
        objectives = tiers.tiers[tier].objectives
        if tier != self.tier:
            return Deadlines.of(objectives, now)
        return Deadlines.of(
            objectives,
            now,
            start_within_s=self.start_within_s,
            finish_within_s=self.finish_within_s,
        )
