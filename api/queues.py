"""Queues: how full each one is, who works on it, and how long its next job has waited.

GET /v1/queues   200 every queue of the SLA table, in the order of their rank; for operators
"""

from dataclasses import dataclass
from typing import Literal

from flask import Blueprint, Response
from pydantic import BaseModel, Field

from api import auth
from api.context import Context
from api.problems import Forbidden
from api.route import Answer, Route
from scheduler import workers
from scheduler.starting import starting


class QueueBody(BaseModel):
    """A queue: a worker takes everything from the first before the second."""

    name: str
    object: Literal["queue"] = "queue"
    tiers: list[str]
    waiting: int
    running: int
    workers: int
    starting: int = Field(description="workers whose engine still loads")
    next_waits_s: float | None = Field(
        description="how long the job that is next has waited; null where none waits"
    )


class QueueList(BaseModel):
    """The queues, in the order of their rank."""

    object: Literal["list"] = "list"
    data: list[QueueBody]


ROUTES = (
    Route(
        "GET",
        "/v1/queues",
        "list_queues",
        "Operations",
        "Show how full each queue is",
        {200: Answer("the queues", QueueList)},
        problems=(Forbidden,),
    ),
)


@dataclass(frozen=True, slots=True)
class Queues:
    """The route that shows the queues."""

    context: Context

    def blueprint(self) -> Blueprint:
        """Return the route."""
        routes = Blueprint("queues", __name__)
        routes.before_request(auth.operators_only)
        routes.add_url_rule("/v1/queues", "list", self.list, methods=["GET"])
        return routes

    def list(self) -> Response:
        """Show the queues."""
        shown = QueueList(data=[self._body(name) for name in self.context.tiers.queues])
        return Response(shown.model_dump_json(), mimetype="application/json")

    def _body(self, name: str) -> QueueBody:
        connection = self.context.connection
        waiting, running = workers.depth(connection, name)
        return QueueBody(
            name=name,
            tiers=[t for t, tier in self.context.tiers.tiers.items() if tier.queue == name],
            waiting=waiting,
            running=running,
            workers=len(workers.alive(connection, name)),
            starting=len(starting(connection, name)),
            next_waits_s=workers.next_waits_s(connection, name),
        )
