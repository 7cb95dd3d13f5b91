"""Backpressure over HTTP: a full queue refuses, with its numbers, and costs nobody anything."""

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from redis import Redis
from rq import Queue
from rq.serializers import JSONSerializer

from api.app import create_app
from config.settings import Settings
from scheduler import limits
from tests.integration.customers import customer, limited, submit, submitted
from tests.integration.test_api_jobs import problem


@pytest.fixture
def bounded(settings: Settings, tmp_path: Path) -> Iterator[FlaskClient]:
    """A client of an API whose low queue takes 3 jobs of standard, and few tokens of batch."""
    text = settings.tiers_file.read_text()
    standard = "limits: {max_tokens: 8192, job_timeout_s: 1800"
    batch = "limits: {max_tokens: 8192, job_timeout_s: 3600"
    assert text.count(standard) == text.count(batch) == 1
    text = text.replace(standard, f"{standard}, max_queued_jobs: 3")
    text = text.replace(batch, f"{batch}, max_queued_tokens: 700")
    table = tmp_path / "tiers.yaml"
    table.write_text(text)
    app = create_app(settings.model_copy(update={"tiers_file": table}))
    yield app.test_client()
    app.extensions["on_stop"]()


def test_a_full_queue_refuses_with_its_numbers(bounded: FlaskClient, connection: Redis) -> None:
    for _ in range(3):
        submitted(bounded, {}, max_tokens=200)

    by_jobs = submit(bounded, {}, max_tokens=200)
    by_tokens = submit(bounded, {}, max_tokens=200, tier="batch")

    body = problem(by_jobs, 429, "queue_full")
    expected = {"limit": "max_queued_jobs", "limit_value": 3, "queued_jobs": 3, "queue": "low"}
    assert {name: body[name] for name in expected} == expected
    assert math.isclose(body["queued_tokens"], 600, abs_tol=5)
    assert problem(by_tokens, 429, "queue_full")["limit"] == "max_queued_tokens"
    assert int(by_jobs.headers["Retry-After"]) >= 1
    assert connection.llen("rq:queue:low") == 3
    assert submitted(bounded, {}, tier="premium")["queue"] == "high"
    fallback = submitted(bounded, {}, fallback_tier="premium")
    assert (fallback["tier"], fallback["queue"]) == ("premium", "high")


def test_a_queue_that_plain_rq_filled_is_full_too(bounded: FlaskClient, connection: Redis) -> None:
    queue = Queue("low", connection=connection, serializer=JSONSerializer)
    queue.enqueue_many([Queue.prepare_data("math.sqrt", (4,)) for _ in range(3)])

    problem(submit(bounded, {}), 429, "queue_full")

    queue.empty()
    submitted(bounded, {})


def test_a_queue_that_is_full_costs_a_tenant_nothing(
    bounded: FlaskClient, connection: Redis
) -> None:
    acme = customer(connection, "acme", limits=limited(requests_per_min=10))
    for _ in range(3):
        submitted(bounded, acme)

    problem(submit(bounded, acme), 429, "queue_full")

    assert limits.usage(connection, "acme", "standard").requests == 3
