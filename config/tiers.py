"""Tiers: the SLA table, from one YAML file, checked whole before any process uses it.

A tier names its queue, the OpenAI `service_tier` values that mean it, its priority inside the
engine (vLLM's: smaller goes first), its objectives, its limits, how long results are kept and how
failures are retried. A queue names when workers are added to it and drained. Errors carry the file,
the line and the key.
"""

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from config import yaml_faults
from config.yaml_faults import Fault, UnreadableYaml, dotted, of_pydantic, repeated_keys

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]
Positive = Annotated[float, Field(gt=0)]


class TierTableError(Exception):
    """The SLA table is invalid; one line per fault: file, line, key, what, and how to mend it."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Autoscale(_Frozen):
    """When workers are added to a queue and drained; depth is waiting + in flight, per worker."""

    workers_serve: list[Name] = Field(min_length=1)
    scale_up_at: Positive
    scale_down_at: Annotated[float, Field(ge=0)]
    min_workers: int = Field(1, ge=0)
    max_workers: int = Field(1, ge=0)
    cooldown_s: Annotated[float, Field(ge=0)] = 60.0

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.scale_down_at >= self.scale_up_at:
            raise ValueError(
                "scale_down_at must be below scale_up_at, or workers would come and go for ever"
            )
        if self.min_workers > self.max_workers:
            raise ValueError("min_workers must not exceed max_workers")
        return self


class Promotion(_Frozen):
    """How waiting jobs near their latest start are moved to the front of their queue."""

    service_s: Positive
    max_share: Annotated[float, Field(gt=0, le=1)] = 0.2


class QueuePolicy(_Frozen):
    """One queue; its rank is its place in the file."""

    autoscale: Autoscale | None = None
    promotion: Promotion | None = None


class Objectives(_Frozen):
    """What a tier is promised; a missing one is not promised."""

    ttft_s: Positive | None = None
    tpot_ms: Positive | None = None
    start_within_s: Positive | None = None
    finish_within_s: Positive | None = None


class Limits(_Frozen):
    """What one job of the tier may take, and how full its queue may be when it comes."""

    max_tokens: int = Field(8192, ge=1)
    job_timeout_s: int = Field(600, ge=1)
    max_queued_jobs: int = Field(1_000_000, ge=1)
    max_queued_tokens: int = Field(1_000_000_000, ge=1)


class Retention(_Frozen):
    """How long an ended job stays readable."""

    result_ttl_s: int = Field(86_400, ge=1)
    failure_ttl_s: int = Field(604_800, ge=1)


class RetryPolicy(_Frozen):
    """How often a failed job is tried again; the pause's bound starts at base_s and doubles."""

    max: int = Field(0, ge=0, le=20)
    base_s: Positive = 1.0
    cap_s: Annotated[float, Field(gt=0, le=86_400)] = 60.0

    @model_validator(mode="after")
    def _growing(self) -> Self:
        if self.cap_s < self.base_s:
            raise ValueError("cap_s must not be below base_s, the bound of the first pause")
        return self


class Tier(_Frozen):
    """One SLA class."""

    queue: Name
    service_tiers: list[Name] = []
    priority: int = Field(ge=0, le=1_000_000)
    objectives: Objectives = Objectives()
    limits: Limits = Limits()
    retention: Retention = Retention()
    retry: RetryPolicy = RetryPolicy()


class TierTable(_Frozen):
    """The whole table; queues in rank order."""

    queues: dict[Name, QueuePolicy] = Field(min_length=1)
    tiers: dict[Name, Tier] = Field(min_length=1)
    default_tier: Name

    @classmethod
    def load(cls, path: Path) -> Self:
        """Return the table in `path`; TierTableError if it cannot be read or breaks a rule."""
        try:
            root, content = yaml_faults.read(path)
        except UnreadableYaml as error:
            raise TierTableError(str(error)) from error
        faults = [*repeated_keys(root), *_invalid(cls, content), *_contradictions(content)]
        if faults:
            raise TierTableError(yaml_faults.lines(path, root, faults))
        return cls.model_validate(content)

    @property
    def high_queue(self) -> str | None:
        """The queue whose jobs low ones make way for: the first, if there are others."""
        return next(iter(self.queues)) if len(self.queues) > 1 else None

    @property
    def high_tiers(self) -> list[Tier]:
        """The tiers of the high queue."""
        return [tier for tier in self.tiers.values() if tier.queue == self.high_queue]

    def rank(self, tier: str) -> tuple[int, int]:
        """Return what tiers are ordered by, the highest first: their queue, then their priority."""
        policy = self.tiers[tier]
        return list(self.queues).index(policy.queue), policy.priority

    def tier_for(self, service_tier: str) -> str | None:
        """Return the tier that an OpenAI `service_tier` means, or None."""
        return next(
            (n for n, tier in self.tiers.items() if service_tier in tier.service_tiers), None
        )


def _invalid(table: type[TierTable], content: Any) -> list[Fault]:
    """Return what breaks the schema."""
    try:
        table.model_validate(content)
    except ValidationError as error:
        return of_pydantic(error)
    return []


def _contradictions(content: Any) -> list[Fault]:
    """Return the faults that span entries: dangling names, one service_tier claimed twice."""
    if not isinstance(content, dict):
        return []
    queues, tiers = content.get("queues"), content.get("tiers")
    if not isinstance(queues, dict) or not isinstance(tiers, dict):
        return []
    return [
        *_dangling_queues(queues, tiers),
        *_shared_service_tiers(tiers),
        *_inverted_priorities(queues, tiers),
        *_dangling_default(tiers, content.get("default_tier")),
    ]


def _dangling_queues(queues: dict[str, Any], tiers: dict[str, Any]) -> list[Fault]:
    known = ", ".join(queues)
    faults: list[Fault] = []
    for name, tier in tiers.items():
        queue = tier.get("queue") if isinstance(tier, dict) else None
        if queue is not None and queue not in queues:
            faults.append(
                (
                    ("tiers", name, "queue"),
                    f"tiers.{name}.queue: no queue {queue!r}; use one of {known}",
                )
            )
    for name, queue in queues.items():
        scale = queue.get("autoscale") if isinstance(queue, dict) else None
        served = scale.get("workers_serve") if isinstance(scale, dict) else None
        path = ("queues", name, "autoscale", "workers_serve")
        if isinstance(served, list) and not set(served) <= set(queues):
            faults.append(
                (path, f"{dotted(path)}: names a queue that is not in queues; use {known}")
            )
        elif isinstance(served, list) and name not in served:
            faults.append(
                (path, f"{dotted(path)}: must contain {name!r}, or new workers would not help it")
            )
    return faults


def _shared_service_tiers(tiers: dict[str, Any]) -> list[Fault]:
    owners: dict[str, str] = {}
    faults: list[Fault] = []
    for name, tier in tiers.items():
        services = tier.get("service_tiers") if isinstance(tier, dict) else None
        for service in services if isinstance(services, list) else []:
            if service in owners:
                path = ("tiers", name, "service_tiers")
                owner = owners[service]
                text = f"{dotted(path)}: {service!r} already means {owner!r}; keep it in one tier"
                faults.append((path, text))
            owners.setdefault(service, name)
    return faults


def _inverted_priorities(queues: dict[str, Any], tiers: dict[str, Any]) -> list[Fault]:
    """Return tiers that the engine would serve before those of a queue that ranks higher."""
    ranks = {queue: rank for rank, queue in enumerate(queues)}
    known = [
        (ranks[tier["queue"]], tier["priority"], name)
        for name, tier in tiers.items()
        if isinstance(tier, dict)
        and tier.get("queue") in ranks
        and isinstance(tier.get("priority"), int)
    ]
    faults: list[Fault] = []
    for rank, priority, name in known:
        above = [p for r, p, _ in known if r < rank]
        if above and priority <= max(above):
            path = ("tiers", name, "priority")
            text = f"must be above {max(above)}, which a tier of a queue before its own has"
            faults.append((path, f"{dotted(path)}: {text}"))
    return faults


def _dangling_default(tiers: dict[str, Any], default: Any) -> list[Fault]:
    if default is None or default in tiers:
        return []
    return [
        (("default_tier",), f"default_tier: no tier {default!r}; use one of {', '.join(tiers)}")
    ]
