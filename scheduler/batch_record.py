"""Batch record: all that is kept of a batch but its lines, and the one way of changing it.

    slalom:batch:{id}   hash   order      JSON: what was asked for
                               progress   JSON: how far it is

Whoever changes a batch reads its record under WATCH and writes it in one transaction (`editing`),
together with all that belongs to the change. Of two that do so at once, one has done nothing.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, Self, cast

from redis import Redis
from redis.client import Pipeline

from scheduler import keys

Status = Literal[
    "validating",
    "failed",
    "in_progress",
    "finalizing",
    "completed",
    "expired",
    "cancelling",
    "cancelled",
]
Record = dict[bytes, bytes]
Outcome = Literal["completed", "failed", "expired", "cancelled"]
ENDED: frozenset[Status] = frozenset({"completed", "failed", "expired", "cancelled"})


class NoSuchBatch(Exception):
    """There is no such batch: it never was, has expired, or is another tenant's."""


@dataclass(frozen=True, slots=True)
class BatchOrder:
    """What was asked for; instants in epoch s."""

    tenant: str
    endpoint: str
    input_file_id: str
    input_bytes: int
    completion_window: str
    tier: str
    created_at: int
    expires_at: int
    results_ttl_s: int
    metadata: dict[str, str] | None = None

    def is_same(self, other: Self) -> bool:
        """Whether both ask for the same, whenever they came."""
        return replace(self, created_at=0, expires_at=0) == replace(
            other, created_at=0, expires_at=0
        )


@dataclass(frozen=True, slots=True)
class BatchFault:
    """Why a batch failed as a whole."""

    code: str
    message: str
    line: int | None = None


@dataclass(frozen=True, slots=True)
class Draft:
    """A result file in the making: whole pieces, and the bytes that do not make one yet."""

    file_id: str
    pieces: int = 0
    tail: int = 0
    size: int = 0
    """Bytes of all of it."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of all answers together."""

    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0

    def __add__(self, other: Self) -> Self:
        """Return the sum."""
        return type(self)(
            self.input_tokens + other.input_tokens,
            self.cached_tokens + other.cached_tokens,
            self.output_tokens + other.output_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
        )


NO_USAGE = Usage()


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a batch is; `instants` has OpenAI's names (`in_progress_at` …), epoch s."""

    output: Draft
    errors: Draft
    status: Status = "validating"
    outcome: Outcome = "completed"
    """How it will end."""
    total: int = 0
    completed: int = 0
    failed: int = 0
    read_bytes: int = 0
    """Where in the input the next line begins."""
    read_lines: int = 0
    usage: Usage = NO_USAGE
    model: str | None = None
    faults: tuple[BatchFault, ...] = ()
    instants: dict[str, int] = field(default_factory=dict)

    def to(self, status: Status, **changes: Any) -> Self:
        """Return the progress with a status that it has reached now."""
        instants = {**self.instants, f"{status}_at": int(time.time())}
        return replace(self, status=status, instants=instants, **changes)

    @classmethod
    def read(cls, text: bytes) -> Self:
        """Return what `text` wrote."""
        known = json.loads(text)
        known["output"], known["errors"] = Draft(**known["output"]), Draft(**known["errors"])
        known["usage"] = Usage(**known["usage"])
        known["faults"] = tuple(BatchFault(**fault) for fault in known["faults"])
        return cls(**known)

    def text(self) -> str:
        """Return it for its record."""
        return json.dumps(asdict(self))


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch as its record says."""

    id: str
    order: BatchOrder
    progress: Progress

    @property
    def has_ended(self) -> bool:
        """Whether nothing will become of it any more."""
        return self.progress.status in ENDED

    def job_id(self, line: int) -> str:
        """Return the id of the job of a line."""
        return f"{self.id}-{line}"

    def key(self, part: str = "") -> str:
        """Return the key of its record, or of a part."""
        return keys.batch(self.id, part)

    def write(self, pipeline: Pipeline, progress: Progress) -> None:
        """Add to a transaction how far it is now."""
        pipeline.hset(self.key(), "progress", progress.text())


@contextmanager
def editing(connection: Redis, batch_id: str) -> Iterator[tuple[Batch, Pipeline]]:
    """Yield the batch as it is, and a transaction that changes it.

    The transaction is carried out at the end; WatchError if the batch was changed meanwhile: then
    nothing was done. NoSuchBatch if there is none.
    """
    with connection.pipeline() as pipeline:
        pipeline.watch(keys.batch(batch_id))
        batch = of_record(batch_id, cast(Record, pipeline.hgetall(keys.batch(batch_id))))
        if batch is None:
            raise NoSuchBatch(batch_id)
        pipeline.multi()
        yield batch, pipeline
        if pipeline.command_stack:
            pipeline.execute()


def of_record(batch_id: str, record: Record) -> Batch | None:
    """Return the batch of a record as Redis gives it; None for an empty one."""
    if not record:
        return None
    order = BatchOrder(**json.loads(record[b"order"]))
    return Batch(batch_id, order, Progress.read(record[b"progress"]))
