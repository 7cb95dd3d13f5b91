"""Dead letters over HTTP: found, looked at, replayed, purged, and what is refused."""

from collections.abc import Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient
from redis import Redis

from api import dead_letters
from api.app import create_app
from config.settings import Settings
from scheduler import dead_letter_pages, keys
from scheduler.submit import Submitter
from tests.integration.test_api_jobs import problem
from tests.integration.test_claim import REQUEST, submit
from tests.integration.test_dead_letters import park, waiting

URL = "/v1/dead-letters"


@pytest.fixture
def client(settings: Settings) -> Iterator[FlaskClient]:
    app = create_app(settings)
    yield app.test_client()
    app.extensions["on_stop"]()


def listed(client: FlaskClient, **query: Any) -> list[str]:
    """Return the ids of one page."""
    response = client.get(URL, query_string=query)
    assert response.status_code == 200, response.text
    return [letter["id"] for letter in response.get_json()["data"]]


def test_a_list_has_the_cause_of_each_and_no_prompt(
    client: FlaskClient, submitter: Submitter
) -> None:
    [job_id] = park(submitter)

    response = client.get(URL)

    body = response.get_json()
    [letter] = body["data"]
    assert (body["object"], body["next_cursor"]) == ("list", None)
    assert letter.pop("ended_at")
    assert letter == {
        "id": job_id,
        "object": "dead_letter",
        "tier": "batch",
        "queue": "low",
        "cause": "timeout",
        "message": "it ended with timeout",
        "attempts": 1,
        "worker_deaths": 0,
        "url": f"{URL}/{job_id}",
    }
    assert str(REQUEST["body"]["prompt"]) not in response.text


def test_a_list_is_filtered_by_each_parameter(client: FlaskClient, submitter: Submitter) -> None:
    [high], [low] = park(submitter, "premium"), park(submitter, code="job_failed", age_s=1200)

    assert listed(client) == [high, low]
    assert listed(client, queue="high") == [high]
    assert listed(client, tier="batch") == [low]
    assert listed(client, cause="timeout") == [high]
    assert listed(client, older_than_s="600") == [low]
    assert listed(client, newer_than_s=600.5) == [high]


def test_pages_follow_one_another(client: FlaskClient, submitter: Submitter) -> None:
    parked = park(submitter, "batch", 5) + park(submitter, "premium", 4)
    seen: list[str] = []
    query: dict[str, Any] = {"limit": 2}

    while True:
        body = client.get(URL, query_string=query).get_json()
        seen += [letter["id"] for letter in body["data"]]
        if body["next_cursor"] is None:
            break
        query["cursor"] = body["next_cursor"]

    assert sorted(seen) == sorted(parked)


@pytest.mark.parametrize(
    ("query", "fields"),
    [
        ("colour=red&age=1", ["colour", "age"]),
        ("limit=0", ["limit"]),
        ("limit=201", ["limit"]),
        ("limit=many", ["limit"]),
        ("older_than_s=-1", ["older_than_s"]),
        ("newer_than_s=nan", ["newer_than_s"]),
        ("queue=none", ["queue"]),
        ("queue=", ["queue"]),
        ("tier=a&tier=b", ["tier"]),
        ("cursor=x", ["cursor"]),
        ("queue=high&cursor=WyJsb3ciLCIxIiwieCJd", ["cursor"]),
        ("all=true", ["all"]),
    ],
)
def test_a_query_that_is_wrong_is_refused_by_name(
    client: FlaskClient, query: str, fields: list[str]
) -> None:
    body = problem(client.get(f"{URL}?{query}"), 422, "invalid_request")

    assert [error["field"] for error in body["errors"]] == fields


def test_one_is_shown_as_the_whole_job(client: FlaskClient, submitter: Submitter) -> None:
    [job_id] = park(submitter)

    response = client.get(f"{URL}/{job_id}")

    assert response.status_code == 200
    assert response.get_json() == client.get(f"/v1/jobs/{job_id}").get_json()
    assert response.get_json()["error"]["code"] == "timeout"


def test_a_replayed_one_is_accepted_again(
    client: FlaskClient, submitter: Submitter, connection: Redis
) -> None:
    [job_id] = park(submitter)

    response = client.post(f"{URL}/{job_id}/replay")
    again = client.post(f"{URL}/{job_id}/replay")

    body = response.get_json()
    assert (response.status_code, body["status"], body["error"]) == (202, "queued", None)
    assert response.headers["Location"] == body["status_url"] == f"/v1/jobs/{job_id}"
    assert "queued" in problem(again, 409, "not_dead_letter")["detail"]
    assert waiting(connection) == [job_id]


def test_many_are_replayed_by_filter_after_a_dry_run(
    client: FlaskClient, submitter: Submitter, connection: Redis
) -> None:
    park(submitter, "premium", 2)
    batch = park(submitter, "batch", 3)

    counted = client.post(f"{URL}/replay", json={"tier": "batch", "dry_run": True})
    replayed = client.post(f"{URL}/replay", json={"tier": "batch"})

    sums = {"scanned": 5, "matched": 3, "next_cursor": None}
    assert counted.get_json() == {**sums, "replayed": 0, "dry_run": True}
    assert replayed.get_json() == {**sums, "replayed": 3, "dry_run": False}
    assert sorted(waiting(connection)) == sorted(batch)
    assert waiting(connection, "high") == []


def test_a_request_does_a_bounded_part_of_much_and_says_where_to_go_on(
    client: FlaskClient, submitter: Submitter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "MOST_SCANNED", 4)
    monkeypatch.setattr(dead_letter_pages, "MOST_SCANNED", 2)
    park(submitter, "batch", 6)

    first = client.post(f"{URL}/replay", json={"all": True}).get_json()
    rest = client.post(
        f"{URL}/replay", json={"all": True, "cursor": first["next_cursor"]}
    ).get_json()

    assert (first["replayed"], rest["replayed"]) == (4, 2)


def test_one_is_purged(client: FlaskClient, submitter: Submitter, connection: Redis) -> None:
    [job_id] = park(submitter)

    response = client.delete(f"{URL}/{job_id}")

    assert (response.status_code, response.text) == (204, "")
    assert connection.exists(f"rq:job:{job_id}", keys.failed("low")) == 0
    problem(client.delete(f"{URL}/{job_id}"), 404, "job_not_found")


def test_many_are_purged_by_filter_and_all_only_where_it_is_said(
    client: FlaskClient, submitter: Submitter
) -> None:
    [premium] = park(submitter, "premium")
    park(submitter, "batch", 3)

    counted = client.delete(f"{URL}?dry_run=true").get_json()
    by_filter = client.delete(f"{URL}?cause=timeout&queue=low").get_json()
    left = listed(client)
    refused = problem(client.delete(URL), 422, "invalid_request")
    everything = client.delete(f"{URL}?all=true").get_json()

    assert (counted["matched"], counted["purged"]) == (4, 0)
    assert (by_filter["purged"], left) == (3, [premium])
    assert refused["errors"][0]["field"] == "all"
    assert everything["purged"] == 1


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "all"),
        ({"all": False}, "all"),
        ({"queue": "none"}, "queue"),
        ({"older_than_s": "60", "all": True}, "older_than_s"),
        ({"dry_run": "true"}, "dry_run"),
        ({"limit": 5}, "limit"),
        ({"all": True, "cursor": "x"}, "cursor"),
        ([], "body"),
    ],
)
def test_a_bulk_replay_that_is_not_clear_is_refused(
    client: FlaskClient, submitter: Submitter, body: object, field: str
) -> None:
    [job_id] = park(submitter)

    response = client.post(f"{URL}/replay", json=body)

    assert problem(response, 422, "invalid_request")["errors"][0]["field"] == field
    assert listed(client) == [job_id]


def test_a_bulk_replay_must_be_json(client: FlaskClient) -> None:
    problem(
        client.post(f"{URL}/replay", data="{", content_type="application/json"),
        400,
        "malformed_json",
    )
    problem(client.post(f"{URL}/replay", data="all=true"), 415, "not_json")


def test_what_is_no_dead_letter_is_told_from_what_is_no_job(
    client: FlaskClient, submitter: Submitter, connection: Redis
) -> None:
    [queued] = submit(submitter, "batch", 1)
    connection.set("rq:job:text", "no hash")
    (pickled,) = park(submitter)
    connection.hset(f"rq:job:{pickled}", "meta", b"\x80")

    problem(client.get(f"{URL}/{queued}"), 404, "job_not_found")
    problem(client.post(f"{URL}/{queued}/replay"), 409, "not_dead_letter")
    problem(client.delete(f"{URL}/{queued}"), 409, "not_dead_letter")
    problem(client.get(f"{URL}/none"), 404, "job_not_found")
    problem(client.post(f"{URL}/none/replay"), 404, "job_not_found")
    problem(client.post(f"{URL}/text/replay"), 500, "job_unreadable")
    problem(client.post(f"{URL}/{pickled}/replay"), 409, "not_requeueable")


def test_without_redis_the_answer_is_to_try_again(settings: Settings) -> None:
    app = create_app(settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"}))
    client = app.test_client()

    problem(client.get(URL), 503, "redis_unavailable")
    problem(client.post(f"{URL}/any/replay"), 503, "redis_unavailable")
    problem(client.delete(f"{URL}?all=true"), 503, "redis_unavailable")
