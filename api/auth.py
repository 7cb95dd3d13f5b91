"""Authentication: who calls, by the API key of the request, and whose jobs a caller may see.

Everything under /v1 needs a key as soon as there is one tenant: `Authorization: Bearer sk-slalom-…`
or `X-API-Key: sk-slalom-…`. Each request asks Redis, in one step, so that what an operator changes
holds from the next request on.

Without tenants the API is in development mode: whoever calls from the same machine is `ANYBODY` and
needs no key. A request from elsewhere is refused, and so is one that says that a proxy passed it
on, because it then comes from who knows where. Which mode it is stands in the log, at start and
whenever it changes.
"""

import logging
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address

from flask import Flask, g, request
from redis import Redis
from rq.job import Job

from api.problems import Forbidden, InvalidKey, TenantUnreadable
from config import connections
from config.connections import UNAVAILABLE
from config.tiers import TierTable
from scheduler import api_keys, keys, tenant_store
from scheduler.api_keys import Caller
from scheduler.tenant_store import DamagedTenant
from scheduler.tenants import ANYBODY, Tenant

logger = logging.getLogger(__name__)

GUARDED = "/v1"
HOW = "send it as `Authorization: Bearer sk-slalom-…`"
CREATE = (
    "create a tenant with `python -m scheduler.tenants create NAME` and a key for it with "
    "`python -m scheduler.tenants key create NAME`"
)
DEVELOPMENT = (
    "development mode: there are no tenants, so no API keys are needed and only this machine is "
    f"served; to serve others, {CREATE}"
)
_PASSED_ON = ("Forwarded", "X-Forwarded-For", "X-Real-IP")


def register(app: Flask, connection: Redis, tiers: TierTable) -> None:
    """Find out who calls before each request of `app`."""
    authentication = Authentication(connection, tiers)
    authentication.say_mode_at_start()
    app.before_request(authentication.identify)


def caller() -> Tenant:
    """Return the tenant that the current request comes from."""
    tenant: Tenant = g.tenant
    return tenant


def is_own(job: Job) -> bool:
    """Whether the caller may know of `job`: it is its tenant's, or the caller is an operator."""
    meta = job.meta
    return caller().may_see(meta.get("tenant") if isinstance(meta, dict) else None)


def operators_only() -> None:
    """Raise Forbidden unless the caller looks after the installation; for `before_request`."""
    if request.method != "OPTIONS" and not caller().operator:
        raise Forbidden("this is for operators: tenants whose record says `operator: true`")


@dataclass(slots=True)
class Authentication:
    """Says which tenant a request comes from."""

    connection: Redis
    tiers: TierTable
    _needs_keys: bool | None = field(default=None, init=False)
    """The mode that was said last."""

    def identify(self) -> None:
        """Keep the tenant of the current request in `g`; InvalidKey, TenantUnreadable."""
        if request.method == "OPTIONS" or not _is_guarded():
            return
        key = _sent_key()
        found = api_keys.identify(self.connection, key)
        self._say_mode(needs_keys=found.num_tenants > 0)
        g.tenant = self._tenant(found, key) if found.num_tenants else _developer()

    def say_mode_at_start(self) -> None:
        """Write into the log who may come, if Redis answers already; else a request will."""
        with connections.commands_like(self.connection, repeat=False) as client:
            try:
                self._say_mode(needs_keys=bool(client.hlen(keys.TENANTS)))
            except UNAVAILABLE:
                return

    def _tenant(self, found: Caller, key: str | None) -> Tenant:
        if key is None:
            raise InvalidKey(f"an API key is needed: {HOW}")
        if found.tenant is None or found.record is None:
            raise InvalidKey(f"the API key is not known, or was revoked: {HOW}, whole")
        if found.is_expired:
            raise InvalidKey("the API key has expired: ask for another one")
        try:
            return tenant_store.read(found.tenant, found.record, self.tiers)
        except DamagedTenant as error:
            text = "the record of your tenant is damaged; its operator finds why in the log"
            raise TenantUnreadable(text) from error

    def _say_mode(self, *, needs_keys: bool) -> None:
        if needs_keys == self._needs_keys:
            return
        self._needs_keys = needs_keys
        if needs_keys:
            logger.info("API keys are needed", extra={"event": "auth.keys"})
        else:
            logger.warning(DEVELOPMENT, extra={"event": "auth.development"})


def _is_guarded() -> bool:
    path = request.url_rule.rule if request.url_rule else request.path
    return path == GUARDED or path.startswith(f"{GUARDED}/")


def _sent_key() -> str | None:
    scheme, _, value = request.headers.get("Authorization", "").partition(" ")
    bearer = value.strip() if scheme.lower() == "bearer" else ""
    return bearer or request.headers.get("X-API-Key", "").strip() or None


def _developer() -> Tenant:
    if not _is_from_here(request.remote_addr) or any(h in request.headers for h in _PASSED_ON):
        raise InvalidKey(
            f"this installation has no tenants, so only its own machine may use it: {CREATE}"
        )
    return ANYBODY


def _is_from_here(address: str | None) -> bool:
    try:
        parsed = ip_address(address or "")
    except ValueError:
        return False
    mapped = parsed.ipv4_mapped if isinstance(parsed, IPv6Address) else None
    return (mapped or parsed).is_loopback
