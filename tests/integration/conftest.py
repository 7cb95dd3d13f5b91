"""Fixtures of the integration tests."""

from tests.integration.slalom_site import running, site

__all__ = ["running", "site"]
