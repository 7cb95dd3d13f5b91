"""What RQ offers a job's producer: kept, and recorded as RQ's own workers record it."""

import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from rq import Callback, Queue, Repeat, Retry
from rq.command import send_stop_job_command
from rq.group import Group
from rq.job import Dependency, Job, JobStatus
from rq.serializers import JSONSerializer
from rq.webhook import Webhook

from scheduler.autoscaler.local_pool import worker_command
from tests import rq_callables
from tests.conftest import StartWorker, latest, until
from tests.contract.conftest import MODULE, Service, whole_name
from tests.contract.test_rq import Snapshot, TheirWorker, forget_what_we_add, snapshot

Produce = Callable[[Queue], Job]

ADD, FAIL, NOTHING = (f"tests.callables.{name}" for name in ("add", "fail", "nothing"))
NOWHERE = "http://127.0.0.1:9/"
CALLBACKS: dict[str, Any] = {
    "on_success": Callback(f"{MODULE}.on_success"),
    "on_failure": Callback(f"{MODULE}.on_failure"),
    "on_stopped": Callback(f"{MODULE}.on_stopped"),
}


def calling(function: str, *args: Any, **options: Any) -> Produce:
    return lambda queue: queue.enqueue(whole_name(function), *args, **options)


def after(parent: Produce, **options: Any) -> Produce:
    """Produce a job that waits for `parent`.

    A parent that needs telling is told afterwards: RQ's `enqueue` defers for ever what depends on
    a job that has failed already, `allow_failure` or not.
    """

    def enqueue(queue: Queue) -> Job:
        needed = parent(queue)
        job = queue.enqueue(ADD, 1, 2, depends_on=Dependency([needed], **options))
        queue.connection.set(f"go:{needed.id}", 1)
        return job

    return enqueue


def pushed_by_hand(queue: Queue) -> Job:
    job = queue.create_job(ADD, (1, 2))
    job.save()
    queue.push_job_id(job.id)
    return job


SAME_AS_RQ: dict[str, Produce] = {
    "retried at once until it has failed": calling(FAIL, "x", retry=Retry(max=2)),
    "retried later": calling(FAIL, "x", retry=Retry(max=2, interval=60)),
    "returns a retry": calling("tests.callables.again_once"),
    "returns too many retries": calling("always_again"),
    "out of time": calling("tests.callables.loop_for_ever", job_timeout=1),
    "raises a TimeoutError of its own": calling("own_timeout"),
    "callbacks after success": calling(ADD, 1, 2, **CALLBACKS),
    "callbacks after failure": calling(FAIL, "x", **CALLBACKS),
    "on_success raises": calling(NOTHING, on_success=Callback(f"{MODULE}.broken_callback")),
    "on_success is out of time": calling(
        NOTHING, on_success=Callback(f"{MODULE}.callback_for_ever", timeout=1)
    ),
    "on_success does not exist": calling(NOTHING, on_success=Callback(f"{MODULE}.nowhere")),
    "on_failure raises": calling(FAIL, "x", on_failure=Callback(f"{MODULE}.broken_callback")),
    "its function does not exist": calling("nowhere.at_all"),
    "exits": calling("leave"),
    "raises StopIteration": calling("stop_iterating"),
    "raises CancelledError": calling("give_up"),
    "changes its meta unsaved": calling("note_in_meta", meta={"a": 1}),
    "saves its meta": calling("save_in_meta", meta={"a": 1}),
    "repeats at once": calling(NOTHING, repeat=Repeat(times=2)),
    "repeats later": calling(NOTHING, repeat=Repeat(times=2, interval=60)),
    "unreachable webhook": calling(NOTHING, webhooks=[Webhook(NOWHERE, "finished")]),
    "its parent succeeded": after(calling(NOTHING)),
    "its parent failed": after(calling(FAIL, "x")),
    "its parent may fail": after(calling("fail_when_told"), allow_failure=True),
    "pushed by hand": pushed_by_hand,
}


RQ_LEAVES_OUT = ("ended_at", "execution_ended_at", "last_heartbeat", "worker_name")
"""What RQ's parent process does not know of a job that it stopped, and this worker does."""


@pytest.mark.parametrize("case", SAME_AS_RQ)
def test_a_job_leaves_what_it_leaves_under_rq(service: Service, case: str) -> None:
    connection, produce = service.connection, SAME_AS_RQ[case]
    their_queue = Queue("theirs", connection=connection, serializer=JSONSerializer)
    theirs, ours = produce(their_queue), produce(service.queue)

    TheirWorker([their_queue], serializer=JSONSerializer).work(burst=True)

    assert_same(service, ours, theirs)


def test_a_stopped_job_leaves_what_it_leaves_under_rqs_forking_worker(service: Service) -> None:
    produce = calling("until_told", **CALLBACKS)
    theirs = produce(Queue("forked", connection=service.connection, serializer=JSONSerializer))
    ours = produce(service.queue)

    with forking_worker(service.url, "forked"):
        service.wait_until_started(theirs, ours)
        for job in (theirs, ours):
            send_stop_job_command(service.connection, job.id, JSONSerializer)
        until(lambda: theirs.get_status() == ours.get_status() == JobStatus.STOPPED)
        until(lambda: seen(service, theirs) and service.is_at_rest())

    expected, held = snapshot(service.connection, theirs), found(service.connection, ours)
    assert without(held, *RQ_LEAVES_OUT) == without(expected, *RQ_LEAVES_OUT)
    assert seen(service, ours) == seen(service, theirs) == [{"on": "stopped"}]


def without(held: Snapshot, *fields: str) -> Snapshot:
    """Leave out fields of the job and of its result."""
    return {
        key: {k: v for k, v in value.items() if k not in fields}
        if isinstance(value, dict)
        else value
        for key, value in held.items()
    }


@contextmanager
def forking_worker(url: str, queue: str) -> Iterator[None]:
    [rq, *_] = worker_command()
    process = subprocess.Popen([rq, "worker", "-u", url, "-S", "json", "-q", queue])
    yield
    process.terminate()
    process.wait()


def assert_same(service: Service, ours: Job, theirs: Job) -> None:
    """Compare the two once ours is where theirs is, or will not come there."""
    expected = snapshot(service.connection, theirs)
    with suppress(AssertionError):
        until(lambda: service.is_at_rest() and ours.get_status(), give_up_s=30)
        until(lambda: found(service.connection, ours) == expected, give_up_s=5)
    assert found(service.connection, ours) == expected


def found(connection: Redis, job: Job) -> Snapshot:
    held = snapshot(connection, job)
    forget_what_we_add(held)
    return held


def seen(service: Service, job: Job) -> list[Any]:
    """Return what the callbacks of `job` noted."""
    return [json.loads(note) for note in service.connection.lrange(rq_callables.seen(job), 0, -1)]


def test_callbacks_get_what_rq_gives_them(service: Service) -> None:
    good, bad = (service.enqueue(*call, **CALLBACKS) for call in ((ADD, 1, 2), (FAIL, "x")))

    service.wait(good, bad)

    assert seen(service, good) == [{"on": "success", "status": "finished", "result": 3}]
    assert seen(service, bad) == [{"on": "failure", "status": "failed", "error": "RuntimeError"}]


def test_a_failed_on_success_is_told_to_on_failure(service: Service) -> None:
    callbacks = CALLBACKS | {"on_success": Callback(f"{MODULE}.broken_callback")}
    job = service.enqueue(NOTHING, **callbacks)

    service.wait(job)

    assert seen(service, job) == [{"on": "failure", "status": "failed", "error": "LookupError"}]


def test_a_stopped_job_is_stopped_though_on_stopped_raises(service: Service) -> None:
    job = service.enqueue("until_told", on_stopped=Callback(f"{MODULE}.broken_callback"))
    service.wait_until_started(job)

    send_stop_job_command(service.connection, job.id, JSONSerializer)

    service.wait(job)
    assert job.get_status() == JobStatus.STOPPED


def test_a_slow_callback_holds_up_no_other_job(service: Service) -> None:
    slow = service.enqueue(NOTHING, on_success=Callback(f"{MODULE}.callback_that_waits"))
    service.wait_until_started(slow)

    others = [service.enqueue(NOTHING, on_success=CALLBACKS["on_success"]) for _ in range(20)]
    service.wait(*others)

    assert slow.get_status() == JobStatus.STARTED
    service.go(slow)
    service.wait(slow)
    assert slow.get_status() == JobStatus.FINISHED


class Receiver(HTTPServer):
    """Receives webhooks, and answers when it is told to."""

    def __init__(self) -> None:
        self.received: list[dict[str, Any]] = []
        self.may_answer = threading.Event()
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.received.append(json.loads(body))
        self.server.may_answer.wait()
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Be silent."""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.may_answer.set()
        server.shutdown()
        thread.join()


def test_webhooks_are_sent_and_a_slow_receiver_holds_up_nobody(
    service: Service, receiver: Receiver
) -> None:
    hooks = [Webhook(receiver.url, kind, method="POST") for kind in ("finished", "failed")]
    first = service.enqueue(NOTHING, webhooks=hooks)
    until(lambda: receiver.received)

    second = service.enqueue(FAIL, "x", webhooks=hooks)
    service.wait(first, second)

    assert [hook["job_id"] for hook in receiver.received] == [first.id]  # it waits for its answer
    receiver.may_answer.set()
    until(lambda: len(receiver.received) == 2)
    told = [(hook["job_id"], hook["status"]) for hook in receiver.received]
    assert told == [(first.id, "finished"), (second.id, "failed")]
    assert "RuntimeError: x" in receiver.received[1]["exc_info"]


@pytest.mark.parametrize("outcome", ["finished", "failed"])
def test_what_others_write_into_a_running_jobs_meta_stays(service: Service, outcome: str) -> None:
    limit_s = 180 if outcome == "finished" else 1
    job = service.enqueue("until_told", meta={"a": 1}, job_timeout=limit_s)
    service.wait_until_started(job)

    job.meta["b"] = 2
    job.save_meta()
    if outcome == "finished":
        service.go(job)
    service.wait(job)

    assert job.get_status() == outcome
    assert job.get_meta() | {"a": 1, "b": 2} == job.get_meta()


def test_a_plain_function_may_return_a_coroutine(service: Service) -> None:
    job = service.enqueue("coroutine")

    service.wait(job)

    assert job.return_value(refresh=True) == 3


def test_the_text_of_a_failure_is_rqs(service: Service) -> None:
    late = service.enqueue("tests.callables.loop_for_ever", job_timeout=1)
    own = service.enqueue("own_timeout")

    service.wait(late, own)

    assert "rq.timeouts.JobTimeoutException" in latest(late).exc_string
    assert "TimeoutError: its own" in latest(own).exc_string
    assert own.get_meta()["failure"]["code"] == "job_failed"


def test_a_group_runs_and_can_be_asked(service: Service) -> None:
    group = Group.create(service.connection)
    jobs = group.enqueue_many(service.queue, [Queue.prepare_data(ADD, (n, n)) for n in range(5)])

    service.wait(*jobs)

    assert {job.id for job in group.get_jobs()} == {job.id for job in jobs}
    assert [job.return_value(refresh=True) for job in jobs] == [0, 2, 4, 6, 8]


def test_a_job_past_its_ttl_never_runs(service: Service, tmp_path: Path) -> None:
    suspended, trace = Queue("later", connection=service.connection), tmp_path / "trace"
    suspended.serializer = JSONSerializer
    job = suspended.enqueue(f"{MODULE}.touch", str(trace), ttl=1)
    until(lambda: not service.connection.exists(job.key))

    service.connection.rename(suspended.key, service.queue.key)

    until(service.queue.is_empty)
    last = service.enqueue(NOTHING)
    service.wait(last)
    assert not trace.exists()


def test_a_function_that_never_returns_does_not_keep_the_worker(
    connection: Redis, start_worker: StartWorker
) -> None:
    queue = Queue("low", connection=connection, serializer=JSONSerializer)
    job = queue.enqueue(f"{MODULE}.sleep", 3600)
    worker = start_worker("low")
    until(lambda: job.get_status() == JobStatus.STARTED)

    worker.process.terminate()
    until(lambda: "worker draining" in worker.log)
    worker.process.terminate()

    assert worker.wait() == 0
    assert job.get_status() == JobStatus.QUEUED
