"""A batch does each line once, says what became of it, and waits its turn."""

import json
import time
from dataclasses import replace

import pytest
from redis import Redis
from redis.exceptions import WatchError

from config import connections
from config.tiers import TierTable
from scheduler import batch_advance, cancel, expiry, jobs, keys
from scheduler.batch_advance import Work
from scheduler.batch_inspection import Inspection
from scheduler.batch_lines import LineFault
from scheduler.batch_record import editing
from scheduler.dead_letters import DeadLetters
from scheduler.files import PIECE_BYTES, Files
from scheduler.models import ModelView, announce
from scheduler.submit import Submission
from tests.batch_life import (
    COMPLETIONS,
    TENANT,
    Desk,
    QuickWorker,
    assert_each_once,
    carry_on,
    jsonl,
    line,
    parsed,
    step,
    traces,
    until_open,
    work_off,
)

pytestmark = pytest.mark.usefixtures("always_looks")


def test_every_line_is_answered_once_and_its_job_forgotten(
    connection: Redis, desk: Desk, quick: QuickWorker
) -> None:
    ids = [f"line-{n}" for n in range(321)]
    batch_id = desk.create(jsonl(map(line, ids)))

    work_off(desk, batch_id, quick)

    progress = desk.batch(batch_id).progress
    assert (progress.status, progress.total) == ("completed", 321)
    assert (progress.completed, progress.failed) == (321, 0)
    assert (progress.usage.input_tokens, progress.usage.output_tokens) == (963, 642)
    assert_each_once(ids, desk.output(batch_id))
    for entry in parsed(desk.output(batch_id)):
        assert entry["response"]["body"]["choices"][0]["text"] == f"{entry['custom_id']}="
        assert (entry["response"]["status_code"], entry["error"]) == (200, None)
    assert desk.errors(batch_id) == b""
    assert traces(connection, batch_id) == set()
    assert connection.keys("rq:job:*") == connection.keys("rq:results:*") == []
    assert connection.zcard("rq:finished:low") == 0
    assert connection.zcard(keys.BATCHES) == 0
    assert 0 < connection.ttl(f"slalom:batch:{batch_id}") <= 86_400


def test_no_more_jobs_than_so_many_are_ahead(
    connection: Redis, desk: Desk, quick: QuickWorker
) -> None:
    batch_id = desk.create(jsonl(line(str(n)) for n in range(200)))
    most = 0

    def look_and_serve() -> None:
        nonlocal most
        most = max(most, connection.llen("rq:queue:low"))
        quick.serve(30)

    carry_on(desk, batch_id, look_and_serve)

    assert most == 50


def test_jobs_carry_what_they_belong_to_and_the_end_of_the_window(
    connection: Redis, desk: Desk
) -> None:
    batch_id = desk.create(jsonl([line("first")]), window_s=500, tier="standard")

    until_open(desk, batch_id, 1)

    view = jobs.view(jobs.fetch(connection, f"{batch_id}-1"))
    assert (view.tenant, view.tier) == (TENANT, "standard")
    assert view.metadata == {"batch_id": batch_id, "custom_id": "first"}
    assert view.deadlines.finish_by == desk.batch(batch_id).order.expires_at
    assert view.deadlines.start_by is None


def test_a_bad_line_fails_alone(connection: Redis, desk: Desk, quick: QuickWorker) -> None:
    announce(connection, ModelView("adder", 256, "sim", 0.0))
    secret = "the-secret-prompt"
    good = [line("a"), "", line("b", model="adder")]
    bad = [
        "{",
        json.dumps({"custom_id": "c", "method": "POST", "url": "/v1/other", "body": {}}),
        line("a", prompt=secret),
        line("d", stream=True, prompt=secret),
        line("e", model="none"),
        "x" * 3_000,
        json.dumps({"method": "POST", "url": COMPLETIONS, "body": {"prompt": secret}}),
    ]
    batch_id = desk.create(jsonl([*good, *bad]))

    work_off(desk, batch_id, quick)

    progress = desk.batch(batch_id).progress
    assert (progress.status, progress.faults) == ("completed", ())
    assert (progress.total, progress.completed, progress.failed) == (9, 2, 7)
    assert_each_once(["a", "b"], desk.output(batch_id))
    errors = parsed(desk.errors(batch_id))
    told = [(entry["custom_id"], entry["response"]["body"]["error"]["code"]) for entry in errors]
    assert told == [
        (None, "invalid_json_line"),
        ("c", "invalid_url"),
        ("a", "duplicate_custom_id"),
        ("d", "invalid_stream"),
        ("e", "model_not_found"),
        (None, "line_too_long"),
        (None, "invalid_custom_id"),
    ]
    assert {entry["response"]["status_code"] for entry in errors} == {400}
    assert errors[0]["response"]["body"]["error"]["message"].startswith("line 4: ")
    assert secret.encode() not in desk.errors(batch_id)


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "empty_file"),
        (b"\n\n", "empty_file"),
        (b"\xff\xfe", "invalid_encoding"),
        (b"{}\n" * 5_001, "too_many_lines"),
    ],
)
def test_a_useless_file_fails_the_batch(
    connection: Redis, desk: Desk, content: bytes, code: str
) -> None:
    batch_id = desk.create(content)

    carry_on(desk, batch_id, lambda: None)

    progress = desk.batch(batch_id).progress
    assert (progress.status, [fault.code for fault in progress.faults]) == ("failed", [code])
    assert progress.instants["failed_at"]
    assert (progress.total, connection.keys("rq:job:*")) == (0, [])
    assert traces(connection, batch_id) == set()


def fail(connection: Redis, job_id: str, queue: str = "low") -> None:
    """Let a job be a dead letter, as expiry would have it."""
    connection.hset(f"rq:job:{job_id}", "finish_by", 1)
    connection.zadd(keys.deadlines(queue), {job_id: 1})
    expiry.expire(connection, queue)


def test_jobs_that_failed_expired_vanished_or_were_canceled_are_error_lines(
    connection: Redis, desk: Desk, quick: QuickWorker, tiers: TierTable
) -> None:
    batch_id = desk.create(jsonl(line(name) for name in ("failed", "late", "gone", "canceled")))
    work = until_open(desk, batch_id, 4)
    failed, late, gone, canceled = (f"{batch_id}-{n}" for n in range(1, 5))
    fail(connection, failed)
    connection.hset(f"rq:job:{failed}", "meta", json.dumps({"failure": CAUSE}))
    connection.delete(f"rq:results:{failed}")
    fail(connection, late)
    DeadLetters(connection, tiers)  # it stands there until it is collected
    connection.delete(f"rq:job:{gone}")
    cancel.cancel(connection, jobs.fetch(connection, canceled))

    while step(desk, batch_id, work) is not None:
        pass

    progress = desk.batch(batch_id).progress
    assert (progress.status, progress.completed, progress.failed) == ("completed", 0, 4)
    by_id = {entry["custom_id"]: entry for entry in parsed(desk.errors(batch_id))}
    assert by_id["failed"]["response"]["status_code"] == 400
    assert by_id["failed"]["response"]["body"]["error"]["message"] == "no such thing"
    assert by_id["late"]["error"]["code"] == "batch_expired"
    assert by_id["gone"]["error"]["code"] == "result_lost"
    assert by_id["canceled"]["error"]["code"] == "canceled"
    assert connection.zcard("rq:failed:low") == connection.zcard("rq:canceled:low") == 0


CAUSE = {"code": "invalid_request", "message": "no such thing"}


def test_cancelling_keeps_what_is_done_and_stops_the_rest(
    connection: Redis, desk: Desk, quick: QuickWorker
) -> None:
    ids = [str(n) for n in range(1_300)]
    batch_id = desk.create(jsonl([*map(line, ids), "{"]))
    until_open(desk, batch_id, 50)
    quick.serve(20)
    running = quick.take(5)

    desk.cancel(batch_id)
    assert desk.batch(batch_id).progress.status == "cancelling"
    work = Work(batch_id)
    while desk.num_open(batch_id) > 5 or desk.batch(batch_id).progress.read_lines < 1_301:
        assert step(desk, batch_id, work) is not None
    stops = {connection.hget(claim.job.key, "stop_requested") for claim in running}
    quick.answer(running)  # they were faster than the stop
    carry_on(desk, batch_id, lambda: None)

    progress = desk.batch(batch_id).progress
    assert stops == {b"1"}
    assert (progress.status, progress.total) == ("cancelled", 1_301)
    assert (progress.completed, progress.failed) == (25, 1_276)
    assert progress.instants["cancelling_at"] <= progress.instants["cancelled_at"]
    assert_each_once([*ids, None], desk.output(batch_id), desk.errors(batch_id))
    codes = {entry["error"]["code"] for entry in parsed(desk.errors(batch_id)) if entry["error"]}
    assert codes == {"batch_cancelled"}
    assert connection.llen("rq:queue:low") == 0
    assert traces(connection, batch_id) == set()


def test_a_batch_that_is_cancelled_before_it_began_ends_at_once(desk: Desk) -> None:
    batch_id = desk.create(jsonl([line("a"), line("b")]))

    desk.cancel(batch_id)
    desk.cancel(batch_id)
    carry_on(desk, batch_id, lambda: None)

    progress = desk.batch(batch_id).progress
    assert (progress.status, progress.total, progress.failed) == ("cancelled", 2, 2)
    assert_each_once(["a", "b"], desk.errors(batch_id))


def test_when_the_window_has_passed_the_rest_is_written_off(
    connection: Redis, desk: Desk, quick: QuickWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [str(n) for n in range(800)]
    batch_id = desk.create(jsonl(map(line, ids)), window_s=3_600)
    work = until_open(desk, batch_id, 50)
    quick.serve(20)
    lost = quick.take(3)  # by a worker that says no more
    assert step(desk, batch_id, work) is not None
    soon = time.time() + 3_601
    monkeypatch.setattr("scheduler.batch_steps.time.time", lambda: soon)

    for _ in range(20):
        assert step(desk, batch_id, work) is not None
    assert desk.num_open(batch_id) == len(lost)
    assert desk.batch(batch_id).progress.status == "in_progress"
    monkeypatch.setattr(batch_advance, "GIVE_UP_S", 0.0)
    carry_on(desk, batch_id, lambda: None)

    progress = desk.batch(batch_id).progress
    assert (progress.status, progress.completed, progress.failed) == ("expired", 20, 780)
    assert_each_once(ids, desk.output(batch_id), desk.errors(batch_id))
    codes = {entry["error"]["code"] for entry in parsed(desk.errors(batch_id))}
    assert codes == {"batch_expired"}
    assert progress.instants["expired_at"]


def test_a_deleted_input_ends_the_batch_with_what_is_done(
    connection: Redis, desk: Desk, quick: QuickWorker
) -> None:
    batch_id = desk.create(jsonl(line(str(n)) for n in range(200)))
    until_open(desk, batch_id, 50)
    quick.serve(10)
    Files(connection).delete(desk.batch(batch_id).order.input_file_id, TENANT)

    carry_on(desk, batch_id, lambda: None)

    progress = desk.batch(batch_id).progress
    assert (progress.status, progress.completed) == ("failed", 10)
    assert [(fault.code, fault.line) for fault in progress.faults] == [("input_file_missing", 51)]
    assert len(parsed(desk.output(batch_id))) == 10
    assert [entry["error"]["code"] for entry in parsed(desk.errors(batch_id))] == [
        "batch_failed"
    ] * 40
    assert traces(connection, batch_id) == set()


def test_an_input_that_goes_before_it_is_looked_through_fails_the_batch(
    connection: Redis, desk: Desk
) -> None:
    batch_id = desk.create(jsonl([line("a")]))
    connection.delete(keys.piece(desk.batch(batch_id).order.input_file_id, 0))

    carry_on(desk, batch_id, lambda: None)

    progress = desk.batch(batch_id).progress
    assert (progress.status, progress.faults[0].code) == ("failed", "input_file_missing")


def test_results_of_many_steps_make_pieces_of_a_useful_size(
    connection: Redis, desk: Desk, quick: QuickWorker
) -> None:
    ids = [f"{n:0500}" for n in range(500)]
    batch_id = desk.create(jsonl(map(line, ids)))

    carry_on(desk, batch_id, lambda: quick.serve(20))

    output = desk.batch(batch_id).progress.output
    assert output.size > 2 * PIECE_BYTES
    stored_file = Files(connection).fetch(output.file_id, TENANT)
    assert stored_file.pieces == output.size // PIECE_BYTES + 1
    assert stored_file.filename == f"{batch_id}_output.jsonl"
    assert_each_once(ids, desk.output(batch_id))


class FiveAtATime:
    """An allowance of five open jobs for everybody."""

    def __init__(self, connection: Redis) -> None:
        self._connection = connection
        self.num_refused = 0

    def admit(self, submission: Submission) -> Submission | LineFault | None:
        if submission.request["body"]["prompt"] == "13=":
            return LineFault(None, "too_much", "it alone is more than the limit")
        if self._connection.llen("rq:queue:low") + self._pending(submission) < 5:
            return submission
        self.num_refused += 1
        return None

    def _pending(self, submission: Submission) -> int:
        """Of the same transaction: lines are queued in their order."""
        assert submission.job_id
        batch_id, _, number = submission.job_id.rpartition("-")
        record = json.loads(self._connection.hget(f"slalom:batch:{batch_id}", "progress") or "")
        return int(number) - 1 - int(record["read_lines"])


def test_a_limit_that_is_reached_makes_the_batch_wait(
    connection: Redis, desk: Desk, quick: QuickWorker
) -> None:
    allowance = FiveAtATime(connection)
    desk.means = replace(desk.means, allowance=allowance)
    batch_id = desk.create(jsonl(line(str(n)) for n in range(60)))
    work = until_open(desk, batch_id, 5)

    assert step(desk, batch_id, work) == batch_advance.IDLE_S
    assert (desk.num_open(batch_id), connection.llen("rq:queue:low")) == (5, 5)
    work_off(desk, batch_id, quick)

    assert desk.batch(batch_id).progress.completed == 59
    assert allowance.num_refused > 5
    [fault] = parsed(desk.errors(batch_id))
    assert (fault["custom_id"], fault["response"]["status_code"]) == ("13", 400)


def test_of_two_steps_at_once_one_does_nothing(
    connection: Redis, desk: Desk, quick: QuickWorker
) -> None:
    batch_id = desk.create(jsonl(line(str(n)) for n in range(60)))
    until_open(desk, batch_id, 1)
    quick.serve(5)
    other = connections.commands_like(connection)

    def overtaken() -> None:
        with editing(connection, batch_id) as (batch, pipeline):
            step(Desk(other, replace(desk.means, connection=other)), batch_id)
            batch.write(pipeline, replace(batch.progress, completed=1_000))

    with pytest.raises(WatchError):
        overtaken()

    assert desk.batch(batch_id).progress.completed == 5
    assert connection.llen("rq:queue:low") == desk.num_open(batch_id) == 50


def test_an_inspection_that_another_process_takes_over_begins_again(
    connection: Redis, desk: Desk, quick: QuickWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduler.batch_inspection.MOST_LINES", 30)
    ids = [str(n % 90) for n in range(100)]
    batch_id = desk.create(jsonl(map(line, ids)))

    work = Work(batch_id)
    for _ in range(2):
        step(desk, batch_id, work)
    assert isinstance(work.inspection, Inspection)
    work_off(desk, batch_id, quick)

    progress = desk.batch(batch_id).progress
    assert (progress.completed, progress.failed, progress.total) == (90, 10, 100)
