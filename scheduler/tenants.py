"""Tenants: the customers of an installation."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tenant:
    """A customer."""

    name: str
    weight: float = 1.0
    """Its share of a queue beside other tenants that have jobs there."""


ANYBODY = Tenant("default")
"""Whoever calls an installation that has no tenants."""
