"""Who waits past a deadline never runs, ends once, and says so; who has none waits for ever."""

import threading
import time
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from redis import Redis
from rq import Queue
from rq.job import Dependency, Job, JobStatus
from rq.registry import DeferredJobRegistry, FailedJobRegistry
from rq.serializers import JSONSerializer

from config.tiers import TierTable
from scheduler import cancel, jobs, keys
from scheduler.claim import Claim
from scheduler.dead_letter_pages import Filter
from scheduler.dead_letters import DeadLetters
from scheduler.deadlines import Deadlines
from scheduler.expiry import STEP, expire
from scheduler.finish import write
from scheduler.maintenance import Maintenance
from scheduler.postpone import postpone
from scheduler.rescue import rescue
from scheduler.submit import Submitter
from tests.conftest import StartWorker, until
from tests.integration.test_claim import REQUEST, claims_of, ids, submit
from tests.integration.test_finish_and_rescue import expire as expire_lease
from tests.integration.test_finish_and_rescue import success
from tests.integration.test_worker import LONG

HOUR_S = 3600.0


def queue_of(connection: Redis, name: str = "low") -> Queue:
    return Queue(name, connection=connection, serializer=JSONSerializer)


def ago(seconds: float = 5.0, *, field: str = "finish_by", span_s: float = 30.0) -> Deadlines:
    """Return deadlines of which one passed some seconds ago."""
    past = time.time() - seconds
    return replace(Deadlines(since=past - span_s), **{field: past})


def submit_late(submitter: Submitter, count: int = 1, *, field: str = "finish_by") -> list[str]:
    late = ago(field=field)
    return [submitter.submit(REQUEST, tier="batch", deadlines=late).id for _ in range(count)]


def let_pass(connection: Redis, job_id: str, field: str, queue: str = "low") -> None:
    """Move a deadline of a job into the past."""
    connection.hset(f"rq:job:{job_id}", field, 1)
    connection.zadd(keys.deadlines(queue), {job_id: 1}, xx=True)


def status(connection: Redis, job_id: str) -> str:
    return jobs.view(jobs.fetch(connection, job_id)).status


def places(connection: Redis, job_id: str, queue: str = "low") -> list[str]:
    """Return the lists in which a job stands."""
    registries = [keys.failed(queue), keys.scheduled(queue), f"rq:finished:{queue}"]
    found = [key for key in registries if connection.zscore(key, job_id) is not None]
    waits = connection.lpos(keys.queue(queue), job_id) is not None
    runs = connection.zrange(keys.started(queue), 0, -1)
    started = any(member.decode().startswith(job_id) for member in runs)
    return found + ["queue"] * waits + ["started"] * started


@pytest.mark.parametrize("field", ["start_by", "finish_by"])
def test_a_late_job_is_never_claimed_and_ends_as_expired(
    connection: Redis, submitter: Submitter, field: str
) -> None:
    [late] = submit_late(submitter, field=field)
    [timely] = submit(submitter, "batch", 1)

    taken = claims_of(connection).take(8)

    assert ids(taken) == [timely]
    assert places(connection, late) == []
    assert connection.zscore(keys.deadlines("low"), late) == 0
    assert expire(connection, "low").expired == [late]
    assert places(connection, late) == [keys.failed("low")]
    assert status(connection, late) == "expired"


def test_maintenance_ends_late_jobs_where_no_worker_claims(
    connection: Redis, submitter: Submitter
) -> None:
    late = submit_late(submitter, 3)
    timely = submit(submitter, "batch", 2)

    Maintenance(connection, ["high", "low"], max_deliveries=3, lease_s=30).upkeep()

    assert [status(connection, job_id) for job_id in late] == ["expired"] * 3
    assert queue_of(connection).job_ids == timely
    assert connection.zcard(keys.deadlines("low")) == 2


def test_an_expired_job_is_a_dead_letter_of_rqs_with_its_numbers(
    connection: Redis, submitter: Submitter, tiers: TierTable
) -> None:
    [late] = submit_late(submitter, field="start_by")

    expire(connection, "low")

    job = Job.fetch(late, connection=connection, serializer=JSONSerializer)
    assert job.get_status() == JobStatus.FAILED
    assert late in FailedJobRegistry(queue=queue_of(connection))
    result = job.latest_result()
    assert result is not None
    assert result.exc_string is not None
    assert result.exc_string.startswith("Expired: it had to start within 30.0 s, by 20")
    assert connection.ttl(job.key) > 0
    view = jobs.view(job)
    assert view.finished_at is not None
    assert view.failure == {"code": "expired", "message": result.exc_string}
    [letter] = DeadLetters(connection, tiers).page(Filter(cause="expired")).letters
    assert (letter.id, letter.attempts) == (late, 0)


def test_who_waits_for_an_answer_is_told(connection: Redis, submitter: Submitter) -> None:
    [late] = submit_late(submitter)
    with connection.pubsub() as ended:
        ended.subscribe(keys.ENDED)
        ended.get_message(timeout=10)

        expire(connection, "low")

        message = ended.get_message(timeout=10)
    assert message is not None
    assert message["data"] == late.encode()


def test_a_job_expires_once_however_many_look_at_once(
    connection: Redis, submitter: Submitter
) -> None:
    late = submit_late(submitter, 3 * STEP)
    expired: list[str] = []

    def sweep() -> None:
        while (swept := expire(connection, "low")).looked_at:
            expired.extend(swept.expired)

    def claim() -> None:
        for _ in range(20):
            assert claims_of(connection).take(8) == []

    threads = [threading.Thread(target=target) for target in (sweep, claim, sweep)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert Counter(expired) == Counter(late)
    assert connection.zcard(keys.failed("low")) == len(late)
    assert {connection.xlen(f"rq:results:{job_id}") for job_id in late} == {1}
    assert connection.llen(keys.queue("low")) == 0


def test_a_claim_finds_the_timely_one_behind_thousands_of_late_ones(
    connection: Redis, submitter: Submitter
) -> None:
    late = submit_late(submitter, 2100)
    [timely] = submit(submitter, "batch", 1)

    taken = claims_of(connection).take(4)

    assert ids(taken) == [timely]
    assert connection.zcount(keys.deadlines("low"), 0, 0) == len(late)


def test_start_by_is_met_by_the_first_start(connection: Redis, submitter: Submitter) -> None:
    [job_id] = submit(submitter, "batch", 1)
    claims = claims_of(connection)
    claims.release(claims.take(1))
    let_pass(connection, job_id, "start_by")

    assert expire(connection, "low").expired == []
    assert ids(claims.take(1)) == [job_id]


def test_finish_by_holds_while_a_retry_waits(connection: Redis, submitter: Submitter) -> None:
    [job_id] = submit(submitter, "batch", 1)
    [claim] = claims_of(connection).take(1)
    postpone(connection, "w", claim, delay_s=HOUR_S, ended_at=datetime.now(UTC))
    let_pass(connection, job_id, "finish_by")

    assert expire(connection, "low").expired == [job_id]

    assert places(connection, job_id) == [keys.failed("low")]


def test_finish_by_holds_after_a_rescue(connection: Redis, submitter: Submitter) -> None:
    [job_id] = submit(submitter, "batch", 1)
    [claim] = claims_of(connection).take(1)
    let_pass(connection, job_id, "finish_by")
    assert expire(connection, "low").expired == []
    expire_lease(connection, claim)
    rescue(connection, "low", max_deliveries=3)

    assert claims_of(connection).take(1) == []

    assert expire(connection, "low").expired == [job_id]
    assert places(connection, job_id) == [keys.failed("low")]


def test_a_running_job_is_left_to_its_worker_which_is_told(
    connection: Redis, submitter: Submitter
) -> None:
    late, cancelled, timely = submit(submitter, "batch", 3)
    claims = claims_of(connection)
    taken = claims.take(3)
    for job_id in (late, cancelled):
        let_pass(connection, job_id, "finish_by")
    let_pass(connection, timely, "start_by")
    cancel.cancel(connection, jobs.fetch(connection, cancelled))

    assert claims.renew(taken) == ["expired", "stop", "held"]

    assert expire(connection, "low").expired == []
    assert [places(connection, claim.job.id) for claim in taken] == [["started"]] * 3


def test_a_running_job_is_aborted_at_its_finish_by_with_what_it_has(
    connection: Redis, submitter: Submitter, start_worker: StartWorker
) -> None:
    start_worker("--job-monitoring-interval", "3600", "low", SLALOM_LEASE_S=str(HOUR_S))
    soon = Deadlines(finish_by=time.time() + 2, since=time.time())

    late = submitter.submit(LONG, tier="batch", deadlines=soon).id

    until(lambda: status(connection, late) in jobs.ENDED)  # long before the first heartbeat
    view = jobs.view(jobs.fetch(connection, late))
    assert view.status == "expired"
    assert view.failure is not None
    assert view.failure["message"].endswith("and was still running")
    assert view.response


def test_a_job_whose_finish_by_passes_by_rediss_clock_is_aborted_at_a_heartbeat(
    connection: Redis, submitter: Submitter, start_worker: StartWorker
) -> None:
    late = submitter.submit(LONG, tier="batch").id
    start_worker("--job-monitoring-interval", "1", "low")
    until(lambda: status(connection, late) == "running")

    let_pass(connection, late, "finish_by")

    until(lambda: status(connection, late) in jobs.ENDED)
    view = jobs.view(jobs.fetch(connection, late))
    assert view.status == "expired"
    assert view.failure is not None
    assert view.failure["message"].endswith("and was still running")
    assert places(connection, late) == [keys.failed("low")]


def test_of_a_cancel_and_the_expiry_one_wins(connection: Redis, submitter: Submitter) -> None:
    cancelled, expired, passed = submit_late(submitter, 3)

    assert cancel.cancel(connection, jobs.fetch(connection, cancelled)) == "canceled"
    assert connection.zscore(keys.deadlines("low"), cancelled) is None
    connection.lrem(keys.queue("low"), 1, passed)
    connection.zadd(keys.deadlines("low"), {passed: 0})
    assert cancel.cancel(connection, jobs.fetch(connection, passed)) == "canceled"
    assert expire(connection, "low").expired == [expired]
    assert cancel.cancel(connection, jobs.fetch(connection, expired)) == "ended"

    found = [status(connection, job_id) for job_id in (cancelled, expired, passed)]
    assert found == ["canceled", "expired", "canceled"]


def test_a_replay_counts_the_deadlines_afresh(
    connection: Redis, submitter: Submitter, tiers: TierTable
) -> None:
    [late] = submit_late(submitter)
    expire(connection, "low")

    DeadLetters(connection, tiers).replay(late)

    view = jobs.view(jobs.fetch(connection, late))
    assert view.status == "queued"
    assert view.deadlines.finish_by is not None
    assert view.deadlines.since is not None
    assert view.deadlines.finish_by > time.time()
    assert round(view.deadlines.finish_by - view.deadlines.since, 1) == 30.0
    assert connection.zscore(keys.deadlines("low"), late) == view.deadlines.finish_by
    assert connection.zscore(keys.promotions("low"), late) is not None
    assert ids(claims_of(connection).take(1)) == [late]


def test_who_succeeds_is_watched_no_more(connection: Redis, submitter: Submitter) -> None:
    submit(submitter, "batch", 1)
    [claim] = claims_of(connection).take(1)

    assert write(connection, "w", [success(claim, "answer")]) == ["written"]

    kept = {b"slalom:line:low", b"slalom:jobs:default", b"slalom:listed"}
    assert set(connection.keys("slalom:*")) == kept


def test_jobs_of_plain_rq_have_no_deadline(connection: Redis) -> None:
    job = queue_of(connection).enqueue("tests.callables.nothing")

    assert connection.keys("slalom:*") == []
    assert expire(connection, "low").looked_at == 0
    assert ids(claims_of(connection).take(1)) == [job.id]


@pytest.mark.parametrize("damaged", ["", "soon", "nan", "-inf", "-1"])
def test_a_damaged_deadline_is_none(connection: Redis, submitter: Submitter, damaged: str) -> None:
    [job_id] = submit(submitter, "batch", 1)
    for field in ("start_by", "finish_by"):
        let_pass(connection, job_id, field)
        connection.hset(f"rq:job:{job_id}", field, damaged)

    assert expire(connection, "low").expired == []

    assert jobs.view(jobs.fetch(connection, job_id)).deadlines.deadline_at is None
    [claim] = claims_of(connection).take(1)
    assert claims_of(connection).renew([claim]) == ["held"]


def test_what_is_no_job_stops_nobody(connection: Redis, submitter: Submitter) -> None:
    [late] = submit_late(submitter)
    connection.set("rq:job:a-string", "no hash")
    connection.zadd(keys.deadlines("low"), {"a-string": 1, "gone": 2})

    assert expire(connection, "low").expired == [late]
    assert connection.zcard(keys.deadlines("low")) == 0


def test_a_job_that_may_run_without_an_expired_one_does(
    connection: Redis, submitter: Submitter
) -> None:
    [late] = submit_late(submitter)
    low = queue_of(connection)
    waiting = Dependency(jobs=[late], allow_failure=True)
    after = low.enqueue("tests.callables.nothing", depends_on=waiting)
    assert after.id in DeferredJobRegistry(queue=low)

    expire(connection, "low")

    assert low.job_ids == [after.id]


def test_a_record_that_changed_since_it_was_read_is_left(
    connection: Redis, submitter: Submitter, monkeypatch: pytest.MonkeyPatch
) -> None:
    [late] = submit_late(submitter)
    script = keys.script

    def slowly(client: Redis, name: str) -> object:
        connection.hset(f"rq:job:{late}", "finish_by", time.time() + HOUR_S)
        return script(client, name)

    monkeypatch.setattr("scheduler.keys.script", slowly)

    assert expire(connection, "low").expired == []
    taken: list[Claim] = claims_of(connection).take(1)
    assert ids(taken) == [late]
