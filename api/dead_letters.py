"""Dead letters: failed jobs, for the person who looks after them: operators only.

    GET    /v1/dead-letters              200 a page; `next_cursor` null at the end
    GET    /v1/dead-letters/{id}         200 the whole job, as GET /v1/jobs/{id} shows it
    POST   /v1/dead-letters/{id}/replay  202 with the job, queued again
    POST   /v1/dead-letters/replay       200 how many matched and were replayed
    DELETE /v1/dead-letters/{id}         204
    DELETE /v1/dead-letters              200 how many matched and were purged

Filters are queue, tier, cause, older_than_s, newer_than_s. A request looks at MOST_SCANNED entries
or a few more; `next_cursor` says where the next one goes on. A page may be empty and not the last.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from flask import Blueprint, Response, jsonify, request

from api import auth
from api.context import Context
from api.dead_letter_schemas import (
    DeadLetterBody,
    DeadLetterList,
    DeadLetterPurge,
    DeadLetterQuery,
    DeadLetterReplay,
    Purged,
    Replayed,
    bad_cursor,
)
from api.jobs import LOCATION, job_body, json_body, readable
from api.problems import (
    BodyTooLarge,
    BrokenBody,
    Forbidden,
    Invalid,
    JobNotFound,
    JobUnreadable,
    MalformedJson,
    NoDeadLetter,
    NotJson,
    NotRequeueable,
)
from api.route import Answer, Route
from api.schemas import JobBody
from scheduler.dead_letter_pages import BadCursor, Cursor
from scheduler.dead_letters import DeadLetters, NotDeadLetter, NotReplayable, Step

MOST_SCANNED = 20_000

ROUTES = (
    Route(
        "GET",
        "/v1/dead-letters",
        "list_dead_letters",
        "Dead letters",
        "List dead letters, newest first in each queue",
        {200: Answer("a page of dead letters", DeadLetterList)},
        query=DeadLetterQuery,
        problems=(Forbidden, Invalid),
    ),
    Route(
        "GET",
        "/v1/dead-letters/{job_id}",
        "show_dead_letter",
        "Dead letters",
        "Show the whole job",
        {200: Answer("the job", JobBody)},
        problems=(Forbidden, JobNotFound, JobUnreadable),
    ),
    Route(
        "POST",
        "/v1/dead-letters/{job_id}/replay",
        "replay_dead_letter",
        "Dead letters",
        "Put one back into its queue",
        {202: Answer("the job, which is queued again", JobBody, (LOCATION,))},
        problems=(Forbidden, JobNotFound, NoDeadLetter, NotRequeueable, JobUnreadable),
    ),
    Route(
        "POST",
        "/v1/dead-letters/replay",
        "replay_dead_letters",
        "Dead letters",
        "Put those that are meant back into their queues",
        {200: Answer("how many were meant and replayed", Replayed)},
        takes=DeadLetterReplay,
        problems=(Forbidden, MalformedJson, BrokenBody, BodyTooLarge, NotJson, Invalid),
    ),
    Route(
        "DELETE",
        "/v1/dead-letters/{job_id}",
        "purge_dead_letter",
        "Dead letters",
        "Delete one for good",
        {204: Answer("it is gone")},
        problems=(Forbidden, JobNotFound, NoDeadLetter, JobUnreadable),
    ),
    Route(
        "DELETE",
        "/v1/dead-letters",
        "purge_dead_letters",
        "Dead letters",
        "Delete those that are meant for good",
        {200: Answer("how many were meant and purged", Purged)},
        query=DeadLetterPurge,
        problems=(Forbidden, Invalid),
    ),
)


@dataclass(frozen=True, slots=True)
class DeadLetterRoutes:
    """The routes of dead letters."""

    context: Context

    def blueprint(self) -> Blueprint:
        """Return the routes."""
        routes = Blueprint("dead_letters", __name__, url_prefix="/v1/dead-letters")
        routes.before_request(auth.operators_only)
        routes.add_url_rule("", "list", self.list, methods=["GET"])
        routes.add_url_rule("", "purge_all", self.purge_all, methods=["DELETE"])
        routes.add_url_rule("/replay", "replay_all", self.replay_all, methods=["POST"])
        routes.add_url_rule("/<job_id>", "show", self.show, methods=["GET"])
        routes.add_url_rule("/<job_id>", "purge", self.purge, methods=["DELETE"])
        routes.add_url_rule("/<job_id>/replay", "replay", self.replay, methods=["POST"])
        return routes

    def list(self) -> Response:
        """List dead letters, newest first in each queue."""
        wanted = DeadLetterQuery.from_query(request.args, self.context.tiers.queues)
        with _cursor_checked():
            page = self._letters.page(wanted.filter(), cursor=wanted.place(), limit=wanted.limit)
        data = [DeadLetterBody.of(letter).model_dump(mode="json") for letter in page.letters]
        return jsonify(object="list", data=data, next_cursor=_text(page.cursor))

    def show(self, job_id: str) -> Response:
        """Show the whole job."""
        try:
            with readable(job_id):
                job = self._letters.get(job_id)
        except NotDeadLetter as error:
            raise JobNotFound(f"{error}; see /v1/jobs/{job_id}") from error
        return _answer(job_body(job).model_dump_json())

    def replay(self, job_id: str) -> Response:
        """Put one back into its queue."""
        with _conflicts(), readable(job_id):
            job = self._letters.replay(job_id)
        body = job_body(job)
        answer = _answer(body.model_dump_json(), HTTPStatus.ACCEPTED)
        answer.headers["Location"] = body.status_url
        return answer

    def replay_all(self) -> Response:
        """Put those that are meant back into their queues."""
        body = json_body(self.context.settings.max_body_bytes)
        wanted = DeadLetterReplay.parse(body, self.context.tiers.queues)
        steps = self._letters.replay_all(
            wanted.filter(), cursor=wanted.place(), dry_run=wanted.dry_run
        )
        return jsonify(dry_run=wanted.dry_run, **_tally(steps, "replayed"))

    def purge(self, job_id: str) -> Response:
        """Delete one for good."""
        with _conflicts(), readable(job_id):
            self._letters.purge(job_id)
        return Response(status=HTTPStatus.NO_CONTENT)

    def purge_all(self) -> Response:
        """Delete those that are meant."""
        wanted = DeadLetterPurge.from_query(request.args, self.context.tiers.queues)
        steps = self._letters.purge_all(
            wanted.filter(), cursor=wanted.place(), dry_run=wanted.dry_run
        )
        return jsonify(dry_run=wanted.dry_run, **_tally(steps, "purged"))

    @property
    def _letters(self) -> DeadLetters:
        return DeadLetters(self.context.connection, self.context.tiers)


def _tally(steps: Iterator[Step], done: str) -> dict[str, Any]:
    """Take steps until enough is scanned; return their sums and where to go on."""
    tally: dict[str, Any] = {"scanned": 0, "matched": 0, done: 0, "next_cursor": None}
    with _cursor_checked():
        for step in steps:
            tally["scanned"] += step.scanned
            tally["matched"] += step.matched
            tally[done] += step.done
            tally["next_cursor"] = _text(step.cursor)
            if tally["scanned"] >= MOST_SCANNED:
                break
    return tally


@contextmanager
def _conflicts() -> Iterator[None]:
    try:
        yield
    except NotDeadLetter as error:
        raise NoDeadLetter(str(error)) from error
    except NotReplayable as error:
        raise NotRequeueable(str(error)) from error


@contextmanager
def _cursor_checked() -> Iterator[None]:
    try:
        yield
    except BadCursor as error:
        raise bad_cursor(error) from error


def _text(cursor: Cursor | None) -> str | None:
    return str(cursor) if cursor else None


def _answer(body: str, status: HTTPStatus = HTTPStatus.OK) -> Response:
    return Response(body, status, mimetype="application/json")
