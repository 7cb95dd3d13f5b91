"""Bulk: many jobs in one request, each accepted or refused for itself.

    POST /v1/jobs:batch   200 with an outcome per job, in their order

A job that is refused keeps no other out, and says why in the words that POST /v1/jobs would use.
Those that are accepted are queued in their order, many in one transaction (`Intake.accept_many`).
What is wrong with the list itself refuses all of it.
"""

from dataclasses import dataclass
from http import HTTPStatus

from flask import Blueprint, Response

from api import auth, idempotency
from api.bulk_schemas import Outcomes, RequestList
from api.context import Context
from api.intake import Accepted
from api.jobs import job_body, json_body
from api.order import Order
from api.problems import (
    BadIdempotencyKey,
    BodyTooLarge,
    BrokenBody,
    Invalid,
    MalformedJson,
    NotJson,
    Problem,
)
from api.route import Answer, Route
from api.schemas import JobBody, JobRequest

ROUTES = (
    Route(
        "POST",
        "/v1/jobs:batch",
        "submit_jobs",
        "Jobs",
        "Submit many jobs, each accepted or refused for itself",
        {200: Answer("what became of each job, in their order", Outcomes)},
        takes=RequestList,
        problems=(BadIdempotencyKey, MalformedJson, BrokenBody, BodyTooLarge, NotJson, Invalid),
    ),
)


@dataclass(frozen=True, slots=True)
class Bulk:
    """The route that takes many jobs."""

    context: Context

    def blueprint(self) -> Blueprint:
        """Return the route."""
        routes = Blueprint("bulk", __name__)
        routes.add_url_rule("/v1/jobs:batch", "submit", self.submit, methods=["POST"])
        return routes

    def submit(self) -> Response:
        """Accept those jobs that may come."""
        idempotency.refuse("a list of jobs takes none: send each job with its own to /v1/jobs")
        settings = self.context.settings
        body = json_body(settings.max_batch_body_bytes)
        wanted = RequestList.parse(body, most=settings.max_jobs_at_once)
        entries = [self._order(value) for value in wanted.jobs]
        orders = [entry for entry in entries if isinstance(entry, Order)]
        queued = iter(self.context.intake.accept_many(orders, auth.caller()) if orders else ())
        found = [next(queued) if isinstance(entry, Order) else entry for entry in entries]
        outcomes = Outcomes.of([_shown(outcome) for outcome in found])
        return Response(outcomes.model_dump_json(), HTTPStatus.OK, mimetype="application/json")

    def _order(self, value: object) -> Order | Problem:
        """Return what `value` asks for, or what is wrong with it."""
        try:
            tiers = auth.caller().view(self.context.tiers)
            return JobRequest.of(value, tiers).order(tiers)
        except Problem as problem:
            return problem


def _shown(outcome: Accepted | Problem) -> JobBody | Problem:
    if isinstance(outcome, Accepted):
        return job_body(outcome.job, outcome.expectation)
    return outcome
