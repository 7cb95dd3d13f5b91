"""Dead letters: failed jobs, parked for a person who looks, then replays or purges them.

A dead letter is a job that is `failed` and stands in its queue's failed registry. Replaying takes
it out and puts it at the end of its queue as if it had never run: the deaths of its workers, a stop
that was asked for and the cause are forgotten, the retries of its tier renewed, and its deadlines
are as long as they were, counted from the replay; what was a suspect still runs alone. Replaying
and purging one are each one atomic step, so two people at once never do it twice.

python -m scheduler.dead_letters --help
"""

import json
import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

from redis import Redis
from rq.job import Job
from rq.utils import utcformat

from config.tiers import TierTable
from scheduler import jobs, keys
from scheduler.dead_letter_pages import STEP, Cursor, DeadLetter, Filter, Page, read_meta, read_page
from scheduler.jobs import UnknownJob

logger = logging.getLogger(__name__)

_OF_THE_LAST_RUN = {"failure", "first_token_at"}
_MOST_TRIES = 5


class NotDeadLetter(Exception):
    """The job is not failed, or not in its queue's failed registry."""


class NotReplayable(Exception):
    """The job was not written with RQ's JSON serializer: no worker of ours could run it."""


@dataclass(frozen=True, slots=True)
class Step:
    """A bounded part of a bulk work: entries seen, dead letters meant, done; None at the end."""

    scanned: int
    matched: int
    done: int
    cursor: Cursor | None


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """The dead letters of the table's queues."""

    connection: Redis
    tiers: TierTable

    def page(self, wanted: Filter, *, cursor: Cursor | None = None, limit: int = 50) -> Page:
        """Return a page; BadCursor if the cursor does not belong to the filter."""
        now = datetime.now(UTC)
        queues = list(self.tiers.queues)
        return read_page(self.connection, queues, wanted, cursor=cursor, limit=limit, now=now)

    def get(self, job_id: str) -> Job:
        """Return the job; UnknownJob if there is none, NotDeadLetter if it is not failed."""
        job = jobs.fetch(self.connection, job_id)
        status = job.get_status(refresh=False).value
        score = self.connection.zscore(keys.failed(job.origin), job_id)
        if status != "failed" or score is None:
            raise _not_dead(status)
        return job

    def replay(self, job_id: str) -> Job:
        """Return the job, queued; UnknownJob, NotDeadLetter or NotReplayable if that was not us."""
        for _ in range(_MOST_TRIES):
            queue, meta = self._origin_and_meta(job_id)
            verdict = self._replay_script(self.connection, job_id, queue, meta)
            if verdict != b"changed":
                _check(job_id, verdict, b"replayed")
                _log("job replayed", "job.replayed", job_id)
                return jobs.fetch(self.connection, job_id)
        raise NotDeadLetter("the record of the job keeps changing; look at it again")

    def purge(self, job_id: str) -> None:
        """Delete a dead letter for good; UnknownJob or NotDeadLetter if there was none."""
        queue, _ = self._origin_and_meta(job_id)
        _check(job_id, _purge_script(self.connection, job_id, queue), b"purged")
        _log("dead letter purged", "job.purged", job_id)

    def replay_all(
        self, wanted: Filter, *, cursor: Cursor | None = None, dry_run: bool = False
    ) -> Iterator[Step]:
        """Replay what is meant, step by step; a dry run only counts."""
        for page in self._pages(wanted, cursor):
            yield _step(page, 0 if dry_run else self._replay_page(page.letters))

    def purge_all(
        self, wanted: Filter, *, cursor: Cursor | None = None, dry_run: bool = False
    ) -> Iterator[Step]:
        """Purge what is meant, step by step; a dry run only counts."""
        for page in self._pages(wanted, cursor):
            yield _step(page, 0 if dry_run else self._purge_page(page.letters))

    def _pages(self, wanted: Filter, cursor: Cursor | None) -> Iterator[Page]:
        page = self.page(wanted, cursor=cursor, limit=STEP)
        yield page
        while page.cursor:
            page = self.page(wanted, cursor=page.cursor, limit=STEP)
            yield page

    def _replay_page(self, letters: list[DeadLetter]) -> int:
        """Replay what can be; one whose record changed meanwhile is left for the next time."""
        readable = [letter for letter in letters if read_meta(letter.meta) is not None]
        with self.connection.pipeline(transaction=False) as pipeline:
            for letter in readable:
                self._replay_script(pipeline, letter.id, letter.queue, letter.meta)
            verdicts = pipeline.execute()
        return _count(readable, verdicts, b"replayed", "job replayed", "job.replayed")

    def _purge_page(self, letters: list[DeadLetter]) -> int:
        with self.connection.pipeline(transaction=False) as pipeline:
            for letter in letters:
                _purge_script(pipeline, letter.id, letter.queue)
            verdicts = pipeline.execute()
        return _count(letters, verdicts, b"purged", "dead letter purged", "job.purged")

    def _origin_and_meta(self, job_id: str) -> tuple[str, bytes]:
        fields = self.connection.hmget(f"rq:job:{job_id}", "origin", "meta")
        origin, meta = cast(list[bytes | None], fields)
        if not origin:
            raise UnknownJob(job_id)
        return origin.decode(), meta or b""

    def _replay_script(self, client: Redis, job_id: str, queue: str, meta: bytes) -> Any:
        """Run the script, or add it to a pipeline; NotReplayable for a meta that is no JSON."""
        known = read_meta(meta)
        if known is None:
            raise NotReplayable("the meta of the job is not JSON: it is none of ours to run")
        kept = {name: value for name, value in known.items() if name not in _OF_THE_LAST_RUN}
        tier = self.tiers.tiers.get(str(known.get("tier")))
        retries = tier.retry.max if tier else ""
        now = utcformat(datetime.now(UTC))
        written = json.dumps(kept) if kept != known else ""
        return keys.script(client, "replay")(
            keys=[
                f"rq:job:{job_id}",
                keys.failed(queue),
                keys.queue(queue),
                keys.deadlines(queue),
                keys.promotions(queue),
            ],
            args=[job_id, now, meta, written, retries, queue],
        )


def _purge_script(client: Redis, job_id: str, queue: str) -> Any:
    """Run the script, or add it to a pipeline."""
    script = keys.script(client, "purge")
    return script(keys=[f"rq:job:{job_id}", keys.failed(queue)], args=[job_id])


def _check(job_id: str, verdict: bytes | None, done: bytes) -> None:
    """Raise what a verdict other than `done` means."""
    if verdict is None:
        raise UnknownJob(job_id)
    if verdict != done:
        raise _not_dead(verdict.decode())


def _not_dead(status: str) -> NotDeadLetter:
    return NotDeadLetter(f"the job is {status}, and no dead letter")


def _step(page: Page, done: int) -> Step:
    return Step(page.scanned, len(page.letters), done, page.cursor)


def _count(
    letters: list[DeadLetter], verdicts: list[bytes], done: bytes, text: str, event: str
) -> int:
    ended = [letter for letter, verdict in zip(letters, verdicts, strict=True) if verdict == done]
    for letter in ended:
        _log(text, event, letter.id)
    return len(ended)


def _log(text: str, event: str, job_id: str) -> None:
    logger.info(text, extra={"event": event, "job_id": job_id})


if __name__ == "__main__":
    from scheduler.dead_letters_cli import main

    sys.exit(main())
