"""Dead letters: found by what is known of them, replayed once, purged for good, at any number."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from redis import Redis
from rq import Queue
from rq.job import Job, JobStatus
from rq.registry import FailedJobRegistry
from rq.results import Result
from rq.serializers import JSONSerializer
from rq.utils import utcformat

from config.tiers import TierTable
from scheduler import cancel, dead_letter_pages, jobs, keys
from scheduler.dead_letter_pages import BadCursor, Cursor, Filter
from scheduler.dead_letters import DeadLetters, NotDeadLetter, NotReplayable
from scheduler.finish import write
from scheduler.jobs import UnknownJob
from scheduler.rescue import rescue
from scheduler.submit import Submitter
from tests.integration.test_claim import claims_of, submit
from tests.integration.test_finish_and_rescue import expire, success

ANY = Filter()


@pytest.fixture
def letters(connection: Redis, tiers: TierTable) -> DeadLetters:
    return DeadLetters(connection, tiers)


def park(
    submitter: Submitter,
    tier: str = "batch",
    count: int = 1,
    *,
    code: str = "timeout",
    age_s: float = 0,
    kept_s: int | None = 3600,
) -> list[str]:
    """Make dead letters as a worker does; `kept_s` None: for ever."""
    connection = submitter.connection
    ended_at = datetime.now(UTC) - timedelta(seconds=age_s)
    ids = submit(submitter, tier, count)
    queue = submitter.tiers.tiers[tier].queue
    expiry = "+inf" if kept_s is None else int(ended_at.timestamp()) + kept_s
    failure = {"code": code, "message": f"it ended with {code}"}
    meta = json.dumps({"tier": tier, "metadata": {"k": "v"}, "failure": failure})
    with connection.pipeline() as pipeline:
        for job_id in ids:
            fields = {"status": "failed", "ended_at": utcformat(ended_at), "meta": meta}
            pipeline.hset(f"rq:job:{job_id}", mapping={**fields, "retries_left": 0})
            pipeline.expire(f"rq:job:{job_id}", 3600)
            pipeline.lrem(keys.queue(queue), 1, job_id)
            pipeline.zadd(keys.failed(queue), {job_id: expiry})
        pipeline.execute()
    return ids


def found(letters: DeadLetters, wanted: Filter = ANY, limit: int = 100) -> list[str]:
    """Return the ids on all pages."""
    ids: list[str] = []
    page = letters.page(wanted, limit=limit)
    ids += [letter.id for letter in page.letters]
    while page.cursor:
        page = letters.page(wanted, cursor=Cursor.parse(str(page.cursor)), limit=limit)
        ids += [letter.id for letter in page.letters]
    return ids


def fetch(connection: Redis, job_id: str) -> Job:
    return Job.fetch(job_id, connection=connection, serializer=JSONSerializer)


def waiting(connection: Redis, queue: str = "low") -> list[str]:
    ids: list[str] = Queue(queue, connection=connection).job_ids
    return ids


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (Filter(), {"premium", "standard", "batch", "old"}),
        (Filter(queue="high"), {"premium"}),
        (Filter(queue="low"), {"standard", "batch", "old"}),
        (Filter(tier="batch"), {"batch", "old"}),
        (Filter(tier="nowhere"), set()),
        (Filter(cause="timeout"), {"premium", "batch"}),
        (Filter(cause="time"), set()),
        (Filter(older_than_s=600), {"old"}),
        (Filter(newer_than_s=600), {"premium", "standard", "batch"}),
        (Filter(older_than_s=600, newer_than_s=60), set()),
        (Filter(queue="low", cause="engine_failure", newer_than_s=600), {"standard"}),
    ],
)
def test_a_filter_finds_what_it_names(
    letters: DeadLetters, submitter: Submitter, wanted: Filter, expected: set[str]
) -> None:
    names = {
        park(submitter, "premium")[0]: "premium",
        park(submitter, "standard", code="engine_failure")[0]: "standard",
        park(submitter, "batch")[0]: "batch",
        park(submitter, "batch", code="invalid_request", age_s=1200)[0]: "old",
    }

    assert {names[job_id] for job_id in found(letters, wanted)} == expected


def test_a_dead_letter_says_why_when_and_how_often(
    letters: DeadLetters, submitter: Submitter, connection: Redis
) -> None:
    submit(submitter, "batch", 1)
    for _ in range(2):
        [claim] = claims_of(connection).take(1)
        claim.job.meta["failure"] = {"code": "engine_failure", "message": "of an earlier attempt"}
        claim.job.save_meta()
        expire(connection, claim)
        rescue(connection, "low", max_deliveries=2)

    [letter] = letters.page(ANY).letters

    assert (letter.id, letter.queue, letter.tier) == (claim.job.id, "low", "batch")
    assert (letter.cause, letter.attempts, letter.worker_deaths) == ("engine_crash", 2, 2)
    assert "died 2 times" in letter.message
    assert letter.ended_at is not None
    view = jobs.view(letters.get(letter.id))
    assert view.failure == {"code": letter.cause, "message": letter.message}


def test_a_failure_that_plain_rq_wrote_has_its_last_line_and_no_traceback(
    letters: DeadLetters, submitter: Submitter, connection: Redis
) -> None:
    [job_id] = submit(submitter, "batch", 1)
    job = fetch(connection, job_id)
    connection.lrem(keys.queue("low"), 1, job_id)
    job.set_status(JobStatus.FAILED)
    FailedJobRegistry("low", connection=connection).add(job, ttl=-1)
    Result.create_failure(job, ttl=60, exc_string="Traceback:\n  File x\nValueError: no")

    [letter] = letters.page(ANY).letters

    assert (letter.cause, letter.message) == ("job_failed", "ValueError: no")


def test_within_a_queue_the_newest_come_first(letters: DeadLetters, submitter: Submitter) -> None:
    [old], [new], [middle] = (park(submitter, age_s=age_s) for age_s in (90, 1, 30))

    assert found(letters) == [new, middle, old]


@pytest.mark.parametrize("kept_s", [3600, None])
def test_pages_have_neither_gaps_nor_doubles_while_others_are_replayed_and_come_in(
    letters: DeadLetters, submitter: Submitter, kept_s: int | None
) -> None:
    parked = {
        job_id
        for age_s in range(0, 100, 10)
        for job_id in park(submitter, count=100, age_s=age_s, kept_s=kept_s)
    }
    seen: list[str] = []
    replayed: set[str] = set()

    page = letters.page(ANY, limit=70)
    while page.cursor:
        seen += [letter.id for letter in page.letters]
        unseen = sorted(parked - set(seen) - replayed)
        for job_id in [page.letters[-1].id, page.letters[0].id, *unseen[:1]]:
            letters.replay(job_id)
            replayed.add(job_id)
        if kept_s:
            park(submitter, age_s=-60)
        page = letters.page(ANY, cursor=page.cursor, limit=70)
    seen += [letter.id for letter in page.letters]

    assert len(parked) == 1000
    assert len(seen) == len(set(seen))
    assert parked - replayed <= set(seen) <= parked


def test_a_page_looks_at_a_bounded_number_of_entries_and_says_where_to_go_on(
    letters: DeadLetters, submitter: Submitter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letter_pages, "MOST_SCANNED", 10)
    monkeypatch.setattr(dead_letter_pages, "STEP", 3)
    [wanted] = park(submitter, code="engine_failure", age_s=60)
    park(submitter, count=24)

    first = letters.page(Filter(cause="engine_failure"))

    assert (first.letters, first.scanned) == ([], 10)
    assert first.cursor
    assert found(letters, Filter(cause="engine_failure")) == [wanted]


@pytest.mark.parametrize(
    "text", ["", "x", "e30", "WzEsMiwzXQ", "WyJsb3ciLCJuYW4iLCJ4Il0", "ä", "=="]
)
def test_what_is_no_cursor_is_refused(text: str) -> None:
    with pytest.raises(BadCursor):
        Cursor.parse(text)


def test_a_cursor_of_another_filter_is_refused(letters: DeadLetters) -> None:
    with pytest.raises(BadCursor):
        letters.page(Filter(queue="high"), cursor=Cursor("low", "1", "x"))


def test_ids_whose_record_has_expired_are_skipped_and_dropped(
    letters: DeadLetters, submitter: Submitter, connection: Redis
) -> None:
    gone, alone, here = park(submitter, count=3)
    connection.delete(f"rq:job:{gone}", f"rq:job:{alone}")

    with pytest.raises(UnknownJob):
        letters.replay(alone)

    assert found(letters) == [here]
    assert connection.zrange(keys.failed("low"), 0, -1) == [here.encode()]


def test_a_damaged_record_spoils_no_page(
    letters: DeadLetters, submitter: Submitter, connection: Redis
) -> None:
    odd, wrong_type, here = park(submitter, count=3)
    connection.hset(f"rq:job:{odd}", mapping={"meta": b"\x80", "ended_at": "yesterday"})
    connection.delete(f"rq:job:{wrong_type}")
    connection.set(f"rq:job:{wrong_type}", "text")

    steps = list(letters.replay_all(ANY))

    assert [(step.scanned, step.matched, step.done) for step in steps] == [(3, 2, 1)]
    assert waiting(connection) == [here]
    with pytest.raises(NotReplayable):
        letters.replay(odd)


def test_a_replayed_job_is_as_if_it_had_never_run(
    letters: DeadLetters, submitter: Submitter, connection: Redis
) -> None:
    [first], [job_id] = submit(submitter, "standard", 1), park(submitter, "standard")
    key = f"rq:job:{job_id}"
    died = {"worker_deaths": 3, "attempts": 4, "stop_requested": 1}
    connection.hset(key, mapping={**died, "suspect": 1, "worker_name": "w"})

    job = letters.replay(job_id)

    assert (job.get_status(), job.retries_left, job.ended_at) == (JobStatus.QUEUED, 3, None)
    assert job.meta == {"tier": "standard", "metadata": {"k": "v"}}
    assert connection.hmget(key, *died) == [None] * len(died)
    assert connection.hget(key, "suspect") == b"1"  # it may kill again
    assert connection.ttl(key) == -1
    assert connection.zcard(keys.failed("low")) == 0
    assert waiting(connection) == [first, job_id]
    claims = claims_of(connection)
    claims.take(1)
    [claim] = claims.take(1)
    assert write(connection, "w", [success(claim, {"n": 1})]) == ["written"]
    assert jobs.view(fetch(connection, job_id)).status == "succeeded"


def test_two_people_who_replay_at_once_replay_once(
    letters: DeadLetters, submitter: Submitter, connection: Redis
) -> None:
    parked = park(submitter, count=50)
    at_once = threading.Barrier(4)
    won: list[str] = []

    def replay() -> None:
        at_once.wait()
        for job_id in parked:
            try:
                won.append(letters.replay(job_id).id)
            except NotDeadLetter:
                continue

    people = [threading.Thread(target=replay) for _ in range(4)]
    for person in people:
        person.start()
    for person in people:
        person.join()

    assert sorted(won) == sorted(parked)
    assert sorted(waiting(connection)) == sorted(parked)


def test_a_replay_does_not_undo_what_another_wrote_into_the_meta(
    letters: DeadLetters, submitter: Submitter, connection: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    [job_id] = park(submitter)
    read = DeadLetters._origin_and_meta

    def read_then_write(self: DeadLetters, job_id: str) -> tuple[str, bytes]:
        origin_and_meta = read(self, job_id)
        connection.hset(f"rq:job:{job_id}", "meta", '{"tier": "batch", "note": "kept"}')
        return origin_and_meta

    monkeypatch.setattr(DeadLetters, "_origin_and_meta", read_then_write)

    assert letters.replay(job_id).meta == {"tier": "batch", "note": "kept"}


def test_only_a_dead_letter_is_shown_replayed_or_purged(
    letters: DeadLetters, submitter: Submitter, connection: Redis
) -> None:
    done, running, queued, canceled = submit(submitter, "batch", 4)
    first, _ = claims_of(connection).take(2)
    write(connection, "w", [success(first, 1)])
    cancel.cancel(connection, fetch(connection, canceled))
    connection.zadd(keys.failed("low"), {running: 1, done: 2})
    before = {job_id: connection.hgetall(f"rq:job:{job_id}") for job_id in (done, running, queued)}

    for job_id in (done, running, queued, canceled):
        for act in (letters.get, letters.replay, letters.purge):
            with pytest.raises(NotDeadLetter):
                act(job_id)
    for act in (letters.get, letters.replay, letters.purge):
        with pytest.raises(UnknownJob):
            act("none")

    assert {job_id: connection.hgetall(f"rq:job:{job_id}") for job_id in before} == before
    assert waiting(connection) == [queued]
    assert found(letters) == []


@pytest.mark.parametrize("act", ["replay_all", "purge_all"])
def test_a_dry_run_only_counts(
    letters: DeadLetters, submitter: Submitter, connection: Redis, act: str
) -> None:
    park(submitter, "batch", 3)
    park(submitter, "premium", 2)

    steps = list(getattr(letters, act)(Filter(tier="batch"), dry_run=True))

    assert [(step.scanned, step.matched, step.done) for step in steps] == [(5, 3, 0)]
    assert len(found(letters)) == 5
    assert waiting(connection) == []


@pytest.mark.parametrize("act", ["replay_all", "purge_all"])
def test_many_are_done_in_bounded_steps_that_count(
    letters: DeadLetters, submitter: Submitter, connection: Redis, act: str
) -> None:
    meant = park(submitter, "batch", 1200)
    [other] = park(submitter, "standard")

    steps = list(getattr(letters, act)(Filter(tier="batch")))

    assert all(step.done == step.matched <= dead_letter_pages.STEP for step in steps)
    assert sum(step.done for step in steps) == 1200
    assert found(letters) == [other]
    assert sorted(waiting(connection)) == (sorted(meant) if act == "replay_all" else [])


def test_a_purged_dead_letter_leaves_nothing_behind(
    letters: DeadLetters, submitter: Submitter, connection: Redis
) -> None:
    submit(submitter, "batch", 1)
    [claim] = claims_of(connection).take(1)
    expire(connection, claim)
    rescue(connection, "low", max_deliveries=1)

    letters.purge(claim.job.id)

    assert connection.keys(f"*{claim.job.id}*") == []
    assert connection.zcard(keys.failed("low")) == 0
    with pytest.raises(UnknownJob):
        letters.purge(claim.job.id)


def test_a_failed_job_that_left_the_registry_is_no_dead_letter(
    letters: DeadLetters, submitter: Submitter, connection: Redis
) -> None:
    [job_id] = park(submitter)
    connection.zrem(keys.failed("low"), job_id)

    for act in (letters.get, letters.replay, letters.purge):
        with pytest.raises(NotDeadLetter):
            act(job_id)

    assert connection.hget(f"rq:job:{job_id}", "status") == b"failed"
    assert waiting(connection) == []


def run(redis_url: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a person would."""
    process = subprocess.run(
        [sys.executable, "-m", "scheduler.dead_letters", *arguments],
        env={**os.environ, "REDIS_URL": redis_url, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in process.stderr
    return process


def test_the_command_lists_shows_replays_and_purges(
    redis_url: str, submitter: Submitter, connection: Redis
) -> None:
    [premium], batch = park(submitter, "premium", age_s=7200), park(submitter, "batch", 3)

    listed = run(redis_url, "list", "--json", "--older-than", "1h")
    paged = run(redis_url, "list", "--all", "--limit", "1")
    shown = run(redis_url, "show", premium, "--json")
    counted = run(redis_url, "replay", "--tier", "batch", "--dry-run", "--json")
    replayed = run(redis_url, "replay", "--tier", "batch", "--cause", "timeout", "--json")
    purged = run(redis_url, "purge", premium)

    letter: dict[str, Any] = json.loads(listed.stdout)
    assert (letter["id"], letter["cause"], letter["queue"]) == (premium, "timeout", "high")
    assert [line.split()[0] for line in paged.stdout.splitlines()] == [
        premium,
        *sorted(batch)[::-1],
    ]
    assert json.loads(shown.stdout)["request"]["body"] == {"prompt": "1+1="}
    assert json.loads(counted.stdout) == {"scanned": 4, "matched": 3, "replayed": 0}
    assert json.loads(replayed.stdout) == {"scanned": 4, "matched": 3, "replayed": 3}
    assert "1 purged" in purged.stdout
    assert sorted(waiting(connection)) == sorted(batch)
    assert connection.exists(f"rq:job:{premium}") == 0


def test_the_command_goes_on_from_a_cursor(redis_url: str, submitter: Submitter) -> None:
    newest, older = (park(submitter, age_s=age_s)[0] for age_s in (0, 60))

    first = run(redis_url, "list", "--limit", "1")
    cursor = first.stderr.split()[-1]
    second = run(redis_url, "list", "--cursor", cursor)

    assert [line.split()[0] for line in (first.stdout, second.stdout)] == [newest, older]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "command"),
        (["purge"], "--all"),
        (["replay"], "--all"),
        (["purge", "x", "--tier", "batch"], "not both"),
        (["list", "--queue", "none"], "use one of high, low"),
        (["list", "--older-than", "soon"], "no age"),
        (["list", "--limit", "0"], "1 to 1000"),
        (["show"], "job"),
    ],
)
def test_a_wrong_command_ends_with_2_and_says_what_is_wrong(
    redis_url: str, arguments: Sequence[str], says: str
) -> None:
    process = run(redis_url, *arguments)

    assert process.returncode == 2
    assert says in process.stderr


def test_what_cannot_be_done_ends_with_1_and_says_why(redis_url: str, submitter: Submitter) -> None:
    [queued] = submit(submitter, "batch", 1)
    cases = [
        (run(redis_url, "replay", "none"), "there is no job none"),
        (run(redis_url, "purge", queued), "the job is queued"),
        (run(redis_url, "list", "--cursor", "x"), "cursor"),
        (run("redis://u:secret@127.0.0.1:1/0", "list"), "Redis at redis://u:****@127.0.0.1:1/0"),
        (run(redis_url, "list", SLALOM_NOWHERE="1"), "SLALOM_NOWHERE"),
    ]

    for process, says in cases:
        assert process.returncode == 1
        assert says in process.stderr
        assert "secret" not in process.stderr
