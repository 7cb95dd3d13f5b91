"""Following: what happens to one job, as it happens, from any point on.

A follower is given everything since its cursor, read from Redis, and then what comes, from the one
subscription of the process (`api.hub`). What it may see:

    StatusChanged   id 0-0 queued, {a}-0 running (attempt a), {a}-end ended, always the last one
    Chunk           id {a}-{n}: an OpenAI streaming chunk, the n-th of attempt a
    Silence         nothing came for SILENCE_S: the moment for a heartbeat

A new attempt starts over with all text so far; of an older one nothing is shown any more to who
comes later. Usage is always told, in a chunk of its own with no choices, the last of an attempt
that succeeded. Of a job whose tokens were not kept, or not all of them, the rest of the response
comes as one chunk at the end.

Whoever has waited long enough, or missed something, because he lagged, Redis was away or the
subscription was interrupted, looks into Redis from where he stands. He holds no more than a few
hundred events at a time.
"""

import json
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from redis import Redis
from rq.job import JobStatus

from api.feed import Feed
from api.hub import Hub
from api.problems import BadCursor, NoRoomToWait
from config.connections import UNAVAILABLE
from scheduler import events, jobs
from scheduler.chunks import Assembly, rest_of
from scheduler.events import END, GAP, START, BadEventId, Entry, EventId, Look
from scheduler.jobs import ENDED, STATUS, Status, UnknownJob

SILENCE_S = 5.0
RETRY_S = 0.5
MOST_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class StatusChanged:
    """The job is in another state since `at`."""

    id: str
    status: Status
    at: datetime | None


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some of the job's output: the JSON text of an OpenAI streaming chunk."""

    id: str
    body: str


@dataclass(frozen=True, slots=True)
class Silence:
    """Nothing happened for SILENCE_S."""


Event = StatusChanged | Chunk | Silence


class Following:
    """The events of one job for one reader; ends after the terminal StatusChanged, or by `stop`."""

    def __init__(self, connection: Redis, hub: Hub, job_id: str, after: EventId | None) -> None:
        self._connection = connection
        self._hub = hub
        self._job_id = job_id
        self._cursor = after
        """The last event shown; None before the first."""
        self._gap: EventId | None = None
        """Where the log of the present attempt ends before the attempt does."""
        self._feed = Feed()
        self._ready: deque[Event] = deque()
        self._is_over = self._has_looked = False
        self._quiet_since = time.monotonic()
        if not hub.add(job_id, self._feed):
            raise NoRoomToWait("as many requests wait in this process as may; try again")

    def __iter__(self) -> Iterator[Event]:
        """Return itself."""
        return self

    def __next__(self) -> Event:
        """Return the next event, however long that takes; UnknownJob if there is no such job."""
        while not self._ready:
            if self._is_over:
                raise StopIteration
            self._advance()
        self._quiet_since = time.monotonic()
        return self._ready.popleft()

    def stop(self) -> None:
        """End the iteration, from any thread: the reader has gone."""
        self._feed.on_close()

    def close(self) -> None:
        """Let go of the job; to be called once nobody reads any more."""
        self.stop()
        self._hub.remove(self._job_id, self._feed)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def _advance(self) -> None:
        """Wait for what comes next, and make events of it, if it is any."""
        quiet_s = time.monotonic() - self._quiet_since
        news = self._feed.take(max(0.0, SILENCE_S - quiet_s))
        if news is None or (quiet_s > SILENCE_S and not news.is_over):
            self._ready.append(Silence())
        if news is None:
            return
        self._is_over = news.is_over
        if news.must_look and not news.is_over:
            self._look()
        elif not all(self._take(entry) for entry in news.entries):
            self._feed.on_doubt()

    def _look(self) -> None:
        """Read what Redis has behind the cursor; if it went away, soon again."""
        try:
            if not self._has_looked:
                events.ask(self._connection, self._job_id)
            look = events.look(self._connection, self._job_id, self._cursor or START, MOST_AT_ONCE)
            if look is None:
                raise UnknownJob(self._job_id)
            self._read(look)
            self._has_looked = True
        except UNAVAILABLE:
            if not self._has_looked:
                raise
            time.sleep(RETRY_S)
            self._feed.on_doubt()

    def _read(self, look: Look) -> None:
        if self._cursor is None:
            self._cursor = START
            self._show("queued", START, look.instant("created_at"))
        for entry in look.entries:
            self._take(entry, is_told=False)
        status = STATUS[JobStatus(look.state["status"])]
        if not look.is_whole:
            self._feed.on_doubt()
        elif status == "running":
            self._run(look)
        elif status in ENDED:
            self._run(look)
            self._end(look, status)

    def _run(self, look: Look) -> None:
        """Show the attempt that the record tells of, unless the log did."""
        assert self._cursor is not None
        if look.attempt > self._cursor.attempt:
            self._cursor, self._gap = EventId(look.attempt, 0), None
            self._show("running", self._cursor, look.instant("started_at"))

    def _take(self, entry: Entry, *, is_told: bool = True) -> bool:
        """Show an entry; False if it was told and one before it may have been missed."""
        assert self._cursor is not None
        if entry.id <= self._cursor or (self._gap and entry.id.attempt == self._gap.attempt):
            return True
        if is_told and not entry.id.is_next_after(self._cursor):
            return False
        if entry.body == GAP:
            self._gap = entry.id
        elif entry.id.n == 0:
            self._cursor, self._gap = entry.id, None
            self._show("running", entry.id, datetime.fromisoformat(entry.body))
        else:
            self._cursor = entry.id
            self._ready.append(Chunk(str(entry.id), entry.body))
        return True

    def _end(self, look: Look, status: Status) -> None:
        """Show what is missing of the output, and the end."""
        assert self._cursor is not None
        attempt = max(look.attempt, self._cursor.attempt)
        at, missing = look.instant("ended_at"), []
        if status != "succeeded" or not look.has_whole_output(attempt):
            view = jobs.view(jobs.fetch(self._connection, self._job_id))
            status, at = view.status, view.finished_at
            missing = _missing(self._connection, self._job_id, look.last, view.response, attempt)
        self._ready.extend(c for c in missing if EventId.parse(c.id) > self._cursor)
        self._is_over = True
        self._show(status, EventId(attempt, END), at)

    def _show(self, status: Status, event_id: EventId, at: datetime | None) -> None:
        self._ready.append(StatusChanged(str(event_id), status, at))


class Follower:
    """The readers of this process that follow a job."""

    def __init__(self, connection: Redis, hub: Hub) -> None:
        self._connection = connection
        self._hub = hub

    def follow(self, job_id: str, after: str | None = None) -> Following:
        """Follow a job from the cursor `after` on (the id of the last event seen).

        The job need not be there before the first event is asked for. Raises BadCursor, and
        NoRoomToWait where no more may follow.
        """
        try:
            cursor = EventId.parse(after) if after else None
        except BadEventId as error:
            raise BadCursor(str(error)) from error
        return Following(self._connection, self._hub, job_id, cursor)


def _missing(
    connection: Redis, job_id: str, last: Entry | None, response: Any, attempt: int
) -> list[Chunk]:
    """Return what the log lacks of a job's response, as chunks that stand behind its last entry."""
    seen, n = None, 1
    if last and last.id.attempt == attempt and last.id.n > 0:
        if last.body != GAP:
            return []
        seen, n = Assembly(), last.id.n
        for entry in events.of_attempt(connection, job_id, attempt):
            if 0 < entry.id.n < n and entry.body != GAP:
                seen.add(json.loads(entry.body))
    known = seen.response() if seen else None
    chunks = rest_of(response, known) if isinstance(response, dict) else []
    return [
        Chunk(str(EventId(attempt, n + place)), json.dumps(chunk))
        for place, chunk in enumerate(chunks)
    ]
