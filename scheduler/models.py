"""Models: what the workers serve, as they announced it when their engine was ready.

Who must know it for every job asks `Lengths`, which reads it once a second; a model that is not
among those it knows is looked for at once.
"""

import json
import time
from dataclasses import asdict, dataclass, field

from redis import Redis

from scheduler import keys

FRESH_S = 1.0


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


@dataclass(slots=True)
class Lengths:
    """The models that are announced, and how many tokens each takes; threads may share it."""

    connection: Redis
    _known: dict[str, int] = field(default_factory=dict, init=False)
    _read_at: float = field(default=-FRESH_S, init=False)

    def of(self, name: str) -> dict[str, int]:
        """Return what was announced a second ago; what is now, if others than `name` were then."""
        now = time.monotonic()
        is_unknown = bool(self._known) and name not in self._known
        if is_unknown or now - self._read_at > FRESH_S:
            self._known = {m.name: m.max_model_len for m in announced(self.connection)}
            self._read_at = now
        return self._known
