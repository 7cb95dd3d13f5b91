"""Limits: how much of a tier a tenant has had, and whether one job more is within its limits.

One script decides and charges (`lua/admit.lua`), so that any number of web processes at once let in
exactly what the limits say. What was charged for a job that could not be queued is given back.

    slalom:rate:{tenant}:{tier}   hash   second -> "requests tokens", of the last minute
    slalom:open:{tenant}:{tier}   zset   "{job}:{tokens}" -> accepted at   (scheduler.open_jobs)
    slalom:open:{tenant}          hash   tier -> tokens of those jobs

A minute is never let in more than the limit; a second's requests count until the whole of it is a
minute ago, 61 s at most.
"""

from dataclasses import dataclass
from typing import Any, Literal, cast

from redis import Redis

from scheduler import keys
from scheduler.tenants import UNLIMITED, TierLimits

Limit = Literal["requests_per_min", "tokens_per_min", "max_open_jobs", "max_open_tokens"]
_LIMITS: tuple[Limit, ...] = (
    "requests_per_min",
    "tokens_per_min",
    "max_open_jobs",
    "max_open_tokens",
)
MOST_TOKENS = 1_000_000_000
"""Of one job; what asks for more is charged this much."""


@dataclass(frozen=True, slots=True)
class Charge:
    """What one job costs its tenant in a tier; `tokens` of its prompt and its asked output."""

    tenant: str
    tier: str
    job_id: str
    tokens: int

    @property
    def account(self) -> str:
        """What the job's record keeps of it, for the scripts that end jobs."""
        return f"{self.tenant} {self.tier} {self.tokens}"


@dataclass(frozen=True, slots=True)
class Usage:
    """What a tenant has of a tier: in the last minute, and open; `reset_s`: until it is empty."""

    requests: int
    tokens: int
    open_jobs: int
    open_tokens: int
    reset_s: float

    def of(self, limit: Limit) -> int:
        """Return what counts against a limit."""
        counts = (self.requests, self.tokens, self.open_jobs, self.open_tokens)
        return counts[_LIMITS.index(limit)]


@dataclass(frozen=True, slots=True)
class Charged:
    """The job may come, and was charged."""

    usage: Usage


@dataclass(frozen=True, slots=True)
class Hit:
    """A limit says no, and nothing was charged; `wait_s`: until it would not, where known."""

    limit: Limit
    most: int
    cost: int
    usage: Usage
    wait_s: float | None

    @property
    def is_for_ever(self) -> bool:
        """Whether the job alone is more than the limit."""
        return self.cost > self.most


def admit(
    connection: Redis, charge: Charge, limits: TierLimits, *, now: float | None = None
) -> Charged | Hit:
    """Charge the job, unless it would exceed a limit; `now` (epoch s), else by Redis's clock."""
    asked = [getattr(limits, name) for name in _LIMITS]
    hit, wait_ms, usage = _run(connection, charge, asked, now)
    if not hit:
        return Charged(usage)
    limit, cost = _LIMITS[hit - 1], 1 if hit in (1, 3) else charge.tokens
    wait_s = None if wait_ms < 0 else wait_ms / 1000
    return Hit(limit, asked[hit - 1], cost, usage, wait_s)


def usage(connection: Redis, tenant: str, tier: str, *, now: float | None = None) -> Usage:
    """Return what the tenant has of the tier."""
    limits = [getattr(UNLIMITED, name) for name in _LIMITS]
    return _run(connection, Charge(tenant, tier, "", 0), limits, now)[2]


def give_back(connection: Redis, charge: Charge) -> bool:
    """Take back what a job was charged, unless it stands in Redis; whether there was anything."""
    reply = keys.script(connection, "give_back")(
        keys=[
            keys.rate(charge.tenant, charge.tier),
            keys.open_jobs(charge.tenant, charge.tier),
            f"rq:job:{charge.job_id}",
        ],
        args=[charge.tenant, charge.tier, charge.job_id, charge.tokens],
    )
    return bool(reply)


def _run(
    connection: Redis, charge: Charge, limits: list[int | None], now: float | None
) -> tuple[int, int, Usage]:
    """Return which limit was hit (0: none), the ms to wait (-1: not known), and the usage."""
    reply: list[Any] = keys.script(connection, "admit")(
        keys=[
            keys.rate(charge.tenant, charge.tier),
            keys.open_jobs(charge.tenant, charge.tier),
            keys.open_tokens(charge.tenant),
        ],
        args=[
            charge.tenant,
            charge.tier,
            charge.job_id,
            charge.tokens,
            *("" if most is None else most for most in limits),
            "" if now is None else f"{now:.6f}",
        ],
    )
    hit, wait_ms, requests, tokens, open_jobs, open_tokens, reset_ms = cast(list[int], reply)
    return hit, wait_ms, Usage(requests, tokens, open_jobs, open_tokens, reset_ms / 1000)
