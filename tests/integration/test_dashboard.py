"""RQ's dashboard on JSON jobs: every page works, only the right people change something."""

import json
from base64 import b64encode
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from flask.testing import FlaskClient
from pydantic import SecretStr
from redis import Redis
from rq import Queue
from rq.job import Job, JobStatus
from rq.results import Result
from rq.serializers import JSONSerializer
from rq.worker import Worker

from api import dashboard_views
from api.dashboard import create_app
from config import connections
from config.settings import Settings
from scheduler import finish
from scheduler.claim import Claims
from scheduler.submit import Submitter

ATTACK = "<img src=x onerror=alert(1)>"
OURS = {"Origin": "http://localhost"}
CHANGES = [
    "/requeue/low",
    "/queue/low/compact",
    "/queue/low/queued/empty",
    "/job/any/requeue",
    "/job/any/delete",
]


@pytest.fixture
def client(settings: Settings) -> FlaskClient:
    return create_app(settings).test_client()


@pytest.fixture
def guarded(settings: Settings) -> FlaskClient:
    changes = {"dashboard_password": SecretStr("päss"), "dashboard_user": "ops"}
    return create_app(settings.model_copy(update=changes)).test_client()


@pytest.fixture
def queue(connection: Redis) -> Queue:
    return Queue("low", connection=connection, serializer=JSONSerializer)


@pytest.fixture
def claims(connection: Redis) -> Claims:
    return Claims(connection, "worker", ["low"], lease_s=30)


@pytest.fixture
def worker(redis_url: str) -> Iterator[Worker]:
    with connections.listener(redis_url) as listener:
        worker = Worker(["low"], name="worker", connection=listener, serializer=JSONSerializer)
        worker.register_birth()
        yield worker


def submit(submitter: Submitter, text: str = "1+1=") -> Job:
    request: Any = {"endpoint": "/v1/completions", "body": {"model": "adder", "prompt": text}}
    return submitter.submit(request, tier="standard", metadata={"note": ATTACK})


def fail(job: Job) -> None:
    """Make `job` a dead letter."""
    job.connection.lrem("rq:queue:low", 0, job.id)
    job.set_status(JobStatus.FAILED)
    job.failed_job_registry.add(job, ttl=60)
    Result.create_failure(job, ttl=60, exc_string="WorkerDied")


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}"}


def data(client: FlaskClient, path: str) -> dict[str, Any]:
    response = client.get(path)
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.get_json()
    return body


def status_of(client: FlaskClient, path: str) -> int:
    with client.get(path, follow_redirects=True) as response:
        return response.status_code


def test_every_page_works_while_jobs_wait_run_and_have_ended(
    client: FlaskClient, submitter: Submitter, claims: Claims, worker: Worker
) -> None:
    done, running, failed, waiting = (submit(submitter) for _ in range(4))
    [first, _] = claims.take(2)
    success = finish.Success(first, {"choices": []}, datetime.now(UTC), result_ttl=60)
    finish.write(claims.connection, "worker", [success])
    fail(failed)
    paths = [f"/0/view/job/{job.id}" for job in (done, running, failed, waiting)]
    paths += ["/", "/0/view/queues", "/0/view/workers", "/0/view/jobs/low/failed/8/asc/1"]
    paths += ["/static/css/main.css", "/static/favicon.ico"]

    pages = [status_of(client, path) for path in paths]
    [low] = [q for q in data(client, "/0/data/queues.json")["queues"] if q["name"] == "low"]
    [busy] = data(client, "/0/data/workers.json")["workers"]
    lists = {
        registry: [
            job["id"] for job in data(client, f"/0/data/jobs/low/{registry}/8/dsc/1.json")["jobs"]
        ]
        for registry in ("queued", "started", "finished", "failed", "canceled")
    }

    assert set(pages) == {200}
    assert (low["count"], low["failed_job_registry_count"]) == (1, 1)
    assert (busy["state"], busy["current_job"]["job_id"]) == ("busy", running.id)
    assert lists == {
        "queued": [waiting.id],
        "started": [running.id],
        "finished": [done.id],
        "failed": [failed.id],
        "canceled": [],
    }
    assert data(client, f"/0/data/job/{done.id}.json")["result"] == {"choices": []}
    assert data(client, f"/0/data/job/{failed.id}.json")["exc_info"] == "WorkerDied"


def test_what_callers_and_models_wrote_reaches_the_page_as_text(
    client: FlaskClient, submitter: Submitter, claims: Claims, worker: Worker
) -> None:
    submit(submitter, text=ATTACK)
    [claim] = claims.take(1)
    claim.job.description = ATTACK
    claim.job.save()
    workers = client.get("/0/data/workers.json").get_json()["workers"]
    response = {"choices": [{"text": ATTACK}], ATTACK: 1}
    success = finish.Success(claim, response, datetime.now(UTC), result_ttl=60)
    finish.write(claims.connection, "worker", [success])

    page = client.get(f"/0/data/job/{claim.job.id}.json")

    assert ATTACK not in page.text
    assert page.get_json()["result"]["choices"][0]["text"] == "&lt;img src=x onerror=alert(1)&gt;"
    assert "<" not in workers[0]["current_job"]["call_string"]


def test_pages_run_no_script_but_their_own(client: FlaskClient) -> None:
    page = client.get("/")
    other = client.get("/")

    policy = page.headers["Content-Security-Policy"]
    nonce = policy.partition("'nonce-")[2].partition("'")[0]
    assert f'<script nonce="{nonce}" type="text/javascript">' in page.text
    assert '<script type="text/javascript">' not in page.text
    assert "'unsafe-inline'" not in policy.partition("script-src")[2].partition(";")[0]
    assert nonce not in other.text
    assert page.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    "path",
    [
        "/0/view/jobs/');alert(1);('/failed/8/asc/1",
        "/0/view/jobs/<script>/failed/8/asc/1",
        "/0/view/jobs/low/nowhere/8/asc/1",
        "/0/data/jobs/low/nowhere/8/asc/1.json",
        "/0/data/jobs/low/failed/x/asc/1.json",
        "/0/data/jobs/low/failed/0/asc/1.json",
        "/0/data/jobs/low/failed/8/asc/-1.json",
        "/0/data/jobs/low/failed/8/up/1.json",
        "/1/data/queues.json",
        "/0/view/job/none",
        "/0/data/job/none.json",
        "/no/such/page",
    ],
)
def test_a_path_that_names_nothing_is_not_found(client: FlaskClient, path: str) -> None:
    response = client.get(path)

    assert (response.status_code, response.mimetype) == (404, "application/problem+json")


def test_a_requeued_job_keeps_its_meta_and_runs_again(
    client: FlaskClient, submitter: Submitter, claims: Claims
) -> None:
    job = submit(submitter)
    fail(job)
    stale = {"worker_deaths": 3, "stop_requested": 1}
    claims.connection.hset(job.key, mapping=stale)
    before = claims.connection.hget(job.key, "meta")

    response = client.post(f"/job/{job.id}/requeue", headers=OURS)

    [claim] = claims.take(1)
    assert (response.status_code, response.get_json()) == (200, {"status": "OK"})
    assert json.loads(claims.connection.hget(job.key, "meta")) == json.loads(before)
    assert claims.connection.hmget(job.key, list(stale)) == [None, None]
    assert claim.job.args == list(job.args)


def test_all_failed_jobs_can_be_requeued_at_once(
    client: FlaskClient, submitter: Submitter, claims: Claims
) -> None:
    for job in (submit(submitter), submit(submitter)):
        fail(job)

    response = client.post("/requeue/low", headers=OURS)

    assert response.get_json() == {"status": "OK", "count": 2}
    assert [claim.job.meta["tier"] for claim in claims.take(5)] == ["standard", "standard"]


def test_only_a_failed_job_can_be_requeued(client: FlaskClient, submitter: Submitter) -> None:
    job = submit(submitter)

    response = client.post(f"/job/{job.id}/requeue", headers=OURS)
    unknown = client.post("/job/none/requeue", headers=OURS)

    assert (response.status_code, response.get_json()["error"]["code"]) == (409, "not_requeueable")
    assert unknown.status_code == 404


def test_a_pickled_job_is_shown_and_never_rewritten(client: FlaskClient, connection: Redis) -> None:
    job = Queue("low", connection=connection).enqueue("math.sqrt", 4, meta={"a": 1})
    fail(job)
    before = connection.hgetall(job.key)

    response = client.post(f"/job/{job.id}/requeue", headers=OURS)

    assert response.status_code == 409
    assert connection.hgetall(job.key) == before
    assert data(client, "/0/data/jobs/low/failed/8/asc/1.json")["jobs"][0]["id"] == job.id
    assert data(client, f"/0/data/job/{job.id}.json")["metadata"] == "{}"


def test_compacting_drops_dead_ids_and_nothing_else(
    client: FlaskClient, submitter: Submitter, connection: Redis
) -> None:
    empty = client.post("/queue/high/compact", headers=OURS)
    first, dead, last = submit(submitter), submit(submitter), submit(submitter)
    connection.delete(dead.key)

    response = client.post("/queue/low/compact", headers=OURS)

    assert (empty.status_code, response.status_code) == (200, 200)
    assert connection.lrange("rq:queue:low", 0, -1) == [first.id.encode(), last.id.encode()]


def test_a_worker_whose_job_is_gone_is_shown_as_idle(client: FlaskClient, worker: Worker) -> None:
    worker.set_current_job_id("gone")

    [shown] = data(client, "/0/data/workers.json")["workers"]

    assert shown["current_job"] == "idle"


@pytest.mark.parametrize("path", CHANGES)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_looking_changes_nothing(client: FlaskClient, method: str, path: str) -> None:
    response = client.open(path, method=method)

    assert response.status_code == 405
    assert "POST" in response.headers["Allow"]


@pytest.mark.parametrize("path", CHANGES)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "http://elsewhere.test"},
        {"Origin": "null"},
        {"Origin": "http://localhost:1"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_a_page_elsewhere_changes_nothing(
    client: FlaskClient, submitter: Submitter, path: str, headers: dict[str, str]
) -> None:
    job = submit(submitter)

    response = client.post(path.replace("any", job.id), headers=headers)

    assert response.status_code == 403
    assert job.get_status() == JobStatus.QUEUED


def test_a_browser_may_prove_where_it_is_by_fetch_metadata(client: FlaskClient) -> None:
    response = client.post("/queue/low/compact", headers={"Sec-Fetch-Site": "same-origin"})

    assert response.status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        basic("ops", "wrong"),
        basic("root", "päss"),
        basic("", ""),
        {"Authorization": "Bearer päss".encode().decode("latin-1")},
        {"Authorization": "Basic !"},
    ],
)
@pytest.mark.parametrize("path", ["/", "/0/data/queues.json", "/static/css/main.css", "/nowhere"])
def test_with_a_password_nothing_is_shown_without_it(
    guarded: FlaskClient, path: str, headers: dict[str, str]
) -> None:
    response = guarded.get(path, headers=headers)

    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"].startswith("Basic ")


def test_with_the_password_it_opens_from_anywhere(guarded: FlaskClient) -> None:
    response = guarded.get(
        "/",
        headers={**basic("ops", "päss"), "Host": "slalom.example"},
        environ_base={"REMOTE_ADDR": "203.0.113.9"},
    )

    assert response.status_code == 200


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("localhost:9181", "203.0.113.9"),
        ("localhost:9181", ""),
        ("rebound.example:9181", "127.0.0.1"),
        ("127.0.0.1.example", "127.0.0.1"),
    ],
)
def test_without_a_password_only_this_machine_is_served(
    client: FlaskClient, host: str, address: str
) -> None:
    response = client.get("/", headers={"Host": host}, environ_base={"REMOTE_ADDR": address})

    assert response.status_code == 403
    assert "SLALOM_DASHBOARD_PASSWORD" in response.get_json()["detail"]


@pytest.mark.parametrize("host", ["localhost:9181", "127.0.0.1:9181", "[::1]:9181"])
def test_this_machines_own_names_are_served(client: FlaskClient, host: str) -> None:
    assert client.get("/", headers={"Host": host}).status_code == 200


def test_requests_share_one_client_and_leave_its_timeouts_alone(
    client: FlaskClient, connection: Redis, worker: Worker
) -> None:
    before = connection.info("stats")["total_connections_received"]
    for _ in range(20):
        client.get("/0/data/workers.json")
        client.get("/0/data/queues.json")

    shared: Redis = client.application.extensions[dashboard_views.CONNECTION]
    assert connection.info("stats")["total_connections_received"] <= before + 1
    assert shared.connection_pool.connection_kwargs["socket_timeout"] == 3.0


def test_without_redis_it_says_so(settings: Settings) -> None:
    nowhere = settings.model_copy(update={"redis_url": "redis://user:secret@127.0.0.1:1/0"})
    client = create_app(nowhere).test_client()

    response = client.get("/0/data/queues.json")

    assert (response.status_code, response.mimetype) == (503, "application/problem+json")
    assert "secret" not in response.text + client.get("/").text
