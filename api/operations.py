"""Operations: which models are served, whether the process lives, whether jobs would run.

GET /v1/models   what workers announced, as OpenAI lists models
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
from scheduler import models, workers
from scheduler.starting import starting


class QueueState(TypedDict):
    """How many workers serve a queue, and how many jobs wait in it and are in flight."""

    workers: int
    waiting: int
    in_flight: int


class ModelBody(BaseModel):
    """A model, as OpenAI shows it; `max_model_len` in tokens, prompt and output together."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int


class ModelList(BaseModel):
    """The models that workers announced."""

    object: Literal["list"]
    data: list[ModelBody]


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
        "/v1/models",
        "list_models",
        "Models",
        "List the models that are served",
        {200: Answer("the models", ModelList)},
    ),
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
        routes.add_url_rule("/v1/models", "models", self.models)
        routes.add_url_rule("/healthz", "healthz", self.healthz)
        routes.add_url_rule("/readyz", "readyz", self.readyz)
        return routes

    def models(self) -> Response:
        """List the models that workers announced."""
        data = [
            {
                "id": model.name,
                "object": "model",
                "created": int(model.created_at),
                "owned_by": "slalom",
                "max_model_len": model.max_model_len,
            }
            for model in models.announced(self.context.connection)
        ]
        return jsonify(object="list", data=data)

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
