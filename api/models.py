"""Models: what may be asked for, as OpenAI lists it.

GET /v1/models        every model that a worker announced and the caller may use
GET /v1/models/{id}   one of them; 404 if it is none
"""

from dataclasses import dataclass
from typing import Any, Literal

from flask import Blueprint, Response
from pydantic import BaseModel
from werkzeug.routing import PathConverter

from api import auth, openai_errors
from api.context import Context
from api.openai import json_response
from api.problems import ModelNotFound
from api.route import Answer, Route
from scheduler import models
from scheduler.models import ModelView


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


ROUTES = (
    Route(
        "GET",
        "/v1/models",
        "list_models",
        "Models",
        "List the models that are served",
        {200: Answer("the models", ModelList)},
        is_openai=True,
    ),
    Route(
        "GET",
        "/v1/models/{name}",
        "get_model",
        "Models",
        "Show a model",
        {200: Answer("the model", ModelBody)},
        problems=(ModelNotFound,),
        is_openai=True,
    ),
)


class ModelName(PathConverter):
    """The id of a model in a path: any text, with slashes in it as on the Hub."""

    regex = r"[^/](?s:.*?)"


@dataclass(frozen=True, slots=True)
class ModelRoutes:
    """The routes of models."""

    context: Context

    def blueprint(self) -> Blueprint:
        """Return the routes."""
        routes = Blueprint("models", __name__, url_prefix="/v1/models")
        routes.record_once(lambda state: state.app.url_map.converters.update(model=ModelName))
        openai_errors.register(routes)
        routes.add_url_rule("", "index", self.index, methods=["GET"])
        routes.add_url_rule("/<model:name>", "show", self.show, methods=["GET"])
        return routes

    def index(self) -> Response:
        """List the models."""
        return json_response({"object": "list", "data": [_model(m) for m in self._models()]})

    def show(self, name: str) -> Response:
        """Show a model."""
        for model in self._models():
            if model.name == name:
                return json_response(_model(model))
        raise ModelNotFound("there is no such model for you; GET /v1/models lists those there are")

    def _models(self) -> list[ModelView]:
        announced = models.announced(self.context.connection)
        return [model for model in announced if auth.caller().may_ask(model.name)]


def _model(model: ModelView) -> dict[str, Any]:
    return {
        "id": model.name,
        "object": "model",
        "created": int(model.created_at),
        "owned_by": "slalom",
        "max_model_len": model.max_model_len,
    }
