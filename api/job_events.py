"""Job events: what happens to a job, as server-sent events.

    GET /v1/jobs/{id}/events   200 text/event-stream; 204 if the job has ended and nothing of it is
                               new to who asks; 400 a cursor that is none; 404

    event: status   {"status": "running", "at": "…"}; the last one says how the job ended
    event: chunk    an OpenAI streaming chunk: some of the output
    :               a heartbeat

Each event has an id. Who comes back with that of the last he has seen (the header `Last-Event-ID`,
as browsers do by themselves, or `?after=`) goes on behind it, whatever the job does meanwhile. When
a job runs again, after its worker died, its output starts over: the number before the dash in the
ids, the attempt, is then another.

A job that was not submitted as a stream gives its tokens if it is still to start; else it gives its
text at the end.
"""

import logging
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from http import HTTPStatus
from itertools import chain

from flask import Blueprint, Response, request
from pydantic import BaseModel, Field

from api import sse
from api.context import Context
from api.follow import Chunk, Event, Silence, StatusChanged
from api.jobs import fetch
from api.problems import BadCursor, JobNotFound, JobUnreadable, NoRoomToWait
from api.route import Answer, Header, Route
from scheduler import jobs
from scheduler.jobs import ENDED, UnknownJob

logger = logging.getLogger(__name__)


class EventsQuery(BaseModel):
    """Where to go on."""

    after: str | None = Field(None, description="id of the last event that was seen")


ROUTES = (
    Route(
        "GET",
        "/v1/jobs/{job_id}/events",
        "follow_job",
        "Jobs",
        "Follow a job: its states and its tokens",
        {
            200: Answer("the events, to the job's end", media_type="text/event-stream"),
            204: Answer("nothing is new, and nothing will be"),
        },
        query=EventsQuery,
        headers=(Header("Last-Event-ID", "id of the last event that was seen"),),
        problems=(BadCursor, JobNotFound, JobUnreadable, NoRoomToWait),
    ),
)


@dataclass(frozen=True, slots=True)
class JobEvents:
    """The route of a job's events."""

    context: Context

    def blueprint(self) -> Blueprint:
        """Return the route."""
        routes = Blueprint("job_events", __name__, url_prefix="/v1/jobs")
        routes.add_url_rule("/<job_id>/events", "follow", self.follow, methods=["GET"])
        return routes

    def follow(self, job_id: str) -> Response:
        """Send what happened to a job behind the cursor, and what comes, to its end."""
        after = request.headers.get("Last-Event-ID") or request.args.get("after") or None
        with ExitStack() as stack:
            following = stack.enter_context(self.context.follower.follow(job_id, after))
            job = fetch(self.context.connection, job_id)
            status = jobs.STATUS[job.get_status(refresh=False)]
            first = next(following, None) if status in ENDED else None  # it need not wait for one
            if isinstance(first, StatusChanged) and first.id == after:
                return Response(status=HTTPStatus.NO_CONTENT)  # to a browser: do not come back
            environ = request.environ
            stack.enter_context(self.context.hangups.watch(environ, following.stop))
            frames = _frames(chain([first] if first else [], following))
            return sse.respond(environ, frames, stack.pop_all().close)


def _frames(events: Iterator[Event]) -> Iterator[str]:
    yield sse.HEARTBEAT
    try:
        yield from map(_frame, events)
    except UnknownJob:  # its record has gone meanwhile: who comes back is told so
        return
    except Exception as error:  # the status has gone out; who comes back is told more
        extra = {"event": "stream.failed", "error": type(error).__name__}
        logger.warning("a stream of events broke off", extra=extra)


def _frame(event: Event) -> str:
    match event:
        case StatusChanged(event_id, status, at):
            said = {"status": status, "at": at.isoformat() if at else None}
            return sse.json_event("status", event_id, said)
        case Chunk(event_id, body):
            return sse.event("chunk", event_id, body)
        case Silence():
            return sse.HEARTBEAT
