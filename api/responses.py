"""Responses: OpenAI's Responses API, its store the job store.

    POST   /v1/responses              the response; with `background` at once, queued
    GET    /v1/responses/{id}         the response; its events with `?stream=true`, and of them
                                      those after number N with `&starting_after=N`
    POST   /v1/responses/{id}/cancel  cancel one in the background
    DELETE /v1/responses/{id}         forget it

vLLM's own serving layer makes the answer, without its store, which is memory that is never freed. A
response that goes on from another (`previous_response_id`) is sent there with all that was said.
"""

import json
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from flask import Blueprint, Response, request
from rq.job import Job

from api import answers, auth, openai_errors, query, sse
from api.context import Context
from api.jobs import fetch, json_body, readable
from api.openai import HEADERS, json_response, located
from api.openai_requests import OpenAIRequest, check, json_object
from api.openai_schemas import (
    PROBLEMS,
    DeletedResponse,
    ResponseBody,
    ResponseObject,
    ResponseQuery,
)
from api.openai_stream import Stream
from api.order import Order
from api.problems import Invalid, JobStopping, NoRoomToWait, NotBackground, ResponseNotFound
from api.response_objects import (
    ENDPOINT,
    conversation,
    is_stored,
    items,
    job_id_of,
    not_found,
    response_object,
)
from api.response_stream import ResponseDialect
from api.route import Answer, Route
from api.serving import Serving
from scheduler import cancel, jobs
from scheduler.forget import forget
from scheduler.jobs import ENDED, JobView, UnknownJob

STOPPING_S = 5.0
"""How long a cancellation waits for the worker to say that the job has stopped."""

ROUTES = (
    Route(
        "POST",
        ENDPOINT,
        "create_response",
        "OpenAI",
        "Make a response",
        {200: Answer("it; server-sent events of it with `stream`", ResponseObject, HEADERS)},
        takes=ResponseBody,
        problems=(*PROBLEMS, ResponseNotFound),
        is_openai=True,
    ),
    Route(
        "GET",
        ENDPOINT + "/{name}",
        "get_response",
        "OpenAI",
        "Show a response",
        {200: Answer("it; server-sent events of it with `stream`", ResponseObject)},
        query=ResponseQuery,
        problems=(ResponseNotFound, Invalid, NoRoomToWait),
        is_openai=True,
    ),
    Route(
        "POST",
        ENDPOINT + "/{name}/cancel",
        "cancel_response",
        "OpenAI",
        "Cancel a response that is made in the background",
        {200: Answer("the response", ResponseObject)},
        problems=(ResponseNotFound, NotBackground),
        is_openai=True,
    ),
    Route(
        "DELETE",
        ENDPOINT + "/{name}",
        "delete_response",
        "OpenAI",
        "Forget a response",
        {200: Answer("it is no more", DeletedResponse)},
        problems=(ResponseNotFound, JobStopping),
        is_openai=True,
    ),
)


@dataclass(frozen=True, slots=True)
class ResponseRoutes:
    """The routes of responses."""

    context: Context

    def blueprint(self) -> Blueprint:
        """Return the routes."""
        routes = Blueprint("responses", __name__, url_prefix=ENDPOINT)
        openai_errors.register(routes)
        routes.add_url_rule("", "create", self.create, methods=["POST"])
        routes.add_url_rule("/<name>", "show", self.show, methods=["GET"])
        routes.add_url_rule("/<name>/cancel", "cancel", self.cancel, methods=["POST"])
        routes.add_url_rule("/<name>", "delete", self.delete, methods=["DELETE"])
        return routes

    def create(self) -> Response:
        """Create a response, and answer with it, with its events, or with what it will be."""
        order = self._order(json_object(json_body(self.context.settings.max_body_bytes)))
        serving, job_id = Serving(self.context), openai_errors.request_id()
        is_background = bool(order.request["body"].get("background"))
        if order.stream:
            speak = partial(self._speak, job_id, is_background=is_background)
            return located(serving.stream(order, speak, is_background=is_background))
        if is_background:
            serving.accept(order)
            return located(json_response(self._object(self._view(job_id))))
        job = serving.wait(order)
        answers.response_of(job, self.context.tiers, waited_s=self.context.settings.max_wait_s)
        return located(json_response(self._object(jobs.view(job))))

    def show(self, name: str) -> Response:
        """Show a response, or its events."""
        view = self._stored(name)
        asked = query.read(ResponseQuery, request.args)
        if not asked.stream:
            return json_response(self._object(view))
        body = view.request["body"] if view.request else {}
        if not body.get("stream"):
            text = "the response was not created with stream: its events were not kept"
            raise Invalid([{"field": "stream", "message": text}])
        is_background = bool(body.get("background"))
        after = -1 if asked.starting_after is None else asked.starting_after
        dialect = self._speak(view.id, is_background=is_background, after=after)
        with ExitStack() as stack:
            following = stack.enter_context(self.context.follower.follow(view.id))
            ending = partial(Serving(self.context).ending, view.id)
            stream = Stream(view.id, following, dialect, ending)
            stack.enter_context(self.context.hangups.watch(request.environ, stream.hang_up))
            return sse.respond(request.environ, iter(stream), stack.pop_all().close)

    def cancel(self, name: str) -> Response:
        """Cancel a response that is made in the background."""
        view = self._stored(name)
        if not (view.request and view.request["body"].get("background")):
            text = "only a response that was created with background can be canceled"
            raise NotBackground(text)
        self._stop(view)
        return json_response(self._object(self._view(view.id)))

    def delete(self, name: str) -> Response:
        """Forget a response, cancelling it first if it is still made."""
        view = self._stored(name)
        self._stop(view)
        job = self._fetch(view.id)
        if jobs.view(job).status not in ENDED:
            raise JobStopping("its worker was told to stop it; try again in a moment")
        forget(self.context.connection, job)
        return json_response({"id": name, "object": "response", "deleted": True})

    def _order(self, body: dict[str, Any]) -> Order:
        """Return the order that a request to create a response is."""
        check(ENDPOINT, body)
        if body.get("background") and body.get("store") is False:
            text = "a response in the background must be stored: nobody could ask for it"
            raise Invalid([{"field": "store", "message": text}])
        tiers, tenant = self.context.tiers, auth.caller()
        order = OpenAIRequest.of(ENDPOINT, self._with_previous(body), tiers, tenant).order
        kept = {**order.request["body"], "stream": order.stream}
        return replace(order, request={"endpoint": ENDPOINT, "body": kept})

    def _with_previous(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return `body` with all that was said before it."""
        previous = body.get("previous_response_id")
        if previous is None:
            return body
        said = [*conversation(self._stored(previous)), *items(body.get("input"))]
        most = self.context.settings.max_body_bytes
        if len(json.dumps(said)) > most:
            text = f"the conversation has more than {most} bytes; begin a new one"
            raise Invalid([{"field": "previous_response_id", "message": text}])
        return {**body, "input": said}

    def _speak(
        self, job_id: str, tier: str = "", *, is_background: bool, after: int = -1
    ) -> ResponseDialect:
        def show() -> dict[str, Any]:
            return self._object(self._view(job_id))

        return ResponseDialect(show, is_background=is_background, after=after)

    def _stop(self, view: JobView) -> None:
        """Cancel the job of a response, and wait a little for its worker to stop it."""
        with self.context.waiters.expect(view.id) as ended:
            outcome = cancel.cancel(self.context.connection, self._fetch(view.id))
            if outcome == "stopping" and ended:
                ended.wait(STOPPING_S)

    def _stored(self, name: str) -> JobView:
        """Return the job of a response that the caller may ask for; ResponseNotFound if none."""
        try:
            job = fetch(self.context.connection, job_id_of(name))
        except UnknownJob:
            raise not_found() from None
        with readable(job.id):
            view = jobs.view(job)
        is_one = view.request is not None and view.request["endpoint"] == ENDPOINT
        if not (is_one and is_stored(view)):
            raise not_found()
        return view

    def _view(self, job_id: str) -> JobView:
        with readable(job_id):
            return jobs.view(self._fetch(job_id))

    def _fetch(self, job_id: str) -> Job:
        try:
            with readable(job_id):
                return jobs.fetch(self.context.connection, job_id)
        except UnknownJob:
            raise not_found() from None

    def _object(self, view: JobView) -> dict[str, Any]:
        return response_object(view, self.context.tiers)
