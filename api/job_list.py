"""Job list: the jobs of the tenant that asks, latest first.

    GET /v1/jobs   200 a page; `next_cursor` null at the end

Filters are status, tier, queue, metadata, created_after, created_before. A page looks at a bounded
number of jobs, so a filter that few of them pass gives short pages, and empty ones in between.
"""

from dataclasses import dataclass

from flask import Blueprint, Response, request

from api import auth
from api.context import Context
from api.job_list_schemas import JobList, JobQuery, ListedJob
from api.problems import Invalid
from api.route import Answer, Route
from scheduler.job_pages import read_page

ROUTES = (
    Route(
        "GET",
        "/v1/jobs",
        "list_jobs",
        "Jobs",
        "List your jobs, latest first",
        {200: Answer("a page of jobs", JobList)},
        query=JobQuery,
        problems=(Invalid,),
    ),
)


@dataclass(frozen=True, slots=True)
class JobLists:
    """The route that lists jobs."""

    context: Context

    def blueprint(self) -> Blueprint:
        """Return the route."""
        routes = Blueprint("job_list", __name__)
        routes.add_url_rule("/v1/jobs", "list", self.list, methods=["GET"])
        return routes

    def list(self) -> Response:
        """List the caller's jobs."""
        wanted = JobQuery.from_query(request.args, self.context.tiers)
        page = read_page(
            self.context.connection,
            auth.caller().name,
            wanted.filter(),
            cursor=wanted.place(),
            limit=wanted.limit,
        )
        body = JobList(
            data=[ListedJob.of(job) for job in page.jobs],
            next_cursor=str(page.cursor) if page.cursor else None,
        )
        return Response(body.model_dump_json(), mimetype="application/json")
