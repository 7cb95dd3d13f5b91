"""Batch drafts: result files in the making, a few lines at a time.

Lines are appended to a string in Redis, and once that is as long as a piece it becomes one: so a
file is written compressed, in pieces of a useful size, however its lines trickle in. All of it
happens in the transaction of the step that has the lines.
"""

import time
import zlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, cast

from redis import Redis
from redis.client import Pipeline

from scheduler import keys
from scheduler.batch_record import Batch, Draft
from scheduler.files import COMPRESSION, PIECE_BYTES, StoredFile

Part = Literal["out", "err"]
NAMES: dict[Part, str] = {"out": "output", "err": "error"}


def add(
    connection: Redis, pipeline: Pipeline, batch: Batch, part: Part, lines: Sequence[str]
) -> Draft:
    """Add lines to a result file within a transaction; return what there is of it then."""
    draft = _draft(batch, part)
    if not lines:
        return draft
    data = "".join(lines).encode()
    draft = replace(draft, size=draft.size + len(data))
    if draft.tail + len(data) < PIECE_BYTES:
        pipeline.append(batch.key(part), data)
        return replace(draft, tail=draft.tail + len(data))
    return _cut(pipeline, batch, part, draft, _tail(connection, batch, part, draft) + data)


def seal(connection: Redis, pipeline: Pipeline, batch: Batch, part: Part) -> StoredFile | None:
    """Make the file within a transaction; None, and no file, if it has no lines."""
    draft = _draft(batch, part)
    if not draft.size:
        return None
    if draft.tail:
        tail = _tail(connection, batch, part, draft)
        draft = _cut(pipeline, batch, part, draft, tail)
    now = int(time.time())
    stored = StoredFile(
        draft.file_id,
        batch.order.tenant,
        f"{batch.id}_{NAMES[part]}.jsonl",
        "batch_output",
        draft.size,
        draft.pieces,
        now,
        now + batch.order.results_ttl_s,
    )
    stored.write(pipeline)
    return stored


def _draft(batch: Batch, part: Part) -> Draft:
    return batch.progress.output if part == "out" else batch.progress.errors


def _tail(connection: Redis, batch: Batch, part: Part, draft: Draft) -> bytes:
    return cast(bytes, connection.get(batch.key(part))) if draft.tail else b""


def _cut(pipeline: Pipeline, batch: Batch, part: Part, draft: Draft, data: bytes) -> Draft:
    """Make a piece of all that is no piece yet; it is kept for longer than any record of it."""
    key = keys.piece(draft.file_id, draft.pieces)
    ends_at = max(batch.order.expires_at, int(time.time())) + 86_400
    pipeline.set(key, zlib.compress(data, COMPRESSION), exat=ends_at + batch.order.results_ttl_s)
    pipeline.delete(batch.key(part))
    return replace(draft, pieces=draft.pieces + 1, tail=0)
