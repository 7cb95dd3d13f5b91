"""A tenant's job has its line: whatever comes of it, it waits there, and RQ sees it."""

import time
from datetime import UTC, datetime

from redis import Redis
from rq import Queue
from rq.serializers import JSONSerializer

from config.tiers import Promotion, TierTable
from scheduler import cancel, jobs, keys, workers
from scheduler.dead_letters import DeadLetters
from scheduler.deadlines import Deadlines
from scheduler.expiry import expire
from scheduler.maintenance import Maintenance
from scheduler.postpone import postpone
from scheduler.promotion import promote
from scheduler.rescue import rescue
from scheduler.submit import Submitter
from tests.contract.test_rq_commands import rq_cli
from tests.integration.test_claim import claims_of, ids
from tests.integration.test_fair_share import QUEUES, SHORT, lines, submit, take_one
from tests.integration.test_finish_and_rescue import expire as expire_lease


def waiting(connection: Redis, name: str) -> list[str]:
    return [job_id.decode() for job_id in connection.lrange(keys.queue(name), 0, -1)]


def test_rq_info_shows_the_lines_that_have_jobs_and_forgets_the_others(
    connection: Redis, redis_url: str, submitter: Submitter
) -> None:
    submit(submitter, "acme", 2)
    submit(submitter, "bob", 1)
    assert lines(connection) == {"low@acme", "low@bob"}
    shown = [text.split()[0:3:2] for text in rq_cli(redis_url, "info", "-R", "-Q").splitlines()]
    assert ["low@acme", "2,"] in shown
    claims = claims_of(connection)

    while claims.take(1):
        pass

    assert lines(connection) == set()
    for key in (keys.turns, keys.weights, keys.bell):
        assert connection.exists(key("low")) == 0
    assert connection.ttl(keys.line("low@acme")) > 0
    assert Queue("low", connection=connection).started_job_registry.count == 3


def test_a_thousand_tenants_that_left_are_forgotten_by_the_claim_that_finds_nobody(
    connection: Redis, submitter: Submitter
) -> None:
    for n in range(1200):
        [job_id] = submit(submitter, f"t{n}")
        connection.delete(f"rq:job:{job_id}")
    [last] = submit(submitter, "zoe")

    assert ids(claims_of(connection).take(1)) == [last]
    assert claims_of(connection).take(1) == []

    assert lines(connection) == set()
    assert connection.exists(keys.turns("low"), keys.weights("low"), keys.bell("low")) == 0


def test_what_rq_deletes_cancels_or_empties_is_passed_over(
    connection: Redis, submitter: Submitter
) -> None:
    deleted, canceled, kept = submit(submitter, "acme", 3)
    submit(submitter, "bob", 2)
    jobs.fetch(connection, deleted).delete()
    jobs.fetch(connection, canceled).cancel()
    Queue("low@bob", connection=connection).empty()

    assert ids(claims_of(connection).take(5)) == [kept]
    assert workers.depth(connection, "low") == (0, 1)


def test_handed_back_and_rescued_jobs_stand_in_front_of_their_own_lines(
    connection: Redis, submitter: Submitter
) -> None:
    acme, bob = submit(submitter, "acme", 3), submit(submitter, "bob", 3)
    claims = claims_of(connection)

    assert claims.release(claims.take(4)) == 4
    assert waiting(connection, "low@acme") == acme
    assert waiting(connection, "low@bob") == bob

    for claim in claims.take(4):
        expire_lease(connection, claim)
    rescue(connection, "low", max_deliveries=3)
    assert waiting(connection, "low@acme") == acme
    assert waiting(connection, "low@bob") == bob
    assert waiting(connection, "low") == []


def test_a_line_that_was_forgotten_meanwhile_is_there_again(
    connection: Redis, submitter: Submitter
) -> None:
    submit(submitter, "acme", weight=5)
    claims = claims_of(connection)
    taken = claims.take(1)
    assert claims.take(1) == []

    claims.release(taken)

    assert connection.hgetall(keys.weights("low")) == {b"low@acme": b"5"}
    assert lines(connection) == {"low@acme"}
    assert ids(claims.take(1)) == ids(taken)


def test_a_suspect_in_front_of_a_line_runs_alone_and_is_not_passed_for_ever(
    connection: Redis, submitter: Submitter
) -> None:
    [suspect, _] = submit(submitter, "acme", 2)
    submit(submitter, "bob", 30)
    connection.hset(f"rq:job:{suspect}", "suspect", 1)
    claims = claims_of(connection)

    beside = claims.take(5, is_empty=False)
    closed = claims.take(5, is_empty=False)
    alone = claims.take(5, is_empty=True)

    assert beside == closed == []
    assert claims.num_open == 1
    assert ids(alone) == [suspect]
    assert alone[0].alone


def test_a_retry_and_a_replay_come_back_to_their_own_line(
    connection: Redis, submitter: Submitter, tiers: TierTable
) -> None:
    [retried] = submit(submitter, "acme")
    claims = claims_of(connection)
    now = datetime.now(UTC)
    assert postpone(connection, "w", take_one(claims), delay_s=0, ended_at=now) == "written"
    maintenance = Maintenance(connection, QUEUES, 3, lease_s=30)

    maintenance.upkeep()

    assert waiting(connection, "low@acme") == [retried]
    job = jobs.fetch(connection, retried)
    assert (job.get_status(), job.origin) == ("queued", "low")
    assert connection.zcard(keys.scheduled("low")) == 0

    for _ in range(3):
        expire_lease(connection, take_one(claims))
        rescue(connection, "low", max_deliveries=3)
    later = submit(submitter, "acme")
    DeadLetters(connection, tiers).replay(retried)
    assert waiting(connection, "low@acme") == [*later, retried]


def test_retries_of_plain_rq_jobs_are_left_to_rqs_scheduler(
    connection: Redis, submitter: Submitter
) -> None:
    queue = Queue("low", connection=connection, serializer=JSONSerializer)
    plain = queue.enqueue_at(datetime.fromtimestamp(time.time() - 5, UTC), "math.sqrt", 4)

    Maintenance(connection, QUEUES, 3, lease_s=30).upkeep()

    assert waiting(connection, "low") == [plain.id]


def test_a_tenants_job_that_rq_put_into_the_queue_itself_is_charged_to_both(
    connection: Redis, submitter: Submitter
) -> None:
    """Or failing would be a way to have more than one's share."""
    [failed] = submit(submitter, "acme")
    claims = claims_of(connection)
    job = take_one(claims).job
    Queue("low", connection=connection, serializer=JSONSerializer).enqueue_job(job)
    submit(submitter, "bob", 2)
    assert waiting(connection, "low") == [failed]
    assert not jobs.fetch(connection, failed).connection.hexists(job.key, "line")

    claims.take(1)

    turns = connection.zrange(keys.turns("low"), 0, -1, withscores=True)
    assert turns == [(b"low@bob", 0.0), (b"low", 10.0), (b"low@acme", 10.0)]


def test_a_cancelled_job_leaves_its_line(connection: Redis, submitter: Submitter) -> None:
    first, second, third = submit(submitter, "acme", 3)

    assert cancel.cancel(connection, jobs.fetch(connection, second)) == "canceled"

    assert waiting(connection, "low@acme") == [first, third]
    assert workers.depth(connection, "low") == (2, 0)


def test_a_late_job_ends_and_leaves_its_line(connection: Redis, submitter: Submitter) -> None:
    now = time.time()
    late = submit(submitter, "acme", 2, deadlines=Deadlines(now - 1, None, now - 10))
    [kept] = submit(submitter, "acme")

    assert sorted(expire(connection, "low").expired) == sorted(late)

    assert waiting(connection, "low@acme") == [kept]
    assert {jobs.view(jobs.fetch(connection, job_id)).status for job_id in late} == {"expired"}


def test_a_claim_puts_a_late_job_of_a_line_aside(connection: Redis, submitter: Submitter) -> None:
    now = time.time()
    [late] = submit(submitter, "acme", deadlines=Deadlines(now - 1, None, now - 10))
    [kept] = submit(submitter, "acme")

    assert ids(claims_of(connection).take(2)) == [kept]
    assert expire(connection, "low").expired == [late]


def test_promoted_jobs_of_all_tenants_are_claimed_next_in_the_order_of_their_deadlines(
    connection: Redis, submitter: Submitter
) -> None:
    submit(submitter, "acme", 40)
    submit(submitter, "bob", 40)
    running = claims_of(connection).take(20)
    now = time.time()
    urgent = [
        submit(submitter, tenant, deadlines=Deadlines(None, now + 35 + n / 1000, now))[0]
        for n, tenant in enumerate(["acme", "default", "acme", "bob"])
    ]
    policy = Promotion(service_s=30, max_share=0.2)

    assert promote(connection, "low", policy) == urgent
    assert promote(connection, "low", policy) == []
    turns = dict(connection.zrange(keys.turns("low"), 0, -1, withscores=True))
    taken = claims_of(connection).take(4)

    assert len(running) == 20
    assert ids(taken) == urgent
    after = dict(connection.zrange(keys.turns("low"), 0, -1, withscores=True))
    assert after[b"low@acme"] - turns[b"low@acme"] == 2 * SHORT
    assert after[b"low@bob"] - turns[b"low@bob"] == SHORT


def test_a_promoted_job_stays_so_when_it_is_handed_back(
    connection: Redis, submitter: Submitter
) -> None:
    now = time.time()
    [urgent] = submit(submitter, "acme", deadlines=Deadlines(None, now + 35, now))
    submit(submitter, "bob", 5)
    promote(connection, "low", Promotion(service_s=30, max_share=0.2))
    claims = claims_of(connection)
    taken = claims.take(1)
    claims.release(taken)

    assert ids(claims.take(1)) == ids(taken) == [urgent]
