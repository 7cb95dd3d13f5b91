"""Authentication: who calls."""

from flask import Flask, g

from scheduler.tenants import ANYBODY, Tenant


def register(app: Flask) -> None:
    """Find out who calls before each request of `app`."""
    app.before_request(_identify)


def caller() -> Tenant:
    """Return the tenant that the current request comes from."""
    tenant: Tenant = g.tenant
    return tenant


def _identify() -> None:
    g.tenant = ANYBODY
