"""Tenant store: the tenants as they stand in Redis, each a record that is checked when it is read.

    slalom:tenants   hash   name -> JSON of a `scheduler.tenants.Tenant`

A record that is damaged, or that the SLA table does not fit any more, is an error that names the
tenant and the cause; it is never a default.
"""

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, cast

from pydantic import ValidationError
from redis import Redis
from redis.client import Pipeline

from config.tiers import TierTable
from config.yaml_faults import dotted
from scheduler import keys
from scheduler.tenants import ANYBODY, RECORD, Tenant

logger = logging.getLogger(__name__)

MOST_TENANTS = 10_000


class UnknownTenant(Exception):
    """There is no tenant of that name."""


class DamagedTenant(Exception):
    """The record of a tenant cannot be used; the message says why, without its content."""


class NotStored(Exception):
    """The tenant was not stored; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class TenantStore:
    """The tenants of an installation."""

    connection: Redis
    tiers: TierTable

    def names(self) -> list[str]:
        """Return the names of all tenants, in their order."""
        found = cast(list[bytes], self.connection.hkeys(keys.TENANTS))
        return sorted(name.decode(errors="replace") for name in found)

    def get(self, name: str) -> Tenant:
        """Return the tenant; UnknownTenant or DamagedTenant."""
        text = self.connection.hget(keys.TENANTS, name)
        if text is None:
            raise UnknownTenant(f"there is no tenant {name}")
        return read(name, text, self.tiers)

    def create(self, tenant: Tenant) -> None:
        """Store a new tenant; NotStored if there is one of its name."""
        check(tenant, self.tiers)

        def step(pipeline: Pipeline) -> None:
            if pipeline.hexists(keys.TENANTS, tenant.name):
                raise NotStored(f"there is a tenant {tenant.name} already; change it with `set`")
            _room_for(pipeline, 1)
            pipeline.multi()
            _put(pipeline, tenant)

        self.connection.transaction(step, keys.TENANTS)

    def change(self, name: str, change: Callable[[Tenant], Tenant]) -> Tenant:
        """Return the tenant after `change`, which may be called again where others write too."""
        changed: list[Tenant] = []

        def step(pipeline: Pipeline) -> None:
            text = pipeline.hget(keys.TENANTS, name)
            if text is None:
                raise UnknownTenant(f"there is no tenant {name}")
            tenant = change(read(name, cast(bytes, text), self.tiers))
            check(tenant, self.tiers)
            changed.append(tenant)
            pipeline.multi()
            _put(pipeline, tenant)

        self.connection.transaction(step, keys.TENANTS)
        return changed[-1]

    def replace(self, tenants: Collection[Tenant]) -> None:
        """Store all of `tenants` in one step, in the place of those of their names."""
        for tenant in tenants:
            check(tenant, self.tiers)
        if not tenants:
            return

        def step(pipeline: Pipeline) -> None:
            names = cast(list[bytes], pipeline.hkeys(keys.TENANTS))
            known = {name.decode(errors="replace") for name in names}
            _room_for(pipeline, sum(tenant.name not in known for tenant in tenants))
            pipeline.multi()
            for tenant in tenants:
                _put(pipeline, tenant)

        self.connection.transaction(step, keys.TENANTS)

    def delete(self, name: str) -> None:
        """Forget a tenant and its API keys; its jobs go on. UnknownTenant if there is none."""

        def step(pipeline: Pipeline) -> None:
            if not pipeline.hexists(keys.TENANTS, name):
                raise UnknownTenant(f"there is no tenant {name}")
            hashes = cast(list[bytes], pipeline.hkeys(keys.api_keys_of(name)))
            pipeline.multi()
            if hashes:
                pipeline.hdel(keys.API_KEYS, *hashes)
            pipeline.delete(keys.api_keys_of(name), keys.api_key_uses(name))
            pipeline.hdel(keys.TENANTS, name)

        self.connection.transaction(step, keys.TENANTS, keys.api_keys_of(name))


def read(name: str, text: bytes | str, tiers: TierTable) -> Tenant:
    """Return the tenant whose record is `text`; DamagedTenant, which is logged, if it is none."""
    faults: list[str]
    try:
        tenant = RECORD.validate_json(text)
        faults = [f"{dotted(place)}: {what}" for place, what in tenant.faults(tiers)]
        if tenant.name != name:
            faults.append("name: is not that under which it stands")
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)
        faults = [f"{dotted(fault['loc'])}: {fault['msg']}" for fault in found]
    if faults:
        what = "; ".join(faults)
        extra = {"event": "tenant.damaged", "tenant": name, "fault": what}
        logger.error("the record of a tenant is damaged", extra=extra)
        raise DamagedTenant(f"the record of tenant {name} is damaged: {what}")
    return tenant


def check(tenant: Tenant, tiers: TierTable) -> None:
    """Raise NotStored if `tenant` is no tenant that may be stored."""
    try:
        RECORD.validate_json(RECORD.dump_json(tenant))
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False, include_context=False)
        text = "; ".join(f"{dotted(fault['loc'])}: {fault['msg']}" for fault in faults)
        raise NotStored(text) from None
    if tenant.name == ANYBODY.name:
        raise NotStored(f"{tenant.name} is whoever calls without tenants; take another name")
    if faults_here := tenant.faults(tiers):
        raise NotStored("; ".join(f"{dotted(place)}: {text}" for place, text in faults_here))


def shown(tenant: Tenant) -> dict[str, Any]:
    """Return the tenant as JSON has it; of its limits only those that are set."""
    limits = {
        tier: {name: most for name, most in of_tier.items() if most is not None}
        for tier, of_tier in (RECORD.dump_python(tenant, mode="json")["limits"]).items()
    }
    whole: dict[str, Any] = RECORD.dump_python(tenant, mode="json")
    return {**whole, "limits": {tier: of_tier for tier, of_tier in limits.items() if of_tier}}


def _put(pipeline: Pipeline, tenant: Tenant) -> None:
    pipeline.hset(keys.TENANTS, tenant.name, RECORD.dump_json(tenant))


def _room_for(pipeline: Pipeline, count: int) -> None:
    if pipeline.hlen(keys.TENANTS) + count > MOST_TENANTS:
        raise NotStored(f"there are {MOST_TENANTS} tenants already; delete some")
