"""Query: what the query string of a request means. It is text, so numbers are read from text."""

from typing import TypeVar

from pydantic import BaseModel, ValidationError
from werkzeug.datastructures import MultiDict

from api.problems import Invalid
from api.schemas import problem_of

Model = TypeVar("Model", bound=BaseModel)


def read(model: type[Model], query: MultiDict[str, str]) -> Model:
    """Return what the query string means; Invalid names every parameter that is wrong."""
    repeated = [name for name, values in query.lists() if len(values) > 1]
    if repeated:
        raise Invalid([{"field": name, "message": "give it once"} for name in repeated])
    try:
        return model.model_validate(query.to_dict())
    except ValidationError as error:
        raise problem_of(error) from None
