"""Tenants at a terminal: list, show, create, set, delete, their API keys, and a file to apply.

    python -m scheduler.tenants create acme --ceiling standard --limit standard.requests_per_min=600
    python -m scheduler.tenants key create acme --expires-in 90d
    python -m scheduler.tenants key revoke acme sk-slalom-Ab3dE6
    python -m scheduler.tenants apply tenants.yaml --dry-run

Results go to standard output, everything else to standard error. A key is shown when it is created
and never again. The exit status is 0 when it is done, 1 when it could not be, 2 when the command
itself is wrong.
"""

import json
import os
import re
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from config import connections
from config.settings import SettingsError, load, mask_url
from config.tiers import TierTable
from scheduler import api_keys, limits, tenants_file
from scheduler.tenant_store import DamagedTenant, NotStored, TenantStore, UnknownTenant, shown
from scheduler.tenants import Tenant, TierLimits
from scheduler.tenants_file import Change, TenantsFileError

NONE = "none"
_UNIT_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_LIMITS = [field.name for field in fields(TierLimits)]


@dataclass(frozen=True, slots=True)
class Desk:
    """What a command works with."""

    connection: Redis
    tiers: TierTable
    store: TenantStore


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status."""
    given = _parser().parse_args(arguments)
    try:
        settings = load()
        tiers = settings.tiers()
    except SettingsError as error:
        return _fail(f"invalid configuration:\n{error}")
    connection = connections.commands(settings.redis)
    try:
        given.run(Desk(connection, tiers, TenantStore(connection, tiers)), given)
        sys.stdout.flush()
    except (UnknownTenant, DamagedTenant, NotStored, TenantsFileError) as error:
        return _fail(str(error))
    except RedisError as error:
        return _fail(f"Redis at {mask_url(settings.redis)} failed: {error}")
    except BrokenPipeError:  # the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        return _fail("interrupted; look with `list` at what was done")
    return 0


def _parser() -> ArgumentParser:
    summary = "Customers of this installation: what each may ask for, and its API keys."
    parser = ArgumentParser("python -m scheduler.tenants", description=summary)
    commands = parser.add_subparsers(required=True, metavar="command")
    _command(commands, "list", "list all tenants", _list)
    _command(commands, "show", "show one: its record, its use, its keys", _show).add_argument(
        "name"
    )
    for name, text, run in (
        ("create", "create a tenant", _create),
        ("set", "change what is given, leave the rest", _set),
    ):
        command = _command(commands, name, text, run)
        command.add_argument("name")
        _add_fields(command)
    delete = _command(commands, "delete", "forget a tenant and its keys; its jobs go on", _delete)
    delete.add_argument("name")
    apply = _command(commands, "apply", "create and change tenants as a YAML file says", _apply)
    apply.add_argument("file", type=Path)
    apply.add_argument("--dry-run", action="store_true", help="only show what would change")
    _add_keys(commands.add_parser("key", help="API keys of a tenant"))
    return parser


def _command(commands: Any, name: str, text: str, run: Any) -> ArgumentParser:
    command: ArgumentParser = commands.add_parser(name, help=text)
    command.add_argument("--json", action="store_true", help="one line of JSON each")
    command.set_defaults(run=run)
    return command


def _add_fields(command: ArgumentParser) -> None:
    add = command.add_argument
    add("--weight", type=float, help="share of a queue beside other tenants (default: 1)")
    add("--default-tier", help=f"of requests that name none; {NONE}: the SLA table's")
    add("--ceiling", help=f"the highest tier it may ask for; {NONE}: every tier")
    add("--model", action="append", help=f"may be used; again for more; {NONE}: every model")
    operator = command.add_mutually_exclusive_group()
    operator.add_argument("--operator", action="store_true", default=None, help="sees all jobs")
    operator.add_argument("--no-operator", action="store_false", dest="operator", default=None)
    form = "TIER.LIMIT=N"
    text = f"LIMIT is one of {', '.join(_LIMITS)}; N a number or {NONE}; again for more"
    add("--limit", action="append", default=[], type=_limit, metavar=form, help=text)


def _add_keys(parser: ArgumentParser) -> None:
    commands = parser.add_subparsers(required=True, metavar="command")
    create = _command(commands, "create", "make a key and show it, this once", _key_create)
    create.add_argument("name")
    text = "30m, 12h, 90d: it is refused afterwards"
    create.add_argument("--expires-in", type=_seconds, metavar="TIME", help=text)
    _command(commands, "list", "list a tenant's keys", _key_list).add_argument("name")
    revoke = _command(commands, "revoke", "refuse a key from now on", _key_revoke)
    revoke.add_argument("name")
    revoke.add_argument("prefix", help="its visible part, as `key list` shows it")


def _limit(text: str) -> tuple[str, str, int | None]:
    match = re.fullmatch(rf"([^.=]+)\.({'|'.join(_LIMITS)})=(\d+|{NONE})", text)
    if not match:
        form = f"TIER.LIMIT=N, LIMIT one of {', '.join(_LIMITS)}, N a number or {NONE}"
        raise ArgumentTypeError(f"{text!r} is no limit; write {form}")
    return match[1], match[2], None if match[3] == NONE else int(match[3])


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d{1,6})([smhd])", text)
    if not match or not int(match[1]):
        raise ArgumentTypeError(f"{text!r} is no time; write 90s, 30m, 12h or 90d")
    return float(match[1]) * _UNIT_S[match[2]]


def _changed(tenant: Tenant, given: Namespace) -> Tenant:
    """Return the tenant with what the command line says."""
    said: dict[str, Any] = {
        "weight": given.weight,
        "default_tier": given.default_tier,
        "ceiling": given.ceiling,
        "models": None if given.model is None else tuple(given.model),
        "operator": given.operator,
    }
    kept: dict[str, Any] = {name: value for name, value in said.items() if value is not None}
    kept = {name: None if v in (NONE, (NONE,)) else v for name, v in kept.items()}
    all_limits = dict(tenant.limits)
    for tier, limit, most in given.limit:
        all_limits[tier] = replace(all_limits.get(tier, TierLimits()), **{limit: most})
    set_limits = {tier: of_tier for tier, of_tier in all_limits.items() if of_tier != TierLimits()}
    return replace(tenant, **kept, limits=set_limits)


def _list(desk: Desk, given: Namespace) -> None:
    for name in desk.store.names():
        try:
            tenant = desk.store.get(name)
        except DamagedTenant as error:
            _out(json.dumps({"name": name, "damaged": str(error)}) if given.json else str(error))
            continue
        _out(json.dumps(shown(tenant)) if given.json else _line(tenant, desk.tiers))


def _line(tenant: Tenant, tiers: TierTable) -> str:
    tiers_said = f"{tenant.tier_by_default(tiers)} by default, {tenant.usable(tiers)[0]} at most"
    said = [f"{tenant.name}  weight {tenant.weight:g}", tiers_said]
    said += [f"models {','.join(tenant.models)}"] if tenant.models else []
    said += ["operator"] if tenant.operator else []
    for tier, of_tier in tenant.limits.items():
        values = {name: getattr(of_tier, name) for name in _LIMITS}
        said += [f"{tier}.{name}={most}" for name, most in values.items() if most is not None]
    return "  ".join(said)


def _show(desk: Desk, given: Namespace) -> None:
    tenant = desk.store.get(given.name)
    use = {tier: limits.usage(desk.connection, given.name, tier) for tier in desk.tiers.tiers}
    numbers = ("requests", "tokens", "open_jobs", "open_tokens")
    whole = {
        **shown(tenant),
        "use": {
            tier: {name: getattr(of_tier, name) for name in numbers}
            for tier, of_tier in use.items()
        },
        "keys": [_key(key) for key in api_keys.of_tenant(desk.connection, given.name)],
    }
    _out(json.dumps(whole, indent=None if given.json else 2))


def _create(desk: Desk, given: Namespace) -> None:
    tenant = _changed(Tenant(given.name), given)
    desk.store.create(tenant)
    _out(json.dumps(shown(tenant)) if given.json else _line(tenant, desk.tiers))
    _err(f"it has no key yet: python -m scheduler.tenants key create {given.name}")


def _set(desk: Desk, given: Namespace) -> None:
    tenant = desk.store.change(given.name, lambda tenant: _changed(tenant, given))
    _out(json.dumps(shown(tenant)) if given.json else _line(tenant, desk.tiers))


def _delete(desk: Desk, given: Namespace) -> None:
    desk.store.delete(given.name)
    left = len(desk.store.names())
    _out(
        json.dumps({"name": given.name, "deleted": True}) if given.json else f"{given.name} deleted"
    )
    if not left:
        _err("no tenants are left: the API is in development mode now, without keys, on loopback")


def _apply(desk: Desk, given: Namespace) -> None:
    tenants = tenants_file.load(given.file, desk.tiers)
    known = set(desk.store.names())
    before = {t.name: _stored(desk, t.name) for t in tenants if t.name in known}
    found = list(tenants_file.changes(before, tenants))
    if not given.dry_run:
        desk.store.replace([change.tenant for change in found])
    for change in found:
        _out(json.dumps(_change(change)) if given.json else _change_line(change))
    done = "would change" if given.dry_run else "changed"
    _err(f"{len(found)} of {len(tenants)} tenants {done}")


def _stored(desk: Desk, name: str) -> Tenant | None:
    """Return the tenant; None for a damaged record, which applying a file mends."""
    try:
        return desk.store.get(name)
    except DamagedTenant:
        return None


def _change(change: Change) -> dict[str, Any]:
    fields = {name: {"from": was, "to": will} for name, (was, will) in change.fields.items()}
    return {"name": change.tenant.name, "new": change.is_new, "changes": fields}


def _change_line(change: Change) -> str:
    sign = "+" if change.is_new else "~"
    values = [
        f"{name} {json.dumps(was)} -> {json.dumps(will)}"
        if not change.is_new
        else f"{name} {json.dumps(will)}"
        for name, (was, will) in change.fields.items()
    ]
    return f"{sign} {change.tenant.name}  {'; '.join(values)}"


def _key_create(desk: Desk, given: Namespace) -> None:
    key = api_keys.create(desk.connection, given.name, expires_in_s=given.expires_in)
    _out(json.dumps({"tenant": given.name, "key": key}) if given.json else key)
    _err("this is the only time that the key is shown; only its hash is stored")


def _key_list(desk: Desk, given: Namespace) -> None:
    if given.name not in desk.store.names():
        raise UnknownTenant(f"there is no tenant {given.name}")
    for key in map(_key, api_keys.of_tenant(desk.connection, given.name)):
        said = (f"{name.removesuffix('_at')} {key[name] or 'never'}" for name in list(key)[1:])
        _out(json.dumps(key) if given.json else "  ".join([key["prefix"], *said]))


def _key(key: dict[str, Any]) -> dict[str, Any]:
    return {name: _instant(value) if name.endswith("_at") else value for name, value in key.items()}


def _instant(at: float | None) -> str | None:
    return None if at is None else datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")


def _key_revoke(desk: Desk, given: Namespace) -> None:
    api_keys.revoke(desk.connection, given.name, given.prefix)
    revoked = {"tenant": given.name, "prefix": given.prefix, "revoked": True}
    _out(json.dumps(revoked) if given.json else f"{given.prefix} revoked")


def _out(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def _err(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _fail(text: str) -> int:
    _err(text)
    return 1
