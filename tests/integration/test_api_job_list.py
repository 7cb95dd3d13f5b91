"""The list of a tenant's jobs: latest first, in pages, filtered, each page of bounded work."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from redis import Redis
from rq import Queue
from rq.job import Job, JobStatus
from rq.results import Result
from rq.serializers import JSONSerializer

from api.app import create_app
from config.settings import Settings
from scheduler import job_pages, keys
from scheduler.claim import Claims
from scheduler.expiry import expire
from scheduler.maintenance import Maintenance
from scheduler.submit import Submitter

SECRET = "the-secret-prompt"


@pytest.fixture
def client(settings: Settings) -> Iterator[FlaskClient]:
    app: Flask = create_app(settings)
    yield app.test_client()
    app.extensions["on_stop"]()


def submit(client: FlaskClient, **fields: Any) -> str:
    job_id: str = client.post("/v1/jobs", json={"prompt": SECRET, **fields}).get_json()["id"]
    return job_id


def page(client: FlaskClient, **query: Any) -> dict[str, Any]:
    response = client.get("/v1/jobs", query_string=query)
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.get_json()
    return body


def listed(client: FlaskClient, **query: Any) -> list[str]:
    """Return the ids of all pages."""
    found = list[str]()
    while True:
        body = page(client, **query)
        found += [job["id"] for job in body["data"]]
        if body["next_cursor"] is None:
            return found
        query["cursor"] = body["next_cursor"]


def test_jobs_are_listed_latest_first_without_their_prompts(client: FlaskClient) -> None:
    first, second = submit(client), submit(client, tier="premium", metadata={"k": "v"})

    body = page(client)

    assert body["next_cursor"] is None
    assert [job["id"] for job in body["data"]] == [second, first]
    job = body["data"][0]
    whole = client.get(job["status_url"]).get_json()
    assert (job["tier"], job["queue"], job["metadata"]) == ("premium", "high", {"k": "v"})
    assert {name: whole[name] for name in job} == job
    assert SECRET not in str(body)


def test_pages_follow_one_another(client: FlaskClient) -> None:
    ids = [submit(client) for _ in range(7)]

    sizes, found, cursor = [], list[str](), None
    while True:
        body = page(client, limit=3, **({"cursor": cursor} if cursor else {}))
        sizes.append(len(body["data"]))
        found += [job["id"] for job in body["data"]]
        if (cursor := body["next_cursor"]) is None:
            break

    assert found == ids[::-1]
    assert sizes == [3, 3, 1]


def test_a_cursor_stays_a_place_whatever_comes_and_goes(
    client: FlaskClient, connection: Redis
) -> None:
    ids = [submit(client) for _ in range(6)]
    cursor = page(client, limit=3)["next_cursor"]

    submit(client)
    connection.delete(f"rq:job:{ids[3]}", f"rq:job:{ids[4]}", f"rq:job:{ids[1]}")
    listed(client)  # drops them from the list

    assert listed(client, cursor=cursor) == [ids[2], ids[0]]


def test_jobs_of_one_instant_are_each_listed_once(client: FlaskClient, connection: Redis) -> None:
    ids = [submit(client) for _ in range(9)]
    connection.zadd(keys.jobs("default"), dict.fromkeys(ids, 1_800_000_000.25))

    found = listed(client, limit=2)
    cursor = page(client, limit=4)["next_cursor"]
    connection.zrem(keys.jobs("default"), found[3])

    assert found == sorted(ids, reverse=True)
    assert listed(client, limit=2, cursor=cursor) == found[4:]


def test_filters(client: FlaskClient, connection: Redis) -> None:
    plain = submit(client)
    marked = submit(client, metadata={"customer": "a=b", "other": "x"})
    high = submit(client, tier="premium", metadata={"customer": "c"})
    canceled = submit(client, tier="batch")
    client.delete(f"/v1/jobs/{canceled}")
    [claim] = Claims(connection, "worker", ["high"], lease_s=30).take(1)
    assert claim.job.id == high

    assert listed(client, status="queued") == [marked, plain]
    assert listed(client, status="running") == [high]
    assert listed(client, status="canceled") == [canceled]
    assert listed(client, tier="batch") == [canceled]
    assert listed(client, queue="high") == [high]
    assert listed(client, metadata="customer=a=b") == [marked]
    assert listed(client, metadata="customer=") == []
    assert listed(client, queue="low", status="queued", metadata="other=x") == [marked]


def test_failed_and_expired_are_told_apart(client: FlaskClient, connection: Redis) -> None:
    failed, expired = submit(client, metadata={"n": "1"}), submit(client)
    job = Job.fetch(failed, connection, JSONSerializer)
    job.set_status(JobStatus.FAILED)
    Result.create_failure(job, ttl=600, exc_string=f"ValueError: {'x' * 5000}")
    connection.hset(f"rq:job:{expired}", "finish_by", 1)
    connection.zadd(keys.deadlines("low"), {expired: 1})
    expire(connection, "low")

    [first] = page(client, status="failed")["data"]
    [second] = page(client, status="expired")["data"]

    assert (first["id"], second["id"]) == (failed, expired)
    assert first["error"]["code"] == "job_failed"
    assert len(first["error"]["message"]) <= 500
    assert second["error"]["code"] == "expired"
    assert second["finished_at"]


def test_jobs_are_found_by_when_they_were_created(client: FlaskClient) -> None:
    ids = [submit(client) for _ in range(4)]
    created = [client.get(f"/v1/jobs/{job_id}").get_json()["created_at"] for job_id in ids]
    elsewhere = datetime.fromisoformat(created[2]).astimezone(UTC) + timedelta(hours=2)
    shifted = f"{elsewhere:%Y-%m-%dT%H:%M:%S.%f}+02:00"

    assert listed(client, created_before=created[2]) == [ids[1], ids[0]]
    assert listed(client, created_after=created[2]) == [ids[3], ids[2]]
    assert listed(client, created_after=created[1], created_before=shifted, limit=1) == [ids[1]]


def test_a_page_looks_at_no_more_than_it_may(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_pages, "MOST_SCANNED", 3)
    monkeypatch.setattr(job_pages, "STEP", 2)
    wanted = submit(client, tier="batch")
    for _ in range(7):
        submit(client)

    first = page(client, tier="batch")

    assert first["data"] == []
    assert first["next_cursor"]
    assert listed(client, tier="batch") == [wanted]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("limit=1&limit=2", "limit"),
        ("status=done", "status"),
        ("tier=gold", "tier"),
        ("queue=middle", "queue"),
        ("metadata=no-pair", "metadata"),
        ("created_after=2026-11-21", "created_after"),
        ("created_before=2026-11-21T10:00:00", "created_before"),
        ("created_before=1763719200", "created_before"),
        ("cursor=x", "cursor"),
        ("cursor=WyJuYW4iLCAiIl0", "cursor"),
        ("more=1", "more"),
    ],
)
def test_what_a_query_gets_wrong_is_named(client: FlaskClient, query: str, field: str) -> None:
    response = client.get(f"/v1/jobs?{query}")

    assert response.status_code == 422
    assert [error["field"] for error in response.get_json()["errors"]] == [field]


def test_a_tenant_sees_its_own_jobs_only(client: FlaskClient, submitter: Submitter) -> None:
    own = submit(client)
    request: Any = {"endpoint": "/v1/completions", "body": {"model": "adder", "prompt": "1"}}
    submitter.submit(request, tier="standard", tenant="another")

    assert listed(client) == [own]


def test_damaged_records_spoil_no_page(client: FlaskClient, connection: Redis) -> None:
    ids = [submit(client) for _ in range(5)]
    connection.hset(f"rq:job:{ids[0]}", "status", "unheard-of")
    connection.hset(f"rq:job:{ids[1]}", "meta", "[1]")
    connection.hset(f"rq:job:{ids[2]}", "created_at", "yesterday")
    connection.delete(f"rq:job:{ids[3]}")
    connection.set(f"rq:job:{ids[3]}", "no hash")

    assert listed(client) == [ids[4], ids[1]]


def test_a_job_that_plain_rq_enqueued_is_in_no_list(client: FlaskClient, connection: Redis) -> None:
    Queue("low", connection=connection, serializer=JSONSerializer).enqueue("math.sqrt", 4)

    assert listed(client) == []


def test_maintenance_drops_what_is_gone_and_forgets_empty_lists(
    client: FlaskClient,
    connection: Redis,
    submitter: Submitter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(job_pages, "TRIM_STEP", 10)
    kept = submit(client)
    request: Any = {"endpoint": "/v1/completions", "body": {"model": "adder", "prompt": "1"}}
    gone = [submitter.submit(request, tier="standard", tenant="default") for _ in range(600)]
    gone += [submitter.submit(request, tier="standard", tenant="another") for _ in range(3)]
    connection.delete(*(job.key for job in gone))

    Maintenance(connection, ["high", "low"], max_deliveries=3, lease_s=30).upkeep()

    assert connection.zrange(keys.jobs("default"), 0, -1) == [kept.encode()]
    assert not connection.exists(keys.jobs("another"))
    assert connection.smembers(keys.LISTED) == {b"default"}
