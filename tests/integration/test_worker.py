"""GPUWorker as a process, simulated engine: many jobs at once, none lost however it ends."""

import signal

import pytest
from redis import Redis
from rq import Queue, Retry
from rq.command import send_shutdown_command
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer
from rq.worker import Worker

from scheduler import cancel, jobs, keys
from scheduler.jobs import Request
from scheduler.rescue import rescue
from scheduler.submit import Submitter
from tests.conftest import StartWorker, latest, until

SHORT = Request(endpoint="/v1/completions", body={"prompt": "1+1=", "max_tokens": 2})
LONG = Request(endpoint="/v1/completions", body={"prompt": "1+1=", "max_tokens": 4000})


def views(connection: Redis, ids: list[str]) -> list[jobs.JobView]:
    return [jobs.view(jobs.fetch(connection, job_id)) for job_id in ids]


def all_ended(connection: Redis, ids: list[str]) -> bool:
    return all(view.status in jobs.ENDED for view in views(connection, ids))


def num_inflight(connection: Redis, queue: str = "low") -> int:
    return int(connection.zcard(keys.started(queue)))


def queue_of(connection: Redis, name: str) -> Queue:
    return Queue(name, connection=connection, serializer=JSONSerializer)


def test_many_jobs_run_at_the_same_time(
    connection: Redis, submitter: Submitter, start_worker: StartWorker
) -> None:
    ids = [submitter.submit(LONG, tier="batch").id for _ in range(40)]

    start_worker()

    until(lambda: num_inflight(connection) == 40)
    assert {view.status for view in views(connection, ids)} == {"running"}


def test_a_burst_ends_every_job_and_the_worker(
    connection: Redis, submitter: Submitter, start_worker: StartWorker
) -> None:
    ids = [submitter.submit(SHORT, tier=t).id for t in ("premium", "batch", "standard") * 50]

    worker = start_worker("--burst", "high", "low")

    assert worker.wait() == 0
    ended = views(connection, ids)
    assert {view.status for view in ended} == {"succeeded"}
    assert len({view.response["id"] for view in ended}) == len(ids)
    for view in ended:
        assert view.queued_at is not None
        assert view.started_at is not None
        assert view.first_token_at is not None
        assert view.finished_at is not None
        assert view.created_at <= view.queued_at <= view.started_at
        assert view.started_at <= view.first_token_at <= view.finished_at


def test_high_is_started_before_low_that_came_first(
    connection: Redis, submitter: Submitter, start_worker: StartWorker
) -> None:
    low = [submitter.submit(SHORT, tier="batch").id for _ in range(20)]
    high = [submitter.submit(SHORT, tier="premium").id for _ in range(20)]

    start_worker("--burst", "high", "low", SLALOM_MAX_INFLIGHT="10").wait()

    last_high = max(view.started_at for view in views(connection, high) if view.started_at)
    first_low = min(view.started_at for view in views(connection, low) if view.started_at)
    assert last_high <= first_low


def test_rq_knows_the_worker_and_forgets_it_when_it_ends(
    connection: Redis, submitter: Submitter, start_worker: StartWorker
) -> None:
    job = submitter.submit(SHORT, tier="premium")

    worker = start_worker()

    until(lambda: all_ended(connection, [job.id]))
    [known] = Worker.all(connection=connection)
    assert known.name == worker.name
    assert known.pid == worker.process.pid
    assert known.queue_names() == ["high", "low"]
    assert known.successful_job_count == 1
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    assert Worker.all(connection=connection) == []


def test_term_finishes_what_is_in_flight_and_claims_nothing_more(
    connection: Redis, submitter: Submitter, start_worker: StartWorker
) -> None:
    request = Request(endpoint="/v1/completions", body={"prompt": "1", "max_tokens": 100})
    ids = [submitter.submit(request, tier="batch").id for _ in range(30)]
    worker = start_worker("high", "low", SLALOM_MAX_INFLIGHT="20")
    until(lambda: num_inflight(connection) == 20)

    worker.signal(signal.SIGTERM)

    assert worker.wait() == 0
    statuses = [view.status for view in views(connection, ids)]
    assert statuses.count("succeeded") == 20
    assert statuses.count("queued") == 10


def test_a_second_term_hands_the_rest_back_uncharged(
    connection: Redis, submitter: Submitter, start_worker: StartWorker
) -> None:
    ids = [submitter.submit(LONG, tier="batch").id for _ in range(3)]
    worker = start_worker()
    until(lambda: num_inflight(connection) == 3)

    worker.signal(signal.SIGTERM)
    until(lambda: "worker draining" in worker.log)
    worker.signal(signal.SIGTERM)

    assert worker.wait() == 0
    assert {view.status for view in views(connection, ids)} == {"queued"}
    assert sorted(queue_of(connection, "low").job_ids) == sorted(ids)
    assert connection.hget(f"rq:job:{ids[0]}", "worker_deaths") is None


def test_jobs_of_a_worker_killed_with_sigkill_are_ended_by_the_next(
    connection: Redis, submitter: Submitter, start_worker: StartWorker
) -> None:
    request = Request(endpoint="/v1/completions", body={"prompt": "1", "max_tokens": 200})
    ids = [submitter.submit(request, tier="batch").id for _ in range(12)]
    victim = start_worker("high", "low", SLALOM_LEASE_S="1")
    until(lambda: num_inflight(connection) == 12)

    victim.signal(signal.SIGKILL)
    victim.wait()
    start_worker("high", "low")

    def ended() -> bool:
        rescue(connection, "low", max_deliveries=3)
        return all_ended(connection, ids)

    until(ended)
    assert {view.status for view in views(connection, ids)} == {"succeeded"}
    assert all(len(jobs.fetch(connection, job_id).results()) == 1 for job_id in ids)


def test_cancelling_one_of_many_leaves_the_others_alone(
    connection: Redis, submitter: Submitter, start_worker: StartWorker
) -> None:
    ids = [submitter.submit(LONG, tier="batch").id for _ in range(5)]
    start_worker()
    until(lambda: num_inflight(connection) == 5)

    cancel.cancel(connection, jobs.fetch(connection, ids[2]))

    until(lambda: num_inflight(connection) == 4)
    statuses = [view.status for view in views(connection, ids)]
    assert statuses == ["running", "running", "canceled", "running", "running"]
    assert jobs.fetch(connection, ids[2]).get_status() == JobStatus.STOPPED


def test_a_bad_request_fails_alone_at_once_and_clearly(
    connection: Redis, submitter: Submitter, start_worker: StartWorker
) -> None:
    good = [submitter.submit(SHORT, tier="batch").id for _ in range(5)]
    too_long = Request(endpoint="/v1/completions", body={"prompt": "x" * 20_000})
    bad = submitter.submit(too_long, tier="batch").id
    elsewhere = submitter.submit(Request(endpoint="/v1/poems", body={}), tier="batch").id

    start_worker("--burst", "low").wait()

    assert {view.status for view in views(connection, good)} == {"succeeded"}
    for view, said in zip(
        views(connection, [bad, elsewhere]), ["exceed", "/v1/poems is not served"], strict=True
    ):
        assert view.status == "failed"
        assert view.failure is not None
        assert view.failure["code"] == "invalid_request"
        assert said in view.failure["message"]
        assert "Traceback" not in view.failure["message"]


@pytest.mark.parametrize("arguments", [(), ("text",), ({"endpoint": "/v1/completions"},)])
def test_a_job_enqueued_with_the_wrong_arguments_fails_clearly(
    connection: Redis, start_worker: StartWorker, arguments: tuple[object, ...]
) -> None:
    job = queue_of(connection, "low").enqueue(jobs.FUNCTION, *arguments)

    start_worker("--burst", "low").wait()

    view = jobs.view(jobs.fetch(connection, job.id))
    assert view.failure is not None
    assert "takes one argument" in view.failure["message"]


def test_a_pickled_job_is_refused_not_unpickled(
    connection: Redis, start_worker: StartWorker
) -> None:
    job = Queue("low", connection=connection).enqueue("tests.callables.add", 1, 2)

    worker = start_worker("--burst", "low")

    assert worker.wait() == 0
    result = job.latest_result()
    assert result is not None
    assert "record is not JSON" in str(result.exc_string)
    assert job.get_status() == JobStatus.FAILED


def test_any_other_callable_runs_too(connection: Redis, start_worker: StartWorker) -> None:
    queue = queue_of(connection, "low")
    plain = queue.enqueue("tests.callables.add", 1, 2)
    coroutine = queue.enqueue("tests.callables.add_later", 3, 4)
    dependent = queue.enqueue("tests.callables.add", 5, 6, depends_on=plain)
    failing = queue.enqueue("tests.callables.fail", "broken", retry=Retry(max=1))

    start_worker("--burst", "low").wait()

    def fetched(job: Job) -> Job:
        return Job.fetch(job.id, connection=connection, serializer=JSONSerializer)

    assert [fetched(j).return_value() for j in (plain, coroutine, dependent)] == [3, 7, 11]
    failed = fetched(failing)
    assert failed.get_status() == JobStatus.FAILED
    assert failed.retries_left == 0
    assert "RuntimeError: broken" in latest(failed).exc_string


def test_every_callable_knows_its_own_job(connection: Redis, start_worker: StartWorker) -> None:
    queue = queue_of(connection, "low")
    functions = ["tests.callables.current_id", "tests.callables.current_id_later"] * 20
    enqueued = [queue.enqueue(function) for function in functions]

    start_worker("--burst", "low").wait()

    assert [job.return_value(refresh=True) for job in enqueued] == [job.id for job in enqueued]


def test_a_returned_retry_runs_the_job_again(connection: Redis, start_worker: StartWorker) -> None:
    job = queue_of(connection, "low").enqueue("tests.callables.again_once")

    start_worker("--burst", "low").wait()

    assert job.return_value(refresh=True) == "done"


def test_a_plain_function_that_loops_is_ended_by_its_timeout(
    connection: Redis, start_worker: StartWorker
) -> None:
    job = queue_of(connection, "low").enqueue("tests.callables.loop_for_ever", job_timeout=1)

    worker = start_worker("--burst", "low")

    assert worker.wait() == 0
    assert jobs.view(jobs.fetch(connection, job.id)).failure == {
        "code": "timeout",
        "message": "the job ran for more than 1 s",
    }


def test_a_job_past_its_timeout_fails_and_the_others_go_on(
    connection: Redis, submitter: Submitter, start_worker: StartWorker
) -> None:
    slow = queue_of(connection, "low").enqueue(jobs.FUNCTION, LONG, job_timeout=1)
    quick = submitter.submit(SHORT, tier="batch")

    start_worker("--burst", "low").wait()

    [timed_out, ended] = views(connection, [slow.id, quick.id])
    assert ended.status == "succeeded"
    assert timed_out.failure == {"code": "timeout", "message": "the job ran for more than 1 s"}


def test_plain_rqs_jobs_need_no_announcement(connection: Redis, start_worker: StartWorker) -> None:
    start_worker()

    job = queue_of(connection, "low").enqueue(jobs.FUNCTION, SHORT)

    until(lambda: all_ended(connection, [job.id]))


def test_max_jobs_and_the_shutdown_command_end_the_worker(
    connection: Redis, submitter: Submitter, start_worker: StartWorker
) -> None:
    for _ in range(5):
        submitter.submit(SHORT, tier="batch")

    assert start_worker("--max-jobs", "3", "low").wait() == 0
    assert len(queue_of(connection, "low").job_ids) == 2

    second = start_worker("low")
    send_shutdown_command(connection, second.name)
    assert second.wait() == 0


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (("--dequeue-strategy", "random", "high", "low"), {}, "tiers are served in rank order"),
        (("high",), {"SLALOM_ENGINE": "fast"}, "SLALOM_ENGINE"),
        (("high",), {"SLALOM_TIERS_FILE": "/nowhere.yaml"}, "cannot be read"),
    ],
)
def test_what_cannot_start_says_why_in_one_line_and_exits_non_zero(
    start_worker: StartWorker, arguments: tuple[str, ...], environment: dict[str, str], said: str
) -> None:
    worker = start_worker(*arguments, **environment)

    assert worker.wait() != 0
    assert said in worker.log
    assert "Traceback" not in worker.log
