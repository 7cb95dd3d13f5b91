"""Every route against what schemathesis makes of the document: no 5xx, no answer outside it.

It sends what the schemas allow and what they forbid, in every part of a request, to the real
application with a real Redis and a worker that runs what is accepted. The same each time.
"""

from collections.abc import Iterable, Iterator
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import hypothesis
import pytest
import schemathesis
from flask import Flask
from hypothesis import HealthCheck
from schemathesis import Case
from schemathesis.specs.openapi.checks import (
    allow_header_conformance,
    negative_data_rejection,
    positive_data_acceptance,
)

from api import catalogue
from api.app import create_app
from api.openapi import document
from config import embedded_redis
from config.settings import ROOT, Settings
from config.tiers import TierTable
from tests.conftest import until, worker_starter

EXAMPLES = 40
LEFT_OUT = [
    positive_data_acceptance,  # which models are served, with room for what, no schema says
    allow_header_conformance,  # `replay` is the id of a job as well, to GET and DELETE
]
TIERS = TierTable.load(ROOT / "config" / "tiers.yaml")
WITHOUT_KEYS = {**document(catalogue.ROUTES, TIERS), "security": []}
SCHEMA = schemathesis.openapi.from_dict(WITHOUT_KEYS)


def from_here(app: Flask) -> WSGIApplication:
    """Return `app` as this machine calls it, which needs no key."""

    def called(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        return app({**environ, "REMOTE_ADDR": "127.0.0.1"}, start_response)

    return called


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WSGIApplication]:
    """An application whose queues have a worker."""
    directory = tmp_path_factory.mktemp("schema")
    with embedded_redis.running(directory) as url, worker_starter(url, directory) as start:
        start()
        app = create_app(Settings(redis_url=url, engine="sim", data_dir=directory, max_wait_s=1))
        until(lambda: app.test_client().get("/readyz").status_code == 200)
        yield from_here(app)
        app.extensions["on_stop"]()
        app.extensions["slalom"].connection.close()


@SCHEMA.parametrize()
@hypothesis.settings(
    max_examples=EXAMPLES,
    derandomize=True,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@pytest.mark.slow
def test_no_request_breaks_the_api_or_its_document(case: Case, app: WSGIApplication) -> None:
    is_form = case.operation.label == "POST /v1/files"  # without types: ["a"] comes as "a"
    left_out = [*LEFT_OUT, negative_data_rejection] if is_form else LEFT_OUT

    response = case.call_and_validate(app=app, excluded_checks=left_out)

    assert "Traceback" not in response.text
