"""Batches over HTTP: created, shown, listed, cancelled."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from flask.testing import FlaskClient
from redis import Redis

from api.app import create_app
from config.settings import Settings
from scheduler import batches, files, keys
from tests.batch_life import (
    COMPLETIONS,
    Desk,
    QuickWorker,
    assert_each_once,
    carry_on,
    jsonl,
    line,
    parsed,
    work_off,
)
from tests.integration.test_files import error, stored, with_tenants

pytestmark = pytest.mark.usefixtures("always_looks")


@pytest.fixture
def client(settings: Settings) -> Iterator[FlaskClient]:
    app = with_tenants(create_app(settings))
    yield app.test_client()
    app.extensions["on_stop"]()


def create(client: FlaskClient, content: bytes = b"{}", **fields: Any) -> dict[str, Any]:
    order = {
        "input_file_id": stored(client, content)["id"],
        "endpoint": COMPLETIONS,
        "completion_window": "24h",
        **fields,
    }
    response = client.post("/v1/batches", json=order)
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.get_json()
    return body


def test_a_new_batch_says_what_was_asked_for(client: FlaskClient, connection: Redis) -> None:
    batch = create(client, metadata={"k": "v"}, completion_window="90m", service_tier="default")

    assert batch["id"].startswith("batch_")
    assert (batch["object"], batch["status"]) == ("batch", "validating")
    assert batch["expires_at"] - batch["created_at"] == 5_400
    assert (batch["metadata"], batch["service_tier"]) == ({"k": "v"}, "default")
    assert batch["output_file_id"] is batch["error_file_id"] is batch["errors"] is None
    assert batch["request_counts"] == {"total": 0, "completed": 0, "failed": 0}
    assert client.get(f"/v1/batches/{batch['id']}").get_json() == batch
    assert connection.zscore(keys.BATCHES, batch["id"])


def test_the_input_is_kept_for_as_long_as_the_batch_may_take(
    client: FlaskClient, connection: Redis
) -> None:
    short = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    source = stored(client, b"{}", **short)
    order = {"input_file_id": source["id"], "endpoint": COMPLETIONS, "completion_window": "7d"}

    batch = client.post("/v1/batches", json=order).get_json()

    kept = client.get(f"/v1/files/{source['id']}").get_json()
    assert kept["expires_at"] == batch["expires_at"] + batches.KEPT_LONGER_S
    piece = keys.piece(source["id"], 0)
    assert connection.expiretime(piece) == kept["expires_at"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("completion_window", "24"),
        ("completion_window", "0h"),
        ("completion_window", "31d"),
        ("endpoint", "/v1/moderations"),
        ("input_file_id", "file-none"),
        ("input_file_id", 7),
        ("service_tier", "gold"),
        ("metadata", {"k": 1}),
        ("output_expires_after", {"anchor": "created_at", "seconds": 5}),
        ("unknown", 1),
    ],
)
def test_an_order_that_breaks_the_rules_names_the_field(
    client: FlaskClient, connection: Redis, field: str, value: object
) -> None:
    order = {
        "input_file_id": stored(client)["id"],
        "endpoint": COMPLETIONS,
        "completion_window": "24h",
        field: value,
    }

    found = error(client.post("/v1/batches", json=order), 400, "invalid_request")

    assert str(found["param"]).startswith(field)
    assert connection.zcard(keys.BATCHES) == 0


def test_results_are_no_input(client: FlaskClient, desk: Desk, quick: QuickWorker) -> None:
    batch_id = desk.create(jsonl([line("a")]))
    work_off(desk, batch_id, quick)
    output = desk.batch(batch_id).progress.output.file_id
    order = {"input_file_id": output, "endpoint": COMPLETIONS, "completion_window": "24h"}

    found = error(client.post("/v1/batches", json=order), 400, "invalid_request")

    assert found["param"] == "input_file_id"


def test_a_batch_of_another_tenant_is_not_there(client: FlaskClient) -> None:
    batch, they = create(client), {"X-Tenant": "they"}

    for method, path in (("GET", ""), ("POST", "/cancel")):
        response = client.open(f"/v1/batches/{batch['id']}{path}", method=method, headers=they)
        error(response, 404, "batch_not_found")
    assert client.get("/v1/batches", headers=they).get_json()["data"] == []
    order = {k: batch[k] for k in ("input_file_id", "endpoint", "completion_window")}
    error(client.post("/v1/batches", json=order, headers=they), 400, "invalid_request")
    assert client.get(f"/v1/batches/{batch['id']}").get_json()["status"] == "validating"


def test_pages_go_through_all_batches_newest_first(client: FlaskClient) -> None:
    ids = [create(client)["id"] for _ in range(5)]

    first = client.get("/v1/batches?limit=3").get_json()
    second = client.get(f"/v1/batches?limit=3&after={first['last_id']}").get_json()

    assert [b["id"] for b in [*first["data"], *second["data"]]] == ids[::-1]
    assert (first["has_more"], second["has_more"]) == (True, False)
    found = error(client.get("/v1/batches?after=none"), 400, "invalid_request")
    assert found["param"] == "after"


def test_cancelling_twice_is_once_and_too_late_is_a_conflict(
    client: FlaskClient, desk: Desk
) -> None:
    batch = create(client, jsonl([line("a")]))
    url = f"/v1/batches/{batch['id']}/cancel"

    bodies = [client.post(url).get_json() for _ in range(2)]
    assert [body["status"] for body in bodies] == ["cancelling"] * 2
    assert bodies[0]["cancelling_at"]
    carry_on(desk, batch["id"], lambda: None)
    assert client.post(url).get_json()["status"] == "cancelled"

    empty = create(client, b"")
    carry_on(desk, empty["id"], lambda: None)
    response = client.post(f"/v1/batches/{empty['id']}/cancel")
    error(response, 409, "batch_ended")
    assert response.headers["x-should-retry"] == "false"


def test_a_key_makes_one_batch_however_often_it_is_sent(client: FlaskClient) -> None:
    source = stored(client)["id"]
    order = {"input_file_id": source, "endpoint": COMPLETIONS, "completion_window": "24h"}
    key = {"Idempotency-Key": "order-17"}

    first, again = (client.post("/v1/batches", json=order, headers=key) for _ in range(2))
    other = {**order, "completion_window": "48h"}
    reused = client.post("/v1/batches", json=other, headers=key)
    bad = client.post("/v1/batches", json=order, headers={"Idempotency-Key": "no spaces"})

    assert first.get_json() == again.get_json()
    assert len(client.get("/v1/batches").get_json()["data"]) == 1
    error(reused, 409, "idempotency_key_reused")
    error(bad, 400, "bad_idempotency_key")


def test_no_more_than_so_many_batches_are_in_progress(
    client: FlaskClient, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "MOST_ACTIVE", 1)
    first = create(client, b"")
    order = {k: first[k] for k in ("input_file_id", "endpoint", "completion_window")}

    error(client.post("/v1/batches", json=order), 429, "too_many_stored")
    carry_on(desk, first["id"], lambda: None)

    assert client.post("/v1/batches", json=order).status_code == 200


def test_an_ended_batch_shows_its_files_and_instants(
    client: FlaskClient, desk: Desk, quick: QuickWorker
) -> None:
    batch_id = create(client, jsonl([line("a"), "{"]))["id"]

    work_off(desk, batch_id, quick)

    body = client.get(f"/v1/batches/{batch_id}").get_json()
    assert (body["status"], body["model"]) == ("completed", "adder")
    assert body["request_counts"] == {"total": 2, "completed": 1, "failed": 1}
    assert body["usage"]["total_tokens"] == 5
    instants = [body[f"{name}_at"] for name in ("in_progress", "finalizing", "completed")]
    assert instants == sorted(instants)
    assert body["created_at"] <= instants[0] <= datetime.now(UTC).timestamp()
    output = client.get(f"/v1/files/{body['output_file_id']}/content")
    errors = client.get(f"/v1/files/{body['error_file_id']}/content")
    assert_each_once(["a"], output.data)
    assert len(parsed(errors.data)) == 1
    listed = client.get("/v1/files?purpose=batch_output").get_json()["data"]
    assert {file["id"] for file in listed} == {body["output_file_id"], body["error_file_id"]}
    assert len(output.data) < files.PIECE_BYTES
