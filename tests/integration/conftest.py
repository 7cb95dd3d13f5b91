"""Fixtures of the integration tests."""

from collections.abc import Iterator

import pytest
from flask import Flask
from flask.testing import FlaskClient

from api.app import create_app
from config.settings import Settings
from tests.integration.batch_desk import always_looks, desk, means, quick
from tests.integration.slalom_site import running, site

__all__ = ["always_looks", "desk", "means", "quick", "running", "site"]


@pytest.fixture
def app(settings: Settings) -> Iterator[Flask]:
    """The API, in this process."""
    app = create_app(settings)
    yield app
    app.extensions["on_stop"]()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()
