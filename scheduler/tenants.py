"""Tenants: the customers of an installation, what each may ask for, and how much of it.

A tenant may use its ceiling, a tier, and every tier below it: tiers are ordered by their queue and
then by their priority. Its limits are per tier. Those of a minute count the requests that were
accepted and their tokens (prompt and asked output). The others count what is open: accepted and not
ended, whether it waits, runs or waits for its retry. What is not limited is `None`.

An installation without tenants is in development mode: `ANYBODY` may do everything, from the same
machine only (`api.auth`).

    python -m scheduler.tenants --help
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field, TypeAdapter

from config.tiers import Name as TierName
from config.tiers import TierTable

TenantName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
ModelName = Annotated[str, Field(min_length=1, max_length=256)]
Most = Annotated[int, Field(ge=1, le=1_000_000_000_000)]
STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


@dataclass(frozen=True, slots=True)
class TierLimits:
    """How much of one tier a tenant may have; None: as much as there is."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    requests_per_min: Most | None = None
    tokens_per_min: Most | None = None
    max_open_jobs: Most | None = None
    max_open_tokens: Most | None = None


UNLIMITED = TierLimits()


@dataclass(frozen=True, slots=True)
class Tenant:
    """A customer; without a ceiling it may use every tier, without `models` every model."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    name: TenantName
    weight: Annotated[float, Field(gt=0, le=1000)] = 1.0
    """Its share of a queue beside other tenants that have jobs there."""
    default_tier: TierName | None = None
    """Of its requests that name none; None: the SLA table's. `tier_by_default` resolves it."""
    ceiling: TierName | None = None
    models: Annotated[tuple[ModelName, ...], Field(min_length=1, max_length=256)] | None = None
    limits: Mapping[TierName, TierLimits] = field(default_factory=dict)
    operator: bool = False
    """Whether it may look after the jobs of others: dead letters, everybody's jobs."""

    def tier_by_default(self, tiers: TierTable) -> str:
        """Return the tier of its requests that name none."""
        tier = self.default_tier or tiers.default_tier
        return tier if self.may_use(tier, tiers) or self.ceiling is None else self.ceiling

    def view(self, tiers: TierTable) -> TierTable:
        """Return the SLA table as it sees it: with its own default tier."""
        tier = self.tier_by_default(tiers)
        same = tier == tiers.default_tier
        return tiers if same else tiers.model_copy(update={"default_tier": tier})

    def may_use(self, tier: str, tiers: TierTable) -> bool:
        """Whether `tier` is not above its ceiling."""
        return self.ceiling is None or tiers.rank(tier) >= tiers.rank(self.ceiling)

    def usable(self, tiers: TierTable) -> list[str]:
        """Return the tiers that it may use, the highest first."""
        return [tier for tier in sorted(tiers.tiers, key=tiers.rank) if self.may_use(tier, tiers)]

    def may_ask(self, model: str) -> bool:
        """Whether it may use the model of that name."""
        return self.models is None or model in self.models

    def limits_in(self, tier: str) -> TierLimits:
        """Return how much of `tier` it may have."""
        return self.limits.get(tier, UNLIMITED)

    def may_see(self, owner: object) -> bool:
        """Whether it may know of a job of the tenant named `owner`."""
        return self.operator or owner == self.name

    def faults(self, tiers: TierTable) -> list[tuple[tuple[str, ...], str]]:
        """Return what in it contradicts the SLA table: where, and what to do."""
        known = ", ".join(tiers.tiers)
        named: list[tuple[tuple[str, ...], str | None]] = [
            (("default_tier",), self.default_tier),
            (("ceiling",), self.ceiling),
            *((("limits", tier), tier) for tier in self.limits),
        ]
        faults = [
            (place, f"there is no tier {tier!r}; use one of {known}")
            for place, tier in named
            if tier is not None and tier not in tiers.tiers
        ]
        if not faults and self.default_tier and not self.may_use(self.default_tier, tiers):
            usable = ", ".join(self.usable(tiers))
            text = f"{self.default_tier} is above the ceiling; use one of {usable}"
            faults.append((("default_tier",), text))
        return faults


RECORD = TypeAdapter(Tenant)
"""Reads a tenant from JSON, and writes it."""

ANYBODY = Tenant("default", operator=True)
"""Whoever calls an installation that has no tenants. No tenant may have its name."""


if __name__ == "__main__":
    from scheduler.tenants_cli import main

    sys.exit(main())
