"""Tenants: the customers of an installation."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tenant:
    """A customer."""

    name: str


ANYBODY = Tenant("default")
"""Whoever calls an installation that has no tenants."""
