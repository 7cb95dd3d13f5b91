"""Models: what the workers serve, as they announced it when their engine was ready."""

import json
from dataclasses import asdict, dataclass

from redis import Redis

from scheduler import keys


@dataclass(frozen=True, slots=True)
class ModelView:
    """A served model; `max_model_len` in tokens, prompt and output together."""

    name: str
    max_model_len: int
    engine: str
    created_at: float


def announce(connection: Redis, model: ModelView) -> None:
    """Record that a worker serves `model`."""
    connection.hset(keys.MODELS, model.name, json.dumps(asdict(model)))


def announced(connection: Redis) -> list[ModelView]:
    """Return every model that some worker announced, by name."""
    records = connection.hgetall(keys.MODELS)
    return sorted((ModelView(**json.loads(r)) for r in records.values()), key=lambda m: m.name)
