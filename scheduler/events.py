"""Events: what comes of a streamed job, in a log in Redis and on a channel, in one order.

A job with the field `stream` has a log. Its worker appends each chunk of the output as it comes,
and tells it on the channel; entries are called {attempt}-{n}. An attempt begins with its start (n =
0, the instant) and its n-th chunk is n. Only an execution that holds its lease may write, and its
last chunk is written before its result: who has seen a job ended finds nothing more to come.

A log that would become too long, or that Redis did not take in time, has a gap instead of the rest
of the attempt: an entry without a body. Who follows then reads the rest off the job's response.

    slalom:events:{job}   stream    {attempt}-{n} -> body      worker -> whoever follows
    slalom:events         channel   lines "{job} {id} {body}"
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Self, cast

from redis import Redis
from rq.job import Job

from scheduler import keys
from scheduler.claim import Claim

RUNNING_TTL_S = 7 * 86_400
"""How long the log of a job stays that never ends, from its last start on."""
SPARE_S = 60
"""A log outlives its job's record, so that no record is found without its log."""

GAP = ""
END = 1 << 62

_STATE = ("status", "created_at", "started_at", "ended_at", "attempts", "starts")


class BadEventId(ValueError):
    """The text is no id of an event."""


@dataclass(frozen=True, slots=True, order=True)
class EventId:
    """Where an event stands: in which attempt, and where in that."""

    attempt: int
    n: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the id that `text` is: {attempt}-{n} or {attempt}-end."""
        attempt, _, n = text.partition("-")
        if not (_is_number(attempt) and (n == "end" or _is_number(n))):
            raise BadEventId("an event's id has the form 1-23, or 1-end")
        return cls(int(attempt), END if n == "end" else int(n))

    def __str__(self) -> str:
        return f"{self.attempt}-{'end' if self.n == END else self.n}"

    def is_next_after(self, other: Self) -> bool:
        """Whether nothing can have been between `other` and this."""
        if self.attempt == other.attempt:
            return self.n == other.n + 1
        return self.attempt > other.attempt and self.n == 0


START = EventId(0, 0)


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a log."""

    id: EventId
    body: str


@dataclass(frozen=True, slots=True)
class Piece:
    """What is to be written of one execution: entries by their n, and its log's ttl if it ends."""

    claim: Claim
    entries: Sequence[tuple[int, str]] = ()
    ttl_s: int | None = None


@dataclass(frozen=True, slots=True)
class Look:
    """A job's state, and some of its log behind a cursor."""

    state: dict[str, str]
    entries: list[Entry]
    last: Entry | None
    is_whole: bool
    """Whether the log has no more than these entries behind the cursor."""

    @property
    def attempt(self) -> int:
        """The attempt that runs, or ran last; 0 if none did."""
        counted = (int(self.state.get(name) or 0) for name in ("attempts", "starts"))
        logged = self.last.id.attempt if self.last else 0
        return max(*counted, logged, 1 if self.state.get("started_at") else 0)

    def has_whole_output(self, attempt: int) -> bool:
        """Whether the log has the output of an attempt that has ended, to the last chunk."""
        last = self.last
        return bool(last and last.id.attempt == attempt and last.id.n > 0 and last.body != GAP)

    def instant(self, name: str) -> datetime | None:
        """Return an instant of the job's record, if that has happened."""
        text = self.state.get(name)
        return datetime.fromisoformat(text) if text else None


def append(connection: Redis, pieces: Sequence[Piece]) -> list[Literal["held", "lost"]]:
    """Write all pieces in one step; say which executions still hold their lease."""
    if not pieces:
        return []
    args: list[Any] = [RUNNING_TTL_S]
    for piece in pieces:
        claim = piece.claim
        args += [claim.queue, claim.job.id, claim.execution_id, claim.attempt or 0]
        args += ["" if piece.ttl_s is None else piece.ttl_s, len(piece.entries)]
        args += [part for entry in piece.entries for part in entry]
    reply = keys.script(connection, "events")(args=args)
    return [cast(Literal["held", "lost"], verdict.decode()) for verdict in reply]


def kept_s(ttl_s: int) -> int:
    """Return how long a log is kept whose job's record is kept for `ttl_s` (-1: for ever)."""
    return -1 if ttl_s < 0 else ttl_s + SPARE_S


def told(message: bytes) -> Iterator[tuple[str, Entry]]:
    """Yield job and entry for each line of a message on the channel."""
    for line in message.split(b"\n"):
        job_id, event_id, body = line.split(b" ", 2)
        yield job_id.decode(), Entry(EventId.parse(event_id.decode()), body.decode())


def ask(connection: Redis, job_id: str) -> None:
    """Have the tokens of a job that has not ended kept from its next start on."""
    keys.script(connection, "stream")(keys=[Job.key_for(job_id)])


def look(connection: Redis, job_id: str, after: EventId, count: int) -> Look | None:
    """Return the job's state and then its log behind `after`; None if there is no such job.

    Of an attempt that another has followed nothing is returned: that begins anew.
    """
    with connection.pipeline(transaction=False) as pipeline:
        pipeline.hmget(Job.key_for(job_id), list(_STATE))
        pipeline.xrevrange(keys.events(job_id), count=1)
        pipeline.xrange(
            keys.events(job_id),
            min=f"({after}" if after.n != END else f"{after.attempt + 1}-0",
            count=count,
        )
        values, last, found = pipeline.execute()
    if values[0] is None:
        return None
    latest = _entry(last[0]) if last else None
    if latest and found and _entry(found[0]).id.attempt < latest.id.attempt:
        found = connection.xrange(keys.events(job_id), min=f"{latest.id.attempt}-0", count=count)
    state = {name: value.decode() for name, value in zip(_STATE, values, strict=True) if value}
    return Look(state, [_entry(e) for e in found], latest, is_whole=len(found) < count)


def of_attempt(connection: Redis, job_id: str, attempt: int) -> list[Entry]:
    """Return the whole log of one attempt."""
    found = connection.xrange(keys.events(job_id), f"{attempt}-0", f"{attempt}-{END}")
    return [_entry(entry) for entry in found or ()]


def _entry(found: Any) -> Entry:
    event_id, fields = found
    return Entry(EventId.parse(event_id.decode()), fields[b"body"].decode())


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 18
