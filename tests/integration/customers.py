"""Customers: tenants with a key each, for tests."""

from typing import Any

from flask.testing import FlaskClient
from redis import Redis
from werkzeug.test import TestResponse

from config.settings import Settings
from config.tiers import TierTable
from scheduler import api_keys
from scheduler.tenant_store import TenantStore
from scheduler.tenants import Tenant, TierLimits

TIERS: TierTable = Settings().tiers()


def customer(connection: Redis, name: str, **fields: Any) -> dict[str, str]:
    """Return the header by which a new tenant is known."""
    TenantStore(connection, TIERS).create(Tenant(name, **fields))
    return bearer(api_keys.create(connection, name))


def bearer(key: str) -> dict[str, str]:
    """Return the header that carries a key."""
    return {"Authorization": f"Bearer {key}"}


def limited(tier: str = "standard", **limits: int) -> dict[str, TierLimits]:
    """Return limits of one tier."""
    return {tier: TierLimits(**limits)}


def submit(client: FlaskClient, headers: dict[str, str], **fields: Any) -> TestResponse:
    """Return the answer to a job that was sent."""
    return client.post("/v1/jobs", json={"prompt": "1+1=", **fields}, headers=headers)


def submitted(client: FlaskClient, headers: dict[str, str], **fields: Any) -> dict[str, Any]:
    """Return the job, which must be accepted."""
    response = submit(client, headers, **fields)
    assert response.status_code == 202, response.text
    job: dict[str, Any] = response.get_json()
    return job
