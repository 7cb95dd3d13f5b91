"""What we write in RQ's place is what RQ writes: the two are compared key by key.

The same jobs run in RQ's own SimpleWorker and in GPUWorker; every key of a job, its fields, the
registries that hold it and the counters of its worker must be the same, instants and ids apart.
"""

from collections.abc import Callable

import pytest
from redis import Redis
from rq import Queue, Retry, SimpleWorker
from rq.job import Job
from rq.serializers import JSONSerializer

from tests.conftest import StartWorker

Snapshot = dict[str, object]

# What differs between two executions, whoever runs them.
INSTANTS = {"created_at", "enqueued_at", "started_at", "ended_at", "last_heartbeat"}
OURS = {"attempts"}  # fields that RQ does not know and leaves alone
NAMES = {
    "worker_name",
    "origin",
    "execution_id",
    "execution_started_at",
    "execution_ended_at",
    "dependency_id",
    "dependency_ids",
}


class TheirWorker(SimpleWorker):
    """RQ's own, deaf to commands, because its ear takes a second to close."""

    def subscribe(self) -> None:
        return


def by_rq(connection: Redis, start_worker: StartWorker) -> None:
    queue = Queue("theirs", connection=connection, serializer=JSONSerializer)
    TheirWorker([queue], connection=connection, serializer=JSONSerializer).work(burst=True)


def by_us(connection: Redis, start_worker: StartWorker) -> None:
    assert start_worker("--burst", "ours").wait() == 0


def enqueue(connection: Redis, name: str, function: str, *args: object, **options: object) -> Job:
    queue = Queue(name, connection=connection, serializer=JSONSerializer)
    return queue.enqueue(f"tests.callables.{function}", *args, **options)


def snapshot(connection: Redis, job: Job) -> Snapshot:
    """Return everything that Redis holds of a job, instants and names reduced to their presence."""
    result = connection.xrevrange(f"rq:results:{job.id}", count=1)
    hidden = {*INSTANTS, *NAMES}
    return {
        "hash": _reduced(connection.hgetall(job.key), hidden),
        "ttl": _bucket(connection.ttl(job.key)),
        "result": _reduced(result[0][1], hidden) if result else None,
        "result ttl": _bucket(connection.ttl(f"rq:results:{job.id}")),
        "executions": connection.exists(f"rq:executions:{job.id}"),
        "registries": {
            name: _score(connection, f"rq:{name}:{job.origin}", job.id)
            for name in ("finished", "failed", "canceled", "scheduled", "deferred")
        },
        "started": connection.zcard(f"rq:wip:{job.origin}"),
        "queue": connection.llen(f"rq:queue:{job.origin}"),
    }


def _reduced(fields: dict[bytes, bytes], hidden: set[str]) -> dict[str, object]:
    """Return the fields; of hidden ones, and of texts with addresses in them, only the presence."""
    texts = {"exc_info", "exc_string"}
    return {
        key.decode(): bool(value) if key.decode() in hidden | texts else value
        for key, value in fields.items()
        if key.decode() not in OURS
    }


def _score(connection: Redis, key: str, job_id: str) -> str | None:
    score = connection.zscore(key, job_id)
    return None if score is None else "for ever" if score == float("inf") else "for a while"


def _bucket(ttl: int) -> int:
    return ttl if ttl < 0 else round(ttl / 20)


@pytest.mark.parametrize(
    "enqueue_into",
    [
        lambda c, q: enqueue(c, q, "add", 1, 2),
        lambda c, q: enqueue(c, q, "nothing"),
        lambda c, q: enqueue(c, q, "echo", {"text": "é", "list": [1, None]}),
        lambda c, q: enqueue(c, q, "add", 1, 2, result_ttl=-1),
        lambda c, q: enqueue(c, q, "add", 1, 2, result_ttl=0),
        lambda c, q: enqueue(c, q, "add", 1, 2, result_ttl=77, ttl=500, meta={"k": "v"}),
        lambda c, q: enqueue(c, q, "fail", "broken", failure_ttl=123),
        lambda c, q: enqueue(c, q, "fail", "broken", retry=Retry(max=2, interval=[60, 90])),
        lambda c, q: enqueue(c, q, "fail", "broken", retry=Retry(max=1, interval=60), ttl=500),
    ],
    ids=["value", "none", "nested", "for ever", "not kept", "terms", "failure", "retry", "ttl"],
)
def test_an_ended_job_is_recorded_as_rq_records_it(
    connection: Redis,
    start_worker: StartWorker,
    enqueue_into: Callable[[Redis, str], Job],
) -> None:
    theirs, ours = enqueue_into(connection, "theirs"), enqueue_into(connection, "ours")

    by_rq(connection, start_worker)
    by_us(connection, start_worker)

    expected, found = snapshot(connection, theirs), snapshot(connection, ours)
    forget_what_we_add(found)
    assert found == expected


def forget_what_we_add(found: Snapshot) -> None:
    """The reason of a failure is in our meta, for the caller; RQ has no place for it."""
    fields = found["hash"]
    assert isinstance(fields, dict)
    if b"failure" in fields.get("meta", b""):
        del fields["meta"]


def test_nothing_is_left_of_an_execution(connection: Redis, start_worker: StartWorker) -> None:
    for function, args in (("add", (1, 2)), ("fail", ("broken",))):
        enqueue(connection, "ours", function, *args)

    by_us(connection, start_worker)

    left = connection.keys("rq:execution*")
    assert left == []


def test_counters_of_the_worker_are_rqs(connection: Redis, start_worker: StartWorker) -> None:
    for _ in range(3):
        enqueue(connection, "ours", "nothing")
    enqueue(connection, "ours", "fail", "broken")
    enqueue(connection, "ours", "fail", "broken", retry=Retry(max=1, interval=60))

    by_us(connection, start_worker)

    record = connection.hgetall("rq:worker:w0")
    assert record[b"successful_job_count"] == b"3"
    assert record[b"failed_job_count"] == b"2"
    assert float(record[b"total_working_time"]) > 0
    assert b"death" in record
