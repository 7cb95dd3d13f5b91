"""Tenants file: tenants as a person writes them down, and what applying the file would change.

    tenants:
      acme:
        weight: 2
        ceiling: standard
        models: [adder]
        limits:
          standard: {requests_per_min: 600, tokens_per_min: 200000, max_open_jobs: 500}

What is left out has its default, so the file is the whole of each tenant it names; others stay as
they are. A file with a fault changes nothing; each fault has its line.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from config import yaml_faults
from config.tiers import TierTable
from config.yaml_faults import Fault, UnreadableYaml, dotted
from scheduler.tenant_store import MOST_TENANTS, shown
from scheduler.tenants import ANYBODY, RECORD, Tenant


class TenantsFileError(Exception):
    """The file is invalid; one line per fault: file, line, key, what, and how to mend it."""


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    tenants: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of one tenant: of each field that changes, what it was and what it will be."""

    tenant: Tenant
    is_new: bool
    fields: Mapping[str, tuple[Any, Any]]


def load(path: Path, tiers: TierTable) -> list[Tenant]:
    """Return the tenants in the file; TenantsFileError."""
    try:
        root, content = yaml_faults.read(path)
    except UnreadableYaml as error:
        raise TenantsFileError(str(error)) from error
    tenants, faults = _tenants(root, content, tiers)
    if faults:
        raise TenantsFileError(yaml_faults.lines(path, root, faults))
    return tenants


def changes(before: Mapping[str, Tenant | None], tenants: list[Tenant]) -> Iterator[Change]:
    """Yield what storing `tenants` changes, beside what was there `before`."""
    for tenant in tenants:
        old = before.get(tenant.name)  # None: new, or damaged
        was, will_be = shown(old) if old else {}, shown(tenant)
        fields = {
            name: (was.get(name), value)
            for name, value in will_be.items()
            if name != "name" and was.get(name) != value
        }
        if fields or old is None:
            yield Change(tenant, old is None, fields)


def _tenants(
    root: yaml.Node | None, content: Any, tiers: TierTable
) -> tuple[list[Tenant], list[Fault]]:
    try:
        plain = json.loads(json.dumps(content, default=str))
    except (TypeError, ValueError):
        text = "the file: must be plain data: keys are text, and nothing contains itself"
        return [], [((), text)]
    faults = yaml_faults.repeated_keys(root)
    try:
        entries = _File.model_validate(plain).tenants
    except ValidationError as error:
        return [], [*faults, *yaml_faults.of_pydantic(error)]
    if len(entries) > MOST_TENANTS:
        return [], [(("tenants",), f"tenants: has more than {MOST_TENANTS} entries")]
    tenants: list[Tenant] = []
    for name, entry in entries.items():
        tenant, of_entry = _tenant(name, entry, tiers)
        tenants += [tenant] if tenant else []
        faults += of_entry
    return tenants, faults


def _tenant(name: str, entry: Any, tiers: TierTable) -> tuple[Tenant | None, list[Fault]]:
    here = ("tenants", name)
    if not isinstance(entry, dict) or "name" in entry:
        return None, [(here, f"{dotted(here)}: must be a mapping, and have no name in it")]
    if name == ANYBODY.name:
        return None, [(here, f"{dotted(here)}: that is whoever calls without tenants; rename it")]
    try:
        tenant = RECORD.validate_json(json.dumps({"name": name, **entry}))
    except ValidationError as error:
        found = yaml_faults.of_pydantic(error)
        return None, [((*here, *place), f"{dotted(here)}.{text}") for place, text in found]
    faults = tenant.faults(tiers)
    return tenant, [((*here, *p), f"{dotted((*here, *p))}: {text}") for p, text in faults]
