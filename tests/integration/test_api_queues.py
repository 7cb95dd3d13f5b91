"""Queues over HTTP: how full each is, and who works on it."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from flask.testing import FlaskClient
from redis import Redis
from rq.worker import Worker

from api.app import create_app
from config import connections
from config.settings import Settings
from scheduler import keys, workers
from scheduler.claim import Claims


@pytest.fixture
def client(settings: Settings) -> FlaskClient:
    return create_app(settings).test_client()


@pytest.fixture
def worker(redis_url: str) -> Iterator[Worker]:
    """A worker of both queues, with the client that RQ turns into its own."""
    with connections.listener(redis_url) as listener:
        yield Worker(["high", "low"], name="worker", connection=listener)


def test_the_queues_are_shown_by_rank_with_what_waits_runs_and_works(
    client: FlaskClient, worker: Worker, connection: Redis
) -> None:
    worker.register_birth()
    for tier in ("premium", "standard", "batch"):
        client.post("/v1/jobs", json={"prompt": "1", "tier": tier})
    Claims(connection, "worker", ["high"], lease_s=30).take(1)
    connection.zadd(keys.starting("low"), {"soon": time.time() + 30})

    high, low = client.get("/v1/queues").get_json()["data"]

    assert high == {
        "name": "high",
        "object": "queue",
        "tiers": ["premium"],
        "waiting": 0,
        "running": 1,
        "workers": 1,
        "starting": 0,
        "next_waits_s": None,
    }
    assert (low["waiting"], low["running"], low["starting"]) == (2, 0, 1)
    assert low["tiers"] == ["standard", "batch"]
    assert low["next_waits_s"] >= 0


@pytest.mark.parametrize("since", [None, b"\xff", "yesterday", "2026-11-21T10:00:00"])
def test_a_queue_whose_next_job_is_damaged_is_shown_all_the_same(
    client: FlaskClient, connection: Redis, since: bytes | str | None
) -> None:
    connection.rpush(keys.queue("low"), "foreign")
    if since:
        connection.hset("rq:job:foreign", "enqueued_at", since)

    low = client.get("/v1/queues").get_json()["data"][1]

    assert (low["waiting"], low["next_waits_s"]) == (1, None)


def test_how_long_the_next_job_waits_is_counted_from_its_enqueueing(connection: Redis) -> None:
    connection.rpush(keys.queue("low"), "old", "young")
    connection.hset("rq:job:old", "enqueued_at", "2026-11-21T10:00:00.000000Z")
    since = datetime(2026, 11, 21, 10, tzinfo=UTC)

    waits_s = workers.next_waits_s(connection, "low")

    assert waits_s == pytest.approx((datetime.now(UTC) - since).total_seconds(), abs=60)
