"""The OpenAPI document: it has every route and no other, and each real answer obeys it."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import schemathesis
from flask import Flask
from flask.testing import FlaskClient
from jsonschema import Draft202012Validator
from redis import Redis
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from api import catalogue
from config.settings import Settings
from scheduler import finish, models
from scheduler.claim import Claims
from scheduler.models import ModelView

RESPONSE = {
    "model": "adder",
    "choices": [{"index": 0, "text": "2", "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6},
}


def references(value: Any) -> Iterator[str]:
    """Yield every `$ref` in the document."""
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from references(part)


def test_the_document_has_every_route_and_no_other(app: Flask, client: FlaskClient) -> None:
    served = {
        (method, re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", str(rule)))
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }

    paths = client.get("/openapi.json").get_json()["paths"]

    described = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    assert described == served
    names = [
        operation["operationId"] for methods in paths.values() for operation in methods.values()
    ]
    assert len(names) == len(set(names)) == len(catalogue.ROUTES)


def test_the_document_is_whole(client: FlaskClient, settings: Settings) -> None:
    document = client.get("/openapi.json").get_json()

    schemas = document["components"]["schemas"]
    assert document["openapi"].startswith("3.1")
    for ref in references(document):
        assert ref.removeprefix("#/components/schemas/") in schemas
    for schema in schemas.values():
        Draft202012Validator.check_schema(schema)
    assert schemas["Tier"]["enum"] == [*settings.tiers().tiers]
    for methods in document["paths"].values():
        for operation in methods.values():
            assert operation["summary"]
            assert {code[0] for code in operation["responses"]} >= {"2", "5"}


def test_what_the_document_says_of_a_request_is_what_is_checked(client: FlaskClient) -> None:
    document = client.get("/openapi.json").get_json()
    job = {"$ref": "#/components/schemas/JobRequest", "components": document["components"]}
    validator = Draft202012Validator(job)

    for body in (
        {"prompt": "1"},
        {"messages": [{"role": "user", "content": "1"}], "prompt": None, "tier": "premium"},
        {"prompt": "1", "stop": ["a", "b"], "metadata": {"k": "v"}},
        {},
        {"prompt": "1", "messages": [{"role": "user", "content": "1"}]},
        {"prompt": ""},
        {"prompt": "1", "tier": "gold"},
        {"prompt": "1", "stop": []},
        {"prompt": "1", "stop": ""},
        {"prompt": "1", "temperature": 2.5},
        {"prompt": "1", "seed": 2**63},
        {"prompt": "1", "metadata": {str(n): "v" for n in range(17)}},
        {"prompt": "1", "metadata": {"k" * 65: "v"}},
        {"prompt": "1", "more": 1},
    ):
        is_accepted = client.post("/v1/jobs", json=body).status_code == 202

        assert validator.is_valid(body) == is_accepted, body


def test_the_answers_of_a_jobs_life_obey_the_document(
    app: Flask, client: FlaskClient, connection: Redis
) -> None:
    schema = schemathesis.openapi.from_wsgi("/openapi.json", app)

    def check(method: str, path: str, status: int, url: str = "", **request: Any) -> Any:
        response = client.open(url or path, method=method, **request)
        assert response.status_code == status, response.text
        schema[path][method].validate_response(response)
        return response.get_json(silent=True)

    models.announce(connection, ModelView("adder", 256, "sim", 1.0))
    check("GET", "/v1/models", 200)
    check("GET", "/readyz", 503)
    waiting = check("POST", "/v1/jobs", 202, json={"prompt": "1", "metadata": {"k": "v"}})
    check("POST", "/v1/jobs:batch", 200, json={"jobs": [{"prompt": "1", "tier": "premium"}, {}]})
    claims = Claims(connection, "worker", ["low"], lease_s=30)
    [claim] = claims.take(1)
    one = "/v1/jobs/{job_id}"
    check("GET", one, 200, waiting["status_url"])
    finish.write(
        connection, "worker", [finish.Success(claim, RESPONSE, datetime.now(UTC), result_ttl=60)]
    )
    assert check("GET", one, 200, waiting["status_url"])["output"]["text"] == "2"
    check("DELETE", one, 409, waiting["status_url"])
    canceled = check("POST", "/v1/jobs", 202, json={"prompt": "1"})
    check("DELETE", one, 200, canceled["status_url"])
    failed = check("POST", "/v1/jobs", 202, json={"prompt": "1"})["id"]
    job = Job.fetch(failed, connection, JSONSerializer)
    job.set_status(JobStatus.FAILED)
    job.failed_job_registry.add(job, ttl=600)
    listed = check("GET", "/v1/jobs", 200)
    assert [job["status"] for job in listed["data"]] == [
        "failed",
        "canceled",
        "queued",
        "succeeded",
    ]
    letters = "/v1/dead-letters"
    check("GET", letters, 200)
    check("GET", f"{letters}/{{job_id}}", 200, f"{letters}/{failed}")
    check("POST", f"{letters}/replay", 200, json={"dry_run": True})
    check("POST", f"{letters}/{{job_id}}/replay", 202, f"{letters}/{failed}/replay")
    check("DELETE", f"{letters}/{{job_id}}", 409, f"{letters}/{failed}")
    check("DELETE", letters, 200, query_string={"all": "true"})
    check("GET", "/docs", 200)
    check("GET", "/docs/{file}", 200, "/docs/start.js")
    check("GET", "/healthz", 200)
