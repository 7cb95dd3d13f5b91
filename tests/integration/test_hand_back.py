"""A worker that stops hands its jobs back with what they have, and the next one does the rest."""

import re
import signal
from dataclasses import replace

import pytest
from redis import Redis
from rq import Queue
from rq.command import send_kill_horse_command, send_stop_job_command
from rq.job import JobStatus
from rq.serializers import JSONSerializer

from scheduler import cancel, jobs, keys, so_far
from scheduler.jobs import JobView, Request
from scheduler.rescue import rescue
from scheduler.so_far import SoFar
from scheduler.submit import Submitter
from tests.conftest import RunningWorker, StartWorker, until
from tests.integration.test_claim import claims_of, submit

NUM_JOBS, NUM_TOKENS = 3, 1500
REQUEST = Request(endpoint="/v1/completions", body={"prompt": "1+1=", "max_tokens": NUM_TOKENS})
SO_FAR = SoFar((4, 5), "45")


def view(connection: Redis, job_id: str) -> JobView:
    return jobs.view(jobs.fetch(connection, job_id))


def started(connection: Redis) -> int:
    return int(connection.zcard(keys.started("low")))


def submitted(submitter: Submitter) -> list[str]:
    return [submitter.submit(REQUEST, tier="batch").id for _ in range(NUM_JOBS)]


def num_computed(worker: RunningWorker) -> int:
    """Return the output tokens that a worker's engine computed, from its last words."""
    [num_tokens] = re.findall(r"event=engine.stopped num_tokens=(\d+)", worker.log)
    return int(num_tokens)


def num_kept(connection: Redis, job_id: str) -> int:
    kept = connection.hget(f"rq:job:{job_id}", "so_far")
    read = so_far.loads(kept, job_id=job_id) if kept else None
    return len(read.token_ids) if read else 0


def assert_answered(connection: Redis, ids: list[str]) -> None:
    for job_id in ids:
        ended = view(connection, job_id)
        assert ended.status == "succeeded"
        assert ended.response["usage"]["completion_tokens"] == NUM_TOKENS
        [choice] = ended.response["choices"]
        assert choice["text"] == f"[simulated: {NUM_TOKENS} tokens]"
        assert choice["finish_reason"] == "length"
        assert len(jobs.fetch(connection, job_id).results()) == 1
        assert connection.hmget(f"rq:job:{job_id}", "so_far", "resumed") == [None, None]


@pytest.mark.parametrize("num_signals", [1, 2])
def test_the_next_worker_computes_only_what_is_missing(
    connection: Redis, submitter: Submitter, start_worker: StartWorker, num_signals: int
) -> None:
    ids = submitted(submitter)
    first = start_worker("low", SLALOM_DRAIN_S="1" if num_signals == 1 else "60")
    until(lambda: started(connection) == NUM_JOBS)

    first.signal(signal.SIGTERM)
    if num_signals == 2:
        until(lambda: "worker draining" in first.log)
        first.signal(signal.SIGTERM)
    assert first.wait() == 0
    kept = [num_kept(connection, job_id) for job_id in ids]
    statuses = {view(connection, job_id).status for job_id in ids}
    second = start_worker("--burst", "low")

    assert second.wait() == 0
    assert statuses == {"queued"}
    assert sum(kept) == num_computed(first)
    assert sum(kept) or num_signals == 2  # then it may have been too soon
    assert num_computed(second) == NUM_JOBS * NUM_TOKENS - sum(kept)
    assert_answered(connection, ids)


@pytest.mark.vllm
@pytest.mark.slow
def test_on_vllm_an_answer_by_two_workers_is_that_by_one(
    connection: Redis, submitter: Submitter, start_worker: StartWorker
) -> None:
    body = {
        "model": "adder",
        "prompt": "128+256=",
        "temperature": 0,
        "ignore_eos": True,
        "logit_bias": {"2": -100},
        "return_token_ids": True,
    }
    lengths = {}  # two, so that the seats never all change hands in one step
    for num_tokens in [200, 130] * 20:
        request = Request(endpoint="/v1/completions", body=body | {"max_tokens": num_tokens})
        lengths[submitter.submit(request, tier="batch").id] = num_tokens
    vllm = {"SLALOM_ENGINE": "vllm", "SLALOM_VLLM_ARGS": "--max-num-seqs 4"}

    first = start_worker("--burst", "low", SLALOM_DRAIN_S="0", **vllm)
    until(lambda: connection.zcard("rq:finished:low"), give_up_s=240)
    first.signal(signal.SIGTERM)
    assert first.wait() == 0
    ended = {job_id for job_id in lengths if view(connection, job_id).status == "succeeded"}
    num_ended = sum(lengths[job_id] for job_id in ended)
    kept = sum(num_kept(connection, job_id) for job_id in lengths)
    second = start_worker("--burst", "low", **vllm)

    assert second.process.wait(timeout=240) == 0
    assert 0 < len(ended) < len(lengths)
    assert kept > 0
    assert num_computed(first) == num_ended + kept
    assert num_computed(second) == sum(lengths.values()) - num_ended - kept
    answers = {
        (num_tokens, str(view(connection, job_id).response["choices"]))
        for job_id, num_tokens in lengths.items()
    }
    assert len(answers) == 2
    assert all("length" in answer for _, answer in answers)


def test_after_sigkill_everything_starts_over(
    connection: Redis, submitter: Submitter, start_worker: StartWorker
) -> None:
    ids = submitted(submitter)
    first = start_worker("low", SLALOM_LEASE_S="1")
    until(lambda: started(connection) == NUM_JOBS)

    first.signal(signal.SIGKILL)
    first.wait()

    def rescued() -> bool:
        rescue(connection, "low", max_deliveries=3)
        return not started(connection)

    until(rescued)
    second = start_worker("--burst", "low")

    assert second.wait() == 0
    assert num_computed(second) == NUM_JOBS * NUM_TOKENS
    assert_answered(connection, ids)


@pytest.mark.parametrize("how", ["api", "rq"])
def test_a_job_cancelled_while_it_runs_shows_what_there_is(
    connection: Redis, submitter: Submitter, start_worker: StartWorker, how: str
) -> None:
    [job_id, other, _] = submitted(submitter)
    worker = start_worker("low", SLALOM_LOG_LEVEL="DEBUG")
    until(lambda: worker.log.count("job claimed") == NUM_JOBS)

    if how == "api":
        cancel.cancel(connection, jobs.fetch(connection, job_id))
    else:
        send_stop_job_command(connection, job_id)

    until(lambda: view(connection, job_id).status == "canceled")
    until(lambda: started(connection) == NUM_JOBS - 1)
    job, ended = jobs.fetch(connection, job_id), view(connection, job_id)
    assert job.get_status() == JobStatus.STOPPED
    assert ended.response["choices"][0]["finish_reason"] == "abort"
    assert ended.response["usage"]["completion_tokens"] < NUM_TOKENS
    assert view(connection, other).status == "running"
    assert worker.process.poll() is None


def test_a_job_killed_on_command_shows_what_there_is(
    connection: Redis, start_worker: StartWorker
) -> None:
    job = Queue("low", connection=connection, serializer=JSONSerializer).enqueue(
        jobs.FUNCTION, REQUEST
    )
    worker = start_worker("low", SLALOM_LOG_LEVEL="DEBUG")
    until(lambda: "job claimed" in worker.log)

    send_kill_horse_command(connection, worker.name)

    until(lambda: view(connection, job.id).status == "failed")
    ended = view(connection, job.id)
    assert ended.failure is not None
    assert ended.failure["code"] == "killed"
    assert ended.response["choices"][0]["finish_reason"] == "abort"


def test_what_a_job_has_goes_from_a_release_to_the_next_claim_twice(
    connection: Redis, submitter: Submitter
) -> None:
    [job_id] = submit(submitter, "batch", 1)
    claims = claims_of(connection)
    taken = []

    for _ in range(so_far.MOST_RESUMED + 2):
        [claim] = claims.take(1)
        taken.append(claim.so_far)
        assert connection.hget(f"rq:job:{job_id}", "so_far") is None
        claims.release([replace(claim, so_far=SO_FAR)])

    assert taken == [None, SO_FAR, SO_FAR, None]
    assert connection.hget(f"rq:job:{job_id}", "resumed") == b"2"


@pytest.mark.parametrize(
    "has",
    [None, SoFar((), ""), SoFar((7,), "x" * so_far.MOST_BYTES)],
    ids=["nothing", "no token", "too much"],
)
def test_a_job_that_has_nothing_or_too_much_starts_over(
    connection: Redis, submitter: Submitter, has: SoFar | None
) -> None:
    [job_id] = submit(submitter, "batch", 1)
    claims = claims_of(connection)

    [claim] = claims.take(1)
    claims.release([replace(claim, so_far=has)])

    assert connection.hget(f"rq:job:{job_id}", "so_far") is None


@pytest.mark.parametrize(
    "kept",
    [
        b"\xff{",
        b"[1]",
        b"[" * 100_000,
        b'{"token_ids": [], "text": ""}',
        b'{"token_ids": [true, -1], "text": ""}',
        b'{"token_ids": [4], "text": 5}',
        b'{"token_ids": [4], "text": "of another engine"}',
    ],
)
def test_damaged_output_is_ignored(
    connection: Redis, submitter: Submitter, start_worker: StartWorker, kept: bytes
) -> None:
    request = Request(endpoint="/v1/completions", body={"prompt": "1+1=", "max_tokens": 5})
    job = submitter.submit(request, tier="batch")
    connection.hset(job.key, "so_far", kept)

    worker = start_worker("--burst", "low")

    assert worker.wait() == 0
    assert view(connection, job.id).response["choices"][0]["text"] == "[simulated: 5 tokens]"
    assert "starts over" in worker.log


def test_a_cancelled_job_that_waits_keeps_nothing(connection: Redis, submitter: Submitter) -> None:
    [job_id] = submit(submitter, "batch", 1)
    claims = claims_of(connection)
    [claim] = claims.take(1)
    claims.release([replace(claim, so_far=SO_FAR)])

    cancel.cancel(connection, jobs.fetch(connection, job_id))

    assert connection.hmget(f"rq:job:{job_id}", "so_far", "resumed") == [None, None]
