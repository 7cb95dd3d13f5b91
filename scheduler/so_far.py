"""So far: what the engine had generated of a job when its worker handed the job back.

Handing back writes it in the step that puts the job into its queue, and the claim that takes the
job takes it out, so that the next engine goes on from there. It stands in the record only in
between: a job that comes back in any other way (a death, a retry, a replay, a claim whose reply
was lost) starts over.

    rq:job:{job}   so_far    JSON {"token_ids": [...], "text": "..."}    release -> claim, cancel
                   resumed   how many claims took it out of this record
"""

import json
import logging
from dataclasses import asdict, dataclass

logger = logging.getLogger(__name__)

MOST_RESUMED = 2
"""How often a job goes on from there; handed back once more, it starts over. What was kept is never
computed again, so were it wrong, it would follow the job from worker to worker for ever."""
MOST_BYTES = 1 << 18
"""No more is kept, since Redis must hold it for every job of a worker that stops: some 20,000
tokens."""


@dataclass(frozen=True, slots=True)
class SoFar:
    """The tokens of an output that is not finished, and their text."""

    token_ids: tuple[int, ...]
    text: str


def dumps(so_far: SoFar | None, *, job_id: str) -> str:
    """Return what to keep in the job's record; '' for nothing, which too much becomes too."""
    if so_far is None or not so_far.token_ids:
        return ""
    kept = json.dumps(asdict(so_far), separators=(",", ":"))
    if len(kept) <= MOST_BYTES:
        return kept
    extra = {"event": "so_far.too_large", "job_id": job_id, "bytes": len(kept)}
    logger.warning("a job handed back will start over", extra=extra)
    return ""


def loads(kept: bytes, *, job_id: str) -> SoFar | None:
    """Return what was kept; None, with a warning, if that is damaged."""
    try:
        match json.loads(kept):
            case {"token_ids": [_, *_] as ids, "text": str(text)} if all(map(_is_token, ids)):
                return SoFar(tuple(ids), text)
    except (ValueError, RecursionError):
        pass
    extra = {"event": "so_far.damaged", "job_id": job_id}
    logger.warning("what a job has so far cannot be read: it starts over", extra=extra)
    return None


def _is_token(value: object) -> bool:
    return type(value) is int and value >= 0
