"""OpenAI's routes: an application built on OpenAI's SDK points its `base_url` here.

    POST /v1/chat/completions   the answer of the model, streamed where that is asked for
    POST /v1/completions        the same
    POST /v1/embeddings         vectors, of a model that makes them

`service_tier` picks the tier and the answer names the one that served. What the door does not have
to know it passes on as it came: vLLM validates and answers it. Each request is a job like any
other: `x-slalom-job-id` names it, and `Location` is where it can be looked at.
"""

import json
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from flask import Blueprint, Response, request

from api import answers, auth, openai_errors
from api.context import Context
from api.jobs import json_body
from api.openai_requests import OpenAIRequest
from api.openai_schemas import BODIES, PROBLEMS, OpenAIAnswer
from api.openai_stream import ChunkDialect
from api.route import Answer, Header, Route
from api.serving import Serving

HEADERS = (
    Header("x-slalom-job-id", "the job that answers"),
    Header("Location", "where the job can be looked at"),
)
STREAMED = ("/v1/chat/completions", "/v1/completions")
_ENDPOINTS = {
    "/v1/chat/completions": ("create_chat_completion", "Answer a conversation"),
    "/v1/completions": ("create_completion", "Complete a text"),
    "/v1/embeddings": ("create_embedding", "Turn texts into vectors"),
}
ROUTES = tuple(
    Route(
        "POST",
        endpoint,
        name,
        "OpenAI",
        says,
        {200: Answer("the answer; server-sent events of it with `stream`", OpenAIAnswer, HEADERS)},
        takes=BODIES[endpoint],
        problems=PROBLEMS,
        is_openai=True,
    )
    for endpoint, (name, says) in _ENDPOINTS.items()
)


@dataclass(frozen=True, slots=True)
class OpenAIRoutes:
    """The routes that answer with what a model made."""

    context: Context

    def blueprint(self) -> Blueprint:
        """Return the routes."""
        routes = Blueprint("openai", __name__)
        openai_errors.register(routes)
        for route in ROUTES:
            routes.add_url_rule(route.path, route.name, self.serve, methods=[route.method])
        return routes

    def serve(self) -> Response:
        """Serve a request to the endpoint that it names."""
        settings, tiers = self.context.settings, self.context.tiers
        wanted = OpenAIRequest.parse(
            request.path, json_body(settings.max_body_bytes), tiers, auth.caller()
        )
        serving, order = Serving(self.context), wanted.order
        if order.stream and request.path in STREAMED:
            speak = partial(ChunkDialect, wants_usage=wanted.wants_usage)
            return located(serving.stream(order, speak))
        job = serving.wait(replace(order, stream=False))
        body = answers.response_of(job, tiers, waited_s=settings.max_wait_s)
        return located(json_response(body))


def json_response(body: dict[str, Any]) -> Response:
    """Return `body` as an answer."""
    return Response(json.dumps(body), mimetype="application/json")


def located(response: Response) -> Response:
    """Return `response` with the name of its job, and where to look at it."""
    job_id = openai_errors.request_id()
    openai_errors.name_job(response, job_id, answers.status_url(job_id))
    return response
