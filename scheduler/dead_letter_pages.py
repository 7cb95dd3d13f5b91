"""Dead-letter pages: the failed registries, read in steps of bounded work.

A registry's scores are the instants at which its jobs expire (or "for ever"), so highest first is
newest first within a tier. Queues follow one another in the order of the table. A cursor is a
place, not an entry: it stays valid when its entry is gone, and what comes in later stands before
it, so a job that is replayed and fails again is not met twice on the way down. 200,000 entries take
many steps, none of them long: a script call reads STEP entries, a page at most MOST_SCANNED.
"""

import json
import zlib
from base64 import b64decode, urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from math import isnan
from typing import Any, Self, cast

from redis import Redis
from rq.utils import str_to_date

from scheduler import keys
from scheduler.jobs import EXPIRED, Failure, failure

STEP = 200
"""Entries of one script call; Redis serves nobody else meanwhile."""
MOST_SCANNED = 5_000
MOST_MESSAGE = 500
"""Characters of a message; a list of failures is no place for a model's whole output."""


class BadCursor(ValueError):
    """The cursor is none that a page gave."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which dead letters are meant; None: any. Ages are seconds since the job ended."""

    queue: str | None = None
    tier: str | None = None
    cause: str | None = None
    older_than_s: float | None = None
    newer_than_s: float | None = None

    def matches(self, letter: "DeadLetter", now: datetime) -> bool:
        """Whether `letter` is meant at `now`; one that does not say when it ended has no age."""
        wanted = [(self.queue, letter.queue), (self.tier, letter.tier), (self.cause, letter.cause)]
        return all(want in (None, has) for want, has in wanted) and self._has_age(letter, now)

    def _has_age(self, letter: "DeadLetter", now: datetime) -> bool:
        if self.older_than_s is None and self.newer_than_s is None:
            return True
        if letter.ended_at is None:
            return False
        age_s = (now - letter.ended_at).total_seconds()
        old_enough = self.older_than_s is None or age_s >= self.older_than_s
        return old_enough and (self.newer_than_s is None or age_s < self.newer_than_s)


@dataclass(frozen=True, slots=True)
class Cursor:
    """The place behind an entry; `score` as Redis writes it."""

    queue: str
    score: str
    job_id: str

    def __str__(self) -> str:
        """Return the cursor as callers carry it."""
        text = json.dumps([self.queue, self.score, self.job_id])
        return urlsafe_b64encode(text.encode()).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the cursor; BadCursor if `text` is none."""
        try:
            queue, score, job_id = json.loads(urlsafe_b64decode(text + "=" * (-len(text) % 4)))
            if isnan(float(score)) or not all(isinstance(s, str) for s in (queue, score, job_id)):
                raise BadCursor(text)
            job_id.encode()
        except (ValueError, TypeError, RecursionError) as error:
            raise BadCursor("take the cursor from the page before, unchanged") from error
        return cls(queue, repr(float(score)), job_id)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A job parked for a person; `attempts` is how often it was started, 1 where nobody counted."""

    id: str
    queue: str
    tier: str | None
    cause: str
    message: str
    ended_at: datetime | None
    attempts: int
    worker_deaths: int
    meta: bytes = field(repr=False)
    """As it stands in the record: replay compares it."""


@dataclass(frozen=True, slots=True)
class Page:
    """Dead letters, how many entries were looked at for them, and where to go on: None at the end.

    A page may be empty and not the last.
    """

    letters: list[DeadLetter]
    scanned: int
    cursor: Cursor | None


def read_page(
    connection: Redis,
    queues: Sequence[str],
    wanted: Filter,
    *,
    cursor: Cursor | None,
    limit: int,
    now: datetime,
) -> Page:
    """Return up to `limit` of the wanted dead letters that stand behind `cursor`."""
    letters: list[DeadLetter] = []
    scanned = 0
    for place, letter in _entries(connection, _from(queues, wanted, cursor), cursor):
        scanned += 1
        if letter and wanted.matches(letter, now):
            letters.append(letter)
        if len(letters) == limit or scanned == MOST_SCANNED:
            return Page(letters, scanned, place)
    return Page(letters, scanned, None)


def _from(queues: Sequence[str], wanted: Filter, cursor: Cursor | None) -> list[str]:
    """Return the queues that are still to be read; BadCursor if its queue is not among them."""
    chosen = [queue for queue in queues if wanted.queue in (None, queue)]
    if cursor is None:
        return chosen
    if cursor.queue not in chosen:
        raise BadCursor("the cursor is of another filter")
    return chosen[chosen.index(cursor.queue) :]


def _entries(
    connection: Redis, queues: Sequence[str], cursor: Cursor | None
) -> Iterator[tuple[Cursor, DeadLetter | None]]:
    """Yield each entry with its place; None where it is no dead letter."""
    for queue in queues:
        place = cursor if cursor and cursor.queue == queue else None
        while entries := _step(connection, queue, place):
            for entry in entries:
                place = Cursor(queue, entry[1].decode(), entry[0].decode())
                yield place, _letter(queue, entry)
            if len(entries) < STEP:
                break


def _step(connection: Redis, queue: str, place: Cursor | None) -> list[list[Any]]:
    behind = [place.score, place.job_id] if place else []
    reply = keys.script(connection, "dead_letters")(keys=[keys.failed(queue)], args=[STEP, *behind])
    return cast(list[list[Any]], reply)


def _letter(queue: str, entry: list[Any]) -> DeadLetter | None:
    """Return the dead letter; None if its record is gone or says that it is not failed."""
    if len(entry) == 2 or entry[2] != b"failed":
        return None
    job_id, _score, _status, meta, ended_at, deaths, attempts, text = entry
    known = read_meta(meta) or {}
    cause = cause_of(known, text)
    return DeadLetter(
        id=job_id.decode(),
        queue=queue,
        tier=known.get("tier"),
        cause=cause["code"],
        message=cause["message"][:MOST_MESSAGE],
        ended_at=_instant(ended_at),
        attempts=int(attempts or cause["code"] != EXPIRED),
        worker_deaths=int(deaths or 0),
        meta=meta or b"",
    )


def cause_of(meta: dict[str, Any], packed: bytes | None) -> Failure:
    """Return why a job failed, by its meta and RQ's packed text; a damaged meta spoils no page."""
    text = _text(packed)
    try:
        return failure(meta, text)
    except (LookupError, TypeError):
        return failure({}, text)


def _instant(text: bytes | None) -> datetime | None:
    try:
        return str_to_date(text) if text else None
    except ValueError:
        return None


def read_meta(meta: bytes | None) -> dict[str, Any] | None:
    """Return the meta of a record; None if it is no JSON object."""
    try:
        known = json.loads(meta or b"{}")
    except ValueError:
        return None
    return known if isinstance(known, dict) else None


def _text(packed: bytes | None) -> str:
    """Return RQ's failure text, empty if it cannot be read."""
    try:
        return zlib.decompress(b64decode(packed or b"")).decode(errors="replace")
    except (ValueError, zlib.error):
        return ""
