"""A job's place in the line: exact near both ends, whatever leaves, comes back or has no place."""

from datetime import UTC, datetime

import pytest
from redis import Redis
from rq import Queue
from rq.serializers import JSONSerializer

from config.tiers import TierTable
from scheduler import cancel, jobs, keys, line
from scheduler.dead_letters import DeadLetters
from scheduler.line import Line, Place
from scheduler.postpone import postpone
from scheduler.rescue import rescue
from scheduler.submit import Submitter
from tests.integration.test_claim import REQUEST, claims_of, submit

QUEUES = ["high", "low"]
WORK = 256  # of REQUEST, of which nothing is known


def look(connection: Redis, job_id: str = "", queue: str = "low") -> Line:
    return line.look(connection, QUEUES, queue, job_id)


def positions(connection: Redis, ids: list[str]) -> list[int | None]:
    return [look(connection, job_id).position for job_id in ids]


def place(connection: Redis, job_id: str) -> Place | None:
    return Place.read(connection.hget(f"rq:job:{job_id}", "place"))


def test_a_job_stands_behind_its_own_queue_and_those_above(
    connection: Redis, submitter: Submitter
) -> None:
    low = submit(submitter, "batch", 3)
    high = submit(submitter, "premium", 2)

    assert positions(connection, low) == [2, 3, 4]
    assert look(connection, high[1], "high").position == 1
    assert look(connection).position == 5
    assert look(connection, low[2]).work_ahead(1.0) == 4 * WORK


def test_the_odometer_counts_what_came_before(connection: Redis, submitter: Submitter) -> None:
    ids = submit(submitter, "batch", 3)

    places = [place(connection, job_id) for job_id in ids]
    assert places == [Place(n + 1, n * WORK, WORK, "low") for n in range(3)]
    assert connection.hgetall(keys.line("low")) == {b"jobs": b"3", b"work": b"768"}


def test_cancelled_jobs_make_room(connection: Redis, submitter: Submitter) -> None:
    ids = submit(submitter, "batch", 5)

    for gone in (ids[0], ids[2]):
        cancel.cancel(connection, jobs.fetch(connection, gone))

    assert positions(connection, [ids[1], ids[3], ids[4]]) == [0, 1, 2]
    assert look(connection, ids[4]).work_ahead(1.0) == 2 * WORK
    assert look(connection, ids[0]).position is None


def test_far_inside_a_long_queue_the_position_is_interpolated(
    connection: Redis, submitter: Submitter, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = submit(submitter, "batch", 30)
    for gone in ids[::3]:
        cancel.cancel(connection, jobs.fetch(connection, gone))
    monkeypatch.setattr(line, "REACH", 4)

    found = positions(connection, [job_id for i, job_id in enumerate(ids) if i % 3])

    assert found[:4] == [0, 1, 2, 3]
    assert found[-4:] == [16, 17, 18, 19]
    assert all(abs((position or 0) - i) <= 1 for i, position in enumerate(found))


def test_what_comes_back_in_front_keeps_its_place(connection: Redis, submitter: Submitter) -> None:
    ids = submit(submitter, "batch", 6)
    places = [place(connection, job_id) for job_id in ids]
    claims = claims_of(connection, lease_s=0.0)

    claims.release(claims.take(2))
    assert positions(connection, ids) == [0, 1, 2, 3, 4, 5]
    claims.take(4)
    rescue(connection, "low", max_deliveries=3)

    assert positions(connection, ids) == [0, 1, 2, 3, 4, 5]
    assert [place(connection, job_id) for job_id in ids] == places
    assert look(connection, ids[5]).work_ahead(1.0) == 5 * WORK


def test_what_is_put_at_the_end_again_has_no_place(
    connection: Redis, submitter: Submitter, tiers: TierTable
) -> None:
    ids = submit(submitter, "batch", 3)
    [claim] = claims_of(connection).take(1)
    verdict = postpone(connection, "w", claim, delay_s=0, ended_at=datetime.now(UTC))

    assert verdict == "written"
    assert place(connection, ids[0]) is None
    assert positions(connection, ids) == [None, 0, 1]


def test_plain_rq_jobs_count_and_have_a_position_without_a_place(
    connection: Redis, submitter: Submitter
) -> None:
    [first] = submit(submitter, "batch", 1)
    queue = Queue("low", connection=connection, serializer=JSONSerializer)
    plain = queue.enqueue("gpu_worker.generate", REQUEST)
    [last] = submit(submitter, "batch", 1)

    assert place(connection, plain.id) is None
    assert positions(connection, [first, plain.id, last]) == [0, 1, 2]
    assert look(connection, last).work_ahead(1.0) == 2 * WORK


def test_a_queue_of_plain_rq_jobs_is_counted_by_the_mean_work(connection: Redis) -> None:
    queue = Queue("low", connection=connection, serializer=JSONSerializer)
    for _ in range(3):
        last = queue.enqueue("gpu_worker.generate", REQUEST)

    assert look(connection, last.id).work_ahead(7.0) == 14


def test_a_replayed_job_starts_a_new_life(
    connection: Redis, submitter: Submitter, tiers: TierTable
) -> None:
    [job_id] = submit(submitter, "batch", 1)
    claims = claims_of(connection, lease_s=0.0)
    for _ in range(3):
        claims.take(1)
        rescue(connection, "low", max_deliveries=3)
    assert place(connection, job_id) is not None

    DeadLetters(connection, tiers).replay(job_id)

    assert place(connection, job_id) is None


def test_a_job_in_another_queue_than_it_came_to_has_no_place_there(
    connection: Redis, submitter: Submitter
) -> None:
    [job_id] = submit(submitter, "batch", 1)
    connection.lrem("rq:queue:low", 1, job_id)
    connection.lpush("rq:queue:high", job_id)

    seen = look(connection, job_id, "high")
    assert (seen.position, seen.place) == (0, None)


def test_a_suspended_line_says_so(connection: Redis) -> None:
    connection.set("rq:suspended", 1)

    assert look(connection).is_suspended


def test_submission_and_place_are_one_transaction(connection: Redis, submitter: Submitter) -> None:
    with connection.monitor() as monitor:
        submitter.submit(REQUEST, tier="batch")
        seen: list[str] = []
        while not seen or seen[-1] != "EXEC":
            seen.append(monitor.next_command()["command"].split()[0].upper())

    assert seen.count("MULTI") == seen.count("EXEC") == 1
    inside = seen[seen.index("MULTI") :]
    assert {"HSET", "RPUSH", "EVAL"} <= set(inside)
    assert "HINCRBY" in inside
