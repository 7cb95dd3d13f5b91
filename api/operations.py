"""Operations: whether the process lives, whether jobs would run.

GET /healthz     200 while the process answers
GET /readyz      200 when Redis answers and every queue has a worker; 503 names what is missing
"""

from dataclasses import dataclass
from typing import Literal

from flask import Blueprint, Response, jsonify
from pydantic import BaseModel
from typing_extensions import TypedDict

from api.context import Context
from api.problems import NotReady
from api.route import Answer, Route
from scheduler import workers
from scheduler.starting import starting


class QueueState(TypedDict):
    """How many workers serve a queue, and how many jobs wait in it and are in flight."""

    workers: int
    waiting: int
    in_flight: int


class Health(BaseModel):
    """The process answers."""

    status: Literal["ok"]


class Readiness(BaseModel):
    """A job would run: every queue has a worker."""

    status: Literal["ready"]
    queues: dict[str, QueueState]


ROUTES = (
    Route(
        "GET",
        "/healthz",
        "health",
        "Operations",
        "Ask whether the process answers",
        {200: Answer("it does", Health)},
        needs_redis=False,
        is_open=True,
    ),
    Route(
        "GET",
        "/readyz",
        "readiness",
        "Operations",
        "Ask whether a job would run",
        {200: Answer("it would", Readiness)},
        problems=(NotReady,),
        is_open=True,
    ),
)


@dataclass(frozen=True, slots=True)
class Operations:
    """The routes for operators and clients that look before they ask."""

    context: Context

    def blueprint(self) -> Blueprint:
        """Return the routes."""
        routes = Blueprint("operations", __name__)
        routes.add_url_rule("/healthz", "healthz", self.healthz)
        routes.add_url_rule("/readyz", "readyz", self.readyz)
        return routes

    def healthz(self) -> Response:
        """Say that this process answers; a probe that fails here should restart it."""
        return jsonify(status="ok")

    def readyz(self) -> Response:
        """Say whether a job would run; a probe that fails here should send no traffic."""
        queues = {queue: self._state(queue) for queue in self.context.tiers.queues}
        idle = [queue for queue, state in queues.items() if not state["workers"]]
        if idle:
            detail = "; ".join(self._lack(queue) for queue in idle)
            raise NotReady(detail, queues=queues)
        return jsonify(status="ready", queues=queues)

    def _lack(self, queue: str) -> str:
        soon = len(starting(self.context.connection, queue))
        return f"queue {queue}: no worker alive" + (f", {soon} starting" if soon else "")

    def _state(self, queue: str) -> QueueState:
        waiting, in_flight = workers.depth(self.context.connection, queue)
        alive = workers.alive(self.context.connection, queue)
        return {"workers": len(alive), "waiting": waiting, "in_flight": in_flight}
