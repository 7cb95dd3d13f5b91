"""A job that failed comes back within the bounds of its tier, as often as that allows."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from redis import Redis
from rq import Queue, Retry
from rq.job import JobStatus
from rq.registry import ScheduledJobRegistry

from config.settings import ROOT
from config.tiers import TierTable
from scheduler import cancel, jobs, keys
from scheduler.claim import Claim
from scheduler.dead_letters import DeadLetters
from scheduler.jobs import Request
from scheduler.maintenance import Maintenance
from scheduler.postpone import Postponed, postpone
from scheduler.submit import Submitter
from tests.conftest import StartWorker, until
from tests.integration.test_claim import claims_of, submit
from tests.integration.test_finish_and_rescue import expire
from tests.integration.test_worker import SHORT, num_inflight, queue_of

SHIPPED, QUICK = "{max: 3, base_s: 5, cap_s: 300}", "{max: 3, base_s: 0.5, cap_s: 0.75}"
TOO_LONG = Request(endpoint="/v1/completions", body={"prompt": "x" * 20_000})


@pytest.fixture
def quick(tmp_path: Path) -> Path:
    """A table whose batch jobs come back soon."""
    text = (ROOT / "config" / "tiers.yaml").read_text(encoding="utf-8")
    assert SHIPPED in text
    path = tmp_path / "tiers.yaml"
    path.write_text(text.replace(SHIPPED, QUICK), encoding="utf-8")
    return path


@pytest.fixture
def maintenance(connection: Redis) -> Maintenance:
    return Maintenance(connection, ["high", "low"], max_deliveries=3, lease_s=30)


def submit_failing(
    connection: Redis, tiers: TierTable, monkeypatch: pytest.MonkeyPatch, tier: str = "batch"
) -> str:
    """Submit a job that fails with `job_failed`, all else as every job of the tier."""
    with monkeypatch.context() as patch:
        patch.setattr("scheduler.submit.FUNCTION", "tests.callables.fail")
        return Submitter(connection, tiers).submit(SHORT, tier=tier).id


def now_s(connection: Redis) -> float:
    seconds, microseconds = connection.time()
    return float(seconds) + microseconds / 1e6


def failed_attempt(connection: Redis, job_id: str, retries_left: int) -> float | None:
    """Return when the job is due, once the attempt that left it `retries_left` is over."""
    job = jobs.fetch(connection, job_id)
    due_s = connection.zscore(keys.scheduled(job.origin), job_id)
    is_over = job.retries_left == retries_left and not num_inflight(connection, job.origin)
    return due_s if is_over else None


def wait_for_retry(connection: Redis, job_id: str, retries_left: int) -> float:
    until(lambda: failed_attempt(connection, job_id, retries_left) is not None)
    due_s = failed_attempt(connection, job_id, retries_left)
    assert due_s is not None
    return due_s


def make_due(connection: Redis, maintenance: Maintenance, job_id: str) -> None:
    """Let the pause be over now."""
    connection.zadd(keys.scheduled("low"), {job_id: 1}, xx=True)
    maintenance.upkeep()


def test_a_failing_job_comes_back_within_its_tiers_bounds_and_ends_as_a_dead_letter(
    connection: Redis,
    quick: Path,
    maintenance: Maintenance,
    start_worker: StartWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tiers = TierTable.load(quick)
    start_worker("low", SLALOM_TIERS_FILE=str(quick))
    queue = queue_of(connection, "low")
    before_s = now_s(connection)
    job_id = submit_failing(connection, tiers, monkeypatch)

    for retries_left, bound_s in [(2, 0.5), (1, 0.75), (0, 0.75)]:
        due_s = wait_for_retry(connection, job_id, retries_left)
        assert before_s <= due_s <= now_s(connection) + bound_s
        job = jobs.fetch(connection, job_id)
        assert job.get_status() == JobStatus.SCHEDULED
        assert job.retry_intervals == [0]
        assert ScheduledJobRegistry(queue=queue).get_scheduled_time(job) == (
            datetime.fromtimestamp(due_s, UTC)
        )
        before_s = now_s(connection)
        until(
            lambda: (
                maintenance.upkeep(),
                connection.zscore(keys.scheduled("low"), job_id) is None,
            )[1]
        )
        assert now_s(connection) >= due_s

    letters = DeadLetters(connection, tiers)
    until(lambda: jobs.fetch(connection, job_id).get_status() == JobStatus.FAILED)
    assert letters.get(job_id).retries_left == 0
    assert jobs.view(letters.get(job_id)).failure == {
        "code": "job_failed",
        "message": f"RuntimeError: {SHORT}",
    }

    letters.replay(job_id)
    wait_for_retry(connection, job_id, 2)


@pytest.mark.parametrize("tier", ["premium", "standard", "batch"])
def test_a_shipped_tiers_first_pause_is_within_its_base(
    connection: Redis,
    tiers: TierTable,
    start_worker: StartWorker,
    monkeypatch: pytest.MonkeyPatch,
    tier: str,
) -> None:
    policy = tiers.tiers[tier].retry
    before_s = now_s(connection)
    job_id = submit_failing(connection, tiers, monkeypatch, tier)

    start_worker()

    due_s = wait_for_retry(connection, job_id, policy.max - 1)
    assert before_s <= due_s <= now_s(connection) + policy.base_s


def test_bad_input_is_never_retried(
    connection: Redis, submitter: Submitter, start_worker: StartWorker
) -> None:
    terms = Retry(max=2, interval=[100, 200])
    bad = [
        submitter.submit(TOO_LONG, tier="premium"),
        queue_of(connection, "low").enqueue(jobs.FUNCTION, "text", retry=terms),
        Queue("low", connection=connection).enqueue("tests.callables.add", 1, 2, retry=terms),
    ]

    start_worker("--burst", "high", "low").wait()

    assert [job.get_status() for job in bad] == [JobStatus.FAILED] * 3
    assert [len(job.results()) for job in bad] == [1] * 3
    assert not connection.exists(keys.scheduled("high"), keys.scheduled("low"))


@pytest.mark.parametrize("meta", [{}, {"tier": "batch"}, {"tier": ["batch"]}])
def test_a_plain_retry_keeps_its_own_intervals(
    connection: Redis, maintenance: Maintenance, start_worker: StartWorker, meta: dict[str, object]
) -> None:
    start_worker("low")
    before_s = now_s(connection)
    job = queue_of(connection, "low").enqueue(
        "tests.callables.fail", "broken", retry=Retry(max=2, interval=[1000, 3000]), meta=meta
    )

    for retries_left, interval_s in [(1, 1000), (0, 3000)]:
        due_s = wait_for_retry(connection, job.id, retries_left)
        assert before_s <= due_s - interval_s <= now_s(connection)
        assert jobs.fetch(connection, job.id).retry_intervals == [1000, 3000]
        before_s = now_s(connection)
        make_due(connection, maintenance, job.id)

    until(lambda: job.get_status() == JobStatus.FAILED)
    assert connection.zscore(keys.failed("low"), job.id) is not None


def test_a_plain_retry_without_intervals_runs_again_at_once(
    connection: Redis, start_worker: StartWorker
) -> None:
    job = queue_of(connection, "low").enqueue("tests.callables.fail", "broken", retry=Retry(max=2))

    start_worker("--burst", "low").wait()

    assert job.get_status() == JobStatus.FAILED
    assert connection.hget("rq:worker:w0", "failed_job_count") == b"3"


def postponed(connection: Redis, claim: Claim, delay_s: float = 100) -> Postponed:
    return postpone(connection, "w", claim, delay_s=delay_s, ended_at=datetime.now(UTC))


def test_a_postponed_job_keeps_the_fraction_of_its_pause_and_can_be_cancelled(
    connection: Redis, submitter: Submitter
) -> None:
    [job_id] = submit(submitter, "batch", 1)
    [claim] = claims_of(connection).take(1)
    before_s = now_s(connection)

    assert postponed(connection, claim, delay_s=0.25) == "written"

    due_s = connection.zscore(keys.scheduled("low"), job_id)
    assert due_s is not None
    assert before_s + 0.25 <= due_s <= now_s(connection) + 0.25
    assert num_inflight(connection) == 0
    assert cancel.cancel(connection, jobs.fetch(connection, job_id)) == "canceled"
    assert not connection.exists(keys.scheduled("low"))


def test_a_lost_job_is_not_postponed(connection: Redis, submitter: Submitter) -> None:
    [job_id] = submit(submitter, "batch", 1)
    [claim] = claims_of(connection).take(1)
    expire(connection, claim)
    Maintenance(connection, ["low"], max_deliveries=3, lease_s=30).upkeep()

    assert postponed(connection, claim) == "lost"

    job = jobs.fetch(connection, job_id)
    assert (job.get_status(), job.retries_left) == (JobStatus.QUEUED, 3)
    assert not connection.exists(keys.scheduled("low"))


def test_a_job_that_was_cancelled_while_it_failed_is_stopped(
    connection: Redis,
    tiers: TierTable,
    start_worker: StartWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job_id = submit_failing(connection, tiers, monkeypatch)
    connection.hset(f"rq:job:{job_id}", "stop_requested", 1)

    start_worker("--burst", "low").wait()

    assert jobs.fetch(connection, job_id).get_status() == JobStatus.STOPPED
    assert not connection.exists(keys.scheduled("low"), keys.started("low"))
