"""Models, health and readiness: what a client and an operator can ask before they rely on it."""

from collections.abc import Iterator

import httpx2
import pytest
from flask import Flask
from flask.testing import FlaskClient
from openai import APIStatusError, OpenAI
from redis import Redis
from rq.worker import Worker

from api.app import create_app
from api.context import Context
from config import connections
from config.settings import Settings
from scheduler import models
from scheduler.claim import Claims
from scheduler.models import ModelView


@pytest.fixture
def app(settings: Settings) -> Flask:
    return create_app(settings)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def worker(redis_url: str) -> Iterator[Worker]:
    """A registered worker of both queues, with the client that RQ turns into its own."""
    with connections.listener(redis_url) as listener:
        yield Worker(["high", "low"], name="worker", connection=listener)


def test_health_needs_nothing(settings: Settings) -> None:
    nowhere = settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"})

    response = create_app(nowhere).test_client().get("/healthz")

    assert (response.status_code, response.get_json()) == (200, {"status": "ok"})


def test_no_worker_means_not_ready_and_says_for_which_queue(client: FlaskClient) -> None:
    response = client.get("/readyz")

    body = response.get_json()
    assert (response.status_code, response.mimetype) == (503, "application/problem+json")
    assert body["detail"] == "queue high: no worker alive; queue low: no worker alive"
    assert body["queues"]["high"] == {"workers": 0, "waiting": 0, "in_flight": 0}
    assert body["error"]["code"] == "not_ready"


def test_a_worker_for_every_queue_means_ready(
    client: FlaskClient, worker: Worker, connection: Redis
) -> None:
    worker.register_birth()
    for tier in ("premium", "standard", "standard"):
        client.post("/v1/jobs", json={"prompt": "1", "tier": tier})
    Claims(connection, "worker", ["high"], lease_s=30).take(1)

    response = client.get("/readyz")

    assert response.status_code == 200
    assert response.get_json() == {
        "status": "ready",
        "queues": {
            "high": {"workers": 1, "waiting": 0, "in_flight": 1},
            "low": {"workers": 1, "waiting": 2, "in_flight": 0},
        },
    }


def test_a_worker_that_left_is_not_counted(client: FlaskClient, worker: Worker) -> None:
    worker.register_birth()
    worker.register_death()

    assert client.get("/readyz").status_code == 503


def test_looking_at_workers_leaves_the_apis_timeouts_alone(
    app: Flask, client: FlaskClient, worker: Worker
) -> None:
    worker.register_birth()

    client.get("/readyz")

    context: Context = app.extensions["slalom"]
    options = context.connection.connection_pool.connection_kwargs
    assert options["socket_timeout"] == connections.COMMAND_TIMEOUT_S


def test_the_models_are_those_that_workers_announced(
    client: FlaskClient, connection: Redis
) -> None:
    before = client.get("/v1/models").get_json()
    models.announce(connection, ModelView("adder", 256, "sim", 1_763_700_000.5))

    after = client.get("/v1/models").get_json()

    assert before == {"object": "list", "data": []}
    assert after["data"] == [
        {
            "id": "adder",
            "object": "model",
            "created": 1_763_700_000,
            "owned_by": "slalom",
            "max_model_len": 256,
        }
    ]


def test_the_openai_sdk_reads_our_models_and_our_problems(app: Flask, connection: Redis) -> None:
    models.announce(connection, ModelView("adder", 256, "sim", 1.0))
    transport = httpx2.WSGITransport(app=app)
    with OpenAI(
        base_url="http://slalom.test/v1",
        api_key="any",
        http_client=httpx2.Client(transport=transport),
    ) as sdk:
        names = [model.id for model in sdk.models.list()]
        with pytest.raises(APIStatusError) as error:
            sdk.post("/jobs", body={"prompt": "1", "tier": "gold"}, cast_to=object)

    assert names == ["adder"]
    assert (error.value.status_code, error.value.code) == (422, "invalid_request")
